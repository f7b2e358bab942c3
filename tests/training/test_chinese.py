"""Chinese text, from files to the engine, with an English model as the start."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from muster.products import read_products
from muster.v1 import catalogue_pb2
from tests.training.tiny import RECIPE, write_pretrained
from training.data.batches import Specials, by_length, pieces_of, text_batch
from training.encoder import train_encoder
from training.models.networks import NEW_ROW, Encoder, pretrained_folder
from training.prepare import Prepared, load_classes, load_prepared, prepare
from training.recipe import DEFAULT_RECIPE, Recipe, UnlabelledRecipe, load_recipe

rankcore = pytest.importorskip("rankcore._native", reason="the extension is not built: `make build`")

from training.engine import Catalogue, open_catalogue  # noqa: E402
from training.export import DRAFT, write_draft  # noqa: E402
from training.golden import TOLERANCE, Reference  # noqa: E402
from training.quantise import quantise  # noqa: E402

CLUE_RECIPE = DEFAULT_RECIPE.with_name("clue.toml")

TITLES = {
    "bottle": "不锈钢保温杯 500毫升",
    "child": "儿童保温水杯 带吸管",
    "earphones": "蓝牙无线耳机 降噪",
    "shoes": "男士运动跑步鞋",
    "coat": "女士羽绒服 冬季加厚",
    "keyboard": "机械键盘 青轴",
    "case": "苹果手机壳 透明",
    "kettle": "电热水壶 1.7升",
}
QUERIES = {
    "保温杯": ("bottle", "child"),
    "无线耳机": ("earphones",),
    "手机壳": ("case",),
    "跑步鞋": ("shoes",),
}


def write_shop(folder: Path) -> None:
    """A Chinese shop made by hand: titles, queries in three splits, every product judged."""
    folder.mkdir(parents=True)

    def lines(rows: Sequence[dict[str, str]]) -> str:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    products = [{"product_id": key, "title": title} for key, title in TITLES.items()]
    splits = ("train", "train", "train", "dev")
    queries = [
        {"query_id": text, "query": text, "split": split} for text, split in zip(QUERIES, splits, strict=True)
    ]
    (folder / "products.jsonl").write_text(lines(products))
    (folder / "queries.jsonl").write_text(lines(queries))
    labels = [
        f"{text},{key},{3 if key in wanted else 0}" for text, wanted in QUERIES.items() for key in TITLES
    ]
    (folder / "labels.csv").write_text("\n".join(["query_id,product_id,gain", *labels]) + "\n")


@dataclass(frozen=True)
class Shop:
    """The shop in an engine."""

    recipe: Recipe
    run: Path
    catalogue: Catalogue


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The shop in an engine, with a tiny bundle whose pretrained model knew no Chinese character."""
    folder = tmp_path_factory.mktemp("chinese")
    torch.set_num_threads(1)
    write_shop(folder / "data" / "shop")
    pretrained = write_pretrained(folder / "pretrained", [])
    text = RECIPE.format(pretrained=pretrained)
    (folder / "recipe.toml").write_text(
        text.replace("count_min = 1", "count_min = 1\nadded_max = 200\nadded_count_min = 1", 1)
    )
    recipe = load_recipe(folder / "recipe.toml")
    run = folder / "run"
    prepare(recipe, folder / "data", run)
    train_encoder(recipe, run)
    quantise(recipe, run)
    write_draft(recipe, run)
    products = read_products(folder / "data" / "shop")
    with open_catalogue(run / DRAFT, products, cache=folder / "catalogues") as catalogue:
        yield Shop(recipe, run, catalogue)


def test_a_chinese_shop_is_prepared_without_an_unknown_character(shop: Shop) -> None:
    prepared = load_prepared(shop.run)
    assert NEW_ROW in prepared.kept_tokens
    for text in (*TITLES.values(), *QUERIES):
        tokens = prepared.tokenizer.encode(text, add_special_tokens=False).tokens
        assert "".join(token.removeprefix("##") for token in tokens) == text.replace(" ", "")
    told = json.loads((shop.run / "prepared" / "data.json").read_text())["sets"]["shop"]
    assert told["scripts"] == {"Han": 1.0}
    assert told["unknown_characters"] == {"products": 0.0, "queries": 0.0}


@pytest.mark.parametrize("query", [*QUERIES, TITLES["kettle"]])
def test_the_engine_reads_added_characters_as_training_does(shop: Shop, query: str) -> None:
    reference = Reference(
        load_prepared(shop.run).tokenizer, shop.recipe.text, shop.run / "onnx" / "encoder.onnx", {}
    )
    found = shop.catalogue.signals(query, "late", product_ids=list(TITLES), width=len(TITLES))
    for name in ("dense", "late"):
        products = [catalogue_pb2.Product(title=TITLES[key]) for key in found.product_ids]
        wanted = np.array([reference.scores(query, product)[name] for product in products], dtype=np.float64)
        np.testing.assert_allclose(found.column(name), wanted, atol=TOLERANCE[name], rtol=0)
        # Were the characters all the same to the engine, its scores would not follow.
        assert np.corrcoef(found.column(name), wanted)[0, 1] > 0.9


@pytest.mark.parametrize(
    ("query", "wanted"), [("不锈钢保温杯", "bottle"), ("降噪", "earphones"), ("青轴 机械键盘", "keyboard")]
)
def test_words_set_apart_in_a_title_are_found_by_their_letters(shop: Shop, query: str, wanted: str) -> None:
    assert shop.catalogue.search(query, "lexical", 0, len(TITLES))[0][0] == wanted


@pytest.mark.parametrize(("query", "wanted"), QUERIES.items())
def test_a_word_inside_a_run_of_characters_is_found(shop: Shop, query: str, wanted: tuple[str, ...]) -> None:
    assert {key for key, _ in shop.catalogue.search(query, "lexical", 0, len(TITLES))} == set(wanted)


# -- real sets ----------------------------------------------------------


@dataclass(frozen=True)
class Clue:
    """The recipe for Chinese, prepared, and its encoder with a projection that was hardly fitted."""

    recipe: Recipe
    run: Path
    prepared: Prepared
    encoder: Encoder


@pytest.fixture(scope="module")
def clue(tmp_path_factory: pytest.TempPathFactory) -> Clue:
    if "MUSTER_DATA" not in os.environ:
        pytest.skip("MUSTER_DATA names no folder with real data sets")
    data = Path(os.environ["MUSTER_DATA"])
    recipe = load_recipe(CLUE_RECIPE)
    missing = [one.folder for one in recipe.data if not (data / one.folder).is_file()]
    if missing:
        pytest.skip(f"MUSTER_DATA has no {missing[0]}")
    try:
        pretrained_folder(recipe.pretrained)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("clue")
    # Zero-shot: what `unlabelled` adds takes minutes.
    recipe = replace(
        recipe,
        unlabelled=UnlabelledRecipe(),
        encoder=replace(recipe.encoder, sample=300, steps=50),
    )
    prepare(recipe, data, run)
    return Clue(recipe, run, load_prepared(run), train_encoder(recipe, run))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_chinese_sets_are_prepared_with_all_but_a_hundredth_of_their_characters(clue: Clue) -> None:
    told = json.loads((clue.run / "prepared" / "data.json").read_text())
    for name in ("bustm", "eprstmt", "tnews"):
        facts = told["sets"][name]
        assert facts["scripts"]["Han"] > 0.9
        assert max(facts["unknown_characters"].values()) < 0.01, name
    # Counted again, from the tokens of the texts themselves.
    texts = [one.text for one in load_classes(clue.run)] + [one.text for one in clue.prepared.queries]
    encodings = clue.prepared.tokenizer.encode_batch(texts, add_special_tokens=False)
    unknown = sum(encoding.tokens.count("[UNK]") for encoding in encodings)
    assert unknown < 0.01 * sum(len(text) for text in texts)
    assert {one.label for one in load_classes(clue.run) if one.set == "eprstmt"} == {
        "Positive",
        "Negative",
        None,
    }
    assert len({one.label for one in load_classes(clue.run) if one.set == "tnews"} - {None}) == 15


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_questions_that_mean_the_same_are_more_alike_than_others(clue: Clue) -> None:
    pairs = [
        (query.text, clue.prepared.products["bustm"][key].title, gain)
        for query in clue.prepared.of("bustm", "dev")
        for key, gain in query.gains.items()
    ]
    vectors = dense(clue, [text for pair in pairs for text in pair[:2]])
    scores = (vectors[0::2] * vectors[1::2]).sum(axis=1)
    same = np.array([gain > 0 for *_, gain in pairs])
    area, low, high = area_with_interval(scores, same, seed=clue.recipe.seed)
    print(f"BUSTM dev, {len(pairs)} pairs: AUC {area:.3f} [{low:.3f}, {high:.3f}]")
    assert low > 0.5


def dense(clue: Clue, texts: Sequence[str]) -> NDArray[np.float32]:
    """Dense vectors of texts, float32 [n, H]."""
    rows = pieces_of(clue.prepared.tokenizer, texts, clue.recipe.text.query_tokens_max)
    specials = Specials.of(clue.prepared.tokenizer)
    found = np.empty((len(rows), clue.encoder.stack.shape.width), dtype=np.float32)
    with torch.inference_mode():
        for batch in by_length(rows, 64):
            found[batch] = clue.encoder(*text_batch([rows[at] for at in batch], specials))[0].numpy()
    return found


def area_with_interval(
    scores: NDArray[np.float32], same: NDArray[np.bool_], *, seed: int, rounds: int = 2000
) -> tuple[float, float, float]:
    """Area under the ROC curve, and its 95 % bootstrap interval over pairs."""

    def area(chosen: NDArray[np.int64]) -> float:
        above, below = scores[chosen][same[chosen]], scores[chosen][~same[chosen]]
        gaps = above[:, None] - below[None, :]
        return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())

    chooser = np.random.default_rng(seed)
    drawn = [area(chooser.integers(len(scores), size=len(scores))) for _ in range(rounds)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return area(np.arange(len(scores))), float(low), float(high)


def test_an_area_is_a_half_by_chance_and_one_when_all_is_told_apart() -> None:
    chooser = np.random.default_rng(2)
    same = chooser.random(400) < 0.5
    area, low, high = area_with_interval(chooser.random(400).astype(np.float32), same, seed=1, rounds=300)
    assert low < 0.5 < high
    assert low < area < high
    assert area_with_interval(same.astype(np.float32), same, seed=1, rounds=20) == (1.0, 1.0, 1.0)
