"""Preparing keeps what is needed, drops what would leak, and says so."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from tests.training.conftest import Workplace
from training.models.networks import pretrained_folder
from training.prepare import JudgedQuery, find_leaks, load_prepared, prepare
from training.recipe import RecipeError


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


def query(key: str, split: str, text: str) -> JudgedQuery:
    return JudgedQuery("shop", key, split, text, {})


def test_a_training_query_with_the_words_of_an_evaluation_query_is_a_leak() -> None:
    queries = [
        query("1", "train", "Red shoes"),
        query("2", "dev", "shoes, RED"),
        query("3", "train", "red shoe"),
        query("4", "test", "blue shoes"),
        query("5", "train", "blue shoes"),
    ]
    assert find_leaks(queries) == {("shop", "1"), ("shop", "5")}


def test_without_a_labelled_training_query_nothing_is_prepared(workplace: Workplace, tmp_path: Path) -> None:
    source = workplace.data / "shop"
    shop = tmp_path / "shop"
    shop.mkdir()
    for name in ("products.parquet", "labels.parquet"):
        (shop / name).write_bytes((source / name).read_bytes())
    table = pq.read_table(source / "queries.parquet")
    dev = table.set_column(table.column_names.index("split"), "split", pa.array(["dev"] * len(table)))
    pq.write_table(dev, shop / "queries.parquet")
    with pytest.raises(RecipeError, match="no labelled training query"):
        prepare(workplace.recipe, tmp_path, tmp_path / "run")


def test_a_run_that_was_not_prepared_names_the_stage_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"training\.prepare"):
        load_prepared(tmp_path)
