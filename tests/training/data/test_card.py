"""The data card counts what is there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from muster.v1 import catalogue_pb2
from training.data.card import file_facts, leakage_facts, missing_shares, script_of, script_shares
from training.data.leakage import Text, find_leaks
from training.data.tables import DataTables


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("steel kettle", "Latin"),
        ("Möbel, ø 3 cm", "Latin"),
        ("不锈钢保温杯 500ml", "Han"),
        ("ワイヤレスイヤホン", "Kana"),
        ("чайник", "Cyrillic"),
        ("무선 이어폰", "Hangul"),
        ("1/2 - 3.5", "none"),
    ],
)
def test_a_text_is_of_the_script_of_most_of_its_letters(text: str, script: str) -> None:
    assert script_of(text) == script


def test_scripts_are_shares_of_texts() -> None:
    assert script_shares(["tea", "茶", "mug", "cup"]) == {"Latin": 0.75, "Han": 0.25}
    assert script_shares([]) == {}


def test_a_column_of_zero_is_known_and_an_empty_field_is_missing() -> None:
    products = {
        "1": catalogue_pb2.Product(product_id="1", title="tea", stock=0, price=2.0),
        "2": catalogue_pb2.Product(product_id="2", title="mate", brand="Acme"),
    }
    found = missing_shares(DataTables(products=products))
    assert (found["title"], found["brand"], found["stock"], found["price"]) == (0.0, 0.5, 0.5, 0.5)
    assert found["attributes"] == 1.0


def test_a_file_is_told_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a\n")
    assert file_facts(path) == {"sha256": hashlib.sha256(b"a\n").hexdigest(), "bytes": 2}


def test_leaks_are_counted_by_kind_with_a_few_examples() -> None:
    texts = [Text("shop", f"t{at}", "train", f"red shoes {at}") for at in range(9)]
    texts += [Text("shop", f"d{at}", "dev", f"{at} red shoes") for at in range(9)]
    found = leakage_facts(find_leaks(texts), [], 1.0)
    assert (found["dropped"], found["dropped_by_set"]) == (9, {"shop": 9})
    told = found["kinds"]["same words"]
    assert told["dropped"] == 9
    assert 0 < len(told["examples"]) < 9
    assert told["examples"][0]["dropped"]["text"] == "red shoes 0"
    assert told["examples"][0]["because_of"]["id"] == "d0"
