"""Preparing keeps what is needed, drops what would leak, and says so."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from muster.products import ProductFileError
from tests.training.conftest import Workplace
from tests.training.tiny import write_workplace
from training.data.splits import split_of
from training.models.networks import pretrained_folder
from training.prepare import load_classes, load_prepared, load_sequences, main, prepare
from training.recipe import DataSet, RecipeError, SplitRecipe


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Only prepared: what later stages do is of no interest here."""
    folder = tmp_path_factory.mktemp("prepared")
    recipe = write_workplace(folder)
    prepare(recipe, folder / "data", folder / "run")
    return Workplace(recipe, folder / "data", folder / "run")


def test_everything_that_was_prepared_is_read_back(workplace: Workplace) -> None:
    prepared = load_prepared(workplace.run)
    assert len(prepared.products["shop"]) == 240
    assert all(key == product.product_id for key, product in prepared.products["shop"].items())
    train, dev = prepared.of("shop", "train"), prepared.of("shop", "dev")
    assert train and dev
    assert all(query.gains for query in train)


def test_the_cut_vocabulary_splits_query_texts_as_the_whole_one_does(workplace: Workplace) -> None:
    prepared = load_prepared(workplace.run)
    whole = Tokenizer.from_file(str(pretrained_folder(workplace.recipe.pretrained) / "tokenizer.json"))
    whole.no_padding()
    for query in prepared.queries:
        old = whole.encode(query.text)
        new = prepared.tokenizer.encode(query.text)
        assert new.tokens == old.tokens
        assert [prepared.kept_tokens[number] for number in new.ids] == old.ids


def test_the_cut_vocabulary_still_spells_words_it_does_not_hold(workplace: Workplace) -> None:
    encoding = load_prepared(workplace.run).tokenizer.encode("zyxwvq", add_special_tokens=False)
    assert "[UNK]" not in encoding.tokens
    assert "".join(token.removeprefix("##") for token in encoding.tokens) == "zyxwvq"


def test_the_tokenizer_neither_pads_nor_cuts(workplace: Workplace) -> None:
    value = json.loads((workplace.run / "prepared" / "tokenizer.json").read_text())
    assert value["padding"] is None
    assert value["truncation"] is None


def made(**settings: Any) -> DataSet:
    """A further set of the recipe, made up."""
    return DataSet(**({"licence": "none", "source": "made up", "role": "classes"} | settings))


def copy_shop(workplace: Workplace, data: Path, *, splits: list[str] | None = None) -> Path:
    """The tiny shop under `data`, its queries with other splits ([]: without any)."""
    shop = data / "shop"
    shop.mkdir(parents=True)
    for name in ("products.parquet", "labels.parquet"):
        (shop / name).write_bytes((workplace.data / "shop" / name).read_bytes())
    table = pq.read_table(workplace.data / "shop" / "queries.parquet")
    if splits is not None:
        table = table.drop_columns(["split"])
        if splits:
            table = table.append_column("split", pa.array((splits * len(table))[: len(table)]))
    pq.write_table(table, shop / "queries.parquet")
    return shop


def test_a_set_without_splits_is_split_by_its_queries(workplace: Workplace, tmp_path: Path) -> None:
    copy_shop(workplace, tmp_path / "data", splits=[])
    shares = SplitRecipe(train=0.5, dev=0.3, test=0.2, near_duplicate=1.0)
    prepare(replace(workplace.recipe, splits=shares), tmp_path / "data", tmp_path / "run")
    queries = load_prepared(tmp_path / "run").queries
    assert {one.split for one in queries} == {"train", "dev", "test"}
    assert all(one.split == split_of(one.text, shares, workplace.recipe.seed) for one in queries)


def test_training_queries_that_leak_are_dropped_and_told(workplace: Workplace, tmp_path: Path) -> None:
    shop = copy_shop(workplace, tmp_path / "data")
    rows = pq.read_table(shop / "queries.parquet").to_pylist()
    dev = next(row for row in rows if row["split"] == "dev")
    rows.append({"query_id": "leak", "query": dev["query"].upper() + "!", "split": "train"})
    pq.write_table(pa.Table.from_pylist(rows), shop / "queries.parquet")
    summary = prepare(workplace.recipe, tmp_path / "data", tmp_path / "run")
    assert "leak" not in {one.query_id for one in load_prepared(tmp_path / "run").queries}
    assert summary["dropped_for_leakage"] == summary["leakage"]["dropped"] >= 1
    examples = summary["leakage"]["kinds"]["same words"]["examples"]
    assert {"set": "shop", "id": "leak", "split": "train", "text": dev["query"].upper() + "!"} in [
        one["dropped"] for one in examples
    ]


def test_classes_and_behaviour_are_kept_for_later_stages(workplace: Workplace, tmp_path: Path) -> None:
    copy_shop(workplace, tmp_path / "data")
    (tmp_path / "data" / "c.csv").write_text(
        "text,label,split\nfine,good,train\npoor,bad,train\npoor!,bad,dev\nwell,,unlabeled\n"
    )
    (tmp_path / "data" / "s.csv").write_text("user_id,items\n7,a b a\n8,c\n")
    sets = [
        *workplace.recipe.data,
        made(name="moods", folder="c.csv", classes=["good", "bad"]),
        made(name="clicks", folder="s.csv", role="behaviour"),
    ]
    with pytest.raises(RecipeError, match=r"data\.moods .*c\.csv.*1 classes"):
        # "poor" leaks from dev, so one class is left.
        prepare(replace(workplace.recipe, data=sets), tmp_path / "data", tmp_path / "run")
    (tmp_path / "data" / "c.csv").write_text(
        "text,label,split\nfine,good,train\npoor,bad,train\nweak,bad,dev\nwell,,unlabeled\n"
    )
    summary = prepare(replace(workplace.recipe, data=sets), tmp_path / "data", tmp_path / "run")
    assert [(one.split, one.text, one.label) for one in load_classes(tmp_path / "run")] == [
        ("train", "fine", "good"),
        ("train", "poor", "bad"),
        ("dev", "weak", "bad"),
        ("unlabelled", "well", None),
    ]
    assert [(one.user_id, one.items) for one in load_sequences(tmp_path / "run")] == [
        ("7", ("a", "b", "a")),
        ("8", ("c",)),
    ]
    assert summary["sets"]["clicks"]["behaviour"]["interactions"] == 4
    assert summary["sets"]["moods"]["classes"] == {
        "bad": {"dev": 1, "train": 1},
        "good": {"train": 1},
        "none": {"unlabelled": 1},
    }


def test_runs_without_classes_and_behaviour_have_none(workplace: Workplace) -> None:
    assert load_classes(workplace.run) == []
    assert load_sequences(workplace.run) == []


def test_a_class_without_training_texts_is_refused(workplace: Workplace, tmp_path: Path) -> None:
    copy_shop(workplace, tmp_path / "data")
    (tmp_path / "data" / "c.csv").write_text(
        "text,label,split\nfine,good,train\npoor,bad,train\nso,middling,dev\n"
    )
    moods = made(name="moods", folder="c.csv")
    recipe = replace(workplace.recipe, data=[*workplace.recipe.data, moods])
    with pytest.raises(RecipeError, match=r"data\.moods .*no training text has the class middling"):
        prepare(recipe, tmp_path / "data", tmp_path / "run")


def test_one_query_is_too_few_to_measure_on(workplace: Workplace, tmp_path: Path) -> None:
    shop = copy_shop(workplace, tmp_path / "data")
    table = pq.read_table(shop / "queries.parquet")
    pq.write_table(table.filter(pc.equal(table["split"], "train")).slice(0, 1), shop / "queries.parquet")
    with pytest.raises(RecipeError, match=r"data\.shop .*1 labelled training queries do not fill 2 folds"):
        prepare(workplace.recipe, tmp_path / "data", tmp_path / "run")


def test_queries_without_a_relevant_product_are_too_little(workplace: Workplace, tmp_path: Path) -> None:
    shop = copy_shop(workplace, tmp_path / "data")
    table = pq.read_table(shop / "labels.parquet")
    zeros = pa.array([0.0] * len(table))
    pq.write_table(table.set_column(2, "gain", zeros), shop / "labels.parquet")
    with pytest.raises(RecipeError, match="no training query has a product with a gain above 0"):
        prepare(workplace.recipe, tmp_path / "data", tmp_path / "run")


def test_the_card_counts_what_was_prepared(workplace: Workplace) -> None:
    folder = workplace.run / "prepared"
    told = json.loads((folder / "data.json").read_text())["sets"]["shop"]
    queries = load_prepared(workplace.run).queries
    assert told["products"] == 240
    assert sum(told["queries"].values()) == len(queries)
    assert told["labels"] == sum(len(one.gains) for one in queries)
    assert told["labels"] == sum(count for splits in told["grades"].values() for count in splits.values())
    assert told["scripts"] == {"Latin": 1.0}
    assert told["missing"]["title"] == 0.0 < told["missing"]["stock"] < 1.0
    files = {name: found["sha256"] for name, found in told["files"].items()}
    for name in ("queries", "products", "labels"):
        content = (workplace.data / "shop" / f"{name}.parquet").read_bytes()
        assert files[f"shop/{name}.parquet"] == hashlib.sha256(content).hexdigest()
    card = (folder / "data_card.md").read_text()
    for part in ("# Data of tiny", "## Leakage between splits", "made up", files["shop/labels.parquet"]):
        assert part in card


def test_a_failed_preparation_leaves_the_older_one_as_it_was(workplace: Workplace, tmp_path: Path) -> None:
    shop = copy_shop(workplace, tmp_path / "data")
    prepare(workplace.recipe, tmp_path / "data", tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run" / "prepared").iterdir()}
    (shop / "labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(ProductFileError, match=r"labels\.parquet"):
        prepare(workplace.recipe, tmp_path / "data", tmp_path / "run")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run" / "prepared").iterdir()} == before
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["prepared"]


def test_a_kill_while_writing_leaves_the_older_one_as_it_was(
    workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(workplace.recipe, workplace.data, tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "prepared").iterdir()}

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("training.prepare.card_markdown", full)
        with pytest.raises(OSError, match="No space left"):
            prepare(workplace.recipe, workplace.data, tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "prepared").iterdir()} == before
    prepare(workplace.recipe, workplace.data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]


def test_a_kill_between_the_renames_is_made_good(workplace: Workplace, tmp_path: Path) -> None:
    prepare(workplace.recipe, workplace.data, tmp_path)
    folder = tmp_path / "prepared"
    shutil.copytree(folder, tmp_path / "prepared.part")
    folder.rename(tmp_path / "prepared.old")
    assert len(load_prepared(tmp_path).products["shop"]) == 240
    prepare(workplace.recipe, workplace.data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]


def test_the_command_prints_the_card_or_what_is_wrong(
    workplace: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = workplace.data.parent / "recipe.toml"
    arguments = ["--recipe", str(recipe), "--run", str(tmp_path / "run"), "--data"]
    assert main([*arguments, str(workplace.data)]) == 0
    assert "# Data of tiny" in capsys.readouterr().out
    assert main([*arguments, str(tmp_path / "nowhere")]) == 2
    assert "data.shop.folder" in capsys.readouterr().err


def test_without_a_labelled_training_query_nothing_is_prepared(workplace: Workplace, tmp_path: Path) -> None:
    copy_shop(workplace, tmp_path, splits=["dev"])
    with pytest.raises(RecipeError, match="no labelled training query"):
        prepare(workplace.recipe, tmp_path, tmp_path / "run")


def test_a_run_that_was_not_prepared_names_the_stage_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"training\.prepare"):
        load_prepared(tmp_path)
