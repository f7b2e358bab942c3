"""What looks wrong in a product, rule by rule."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.products.suspicion import RULES, off_scale, price_scale, suspicions, unbroken
from muster.products.synthetic import SyntheticCatalogue
from muster.v1 import catalogue_pb2

GOOD = {"product_id": "P", "title": "Blue cotton shirt", "brand": "Loom", "price": 19.0}


def rules(**fields: object) -> set[str]:
    return {one.rule for one in suspicions(catalogue_pb2.Product(**{**GOOD, **fields}))}


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"title": "CafÃ© crÃ¨me mug"}, "mojibake"),
        ({"brand": "KÃ¤rcher"}, "mojibake"),
        ({"title": "Caf\ufffd mug"}, "replacement"),
        ({"title": "Blue\x00 shirt"}, "control"),
        ({"description": "A shirt\u202egnihtemos"}, "control"),
        ({"title": "<b>Blue</b> shirt"}, "markup"),
        ({"title": "Salt &amp; pepper mill"}, "markup"),
        ({"description": "<script src=x>alert(1)</script>"}, "markup"),
        ({"title": "12.99"}, "no_word"),
        ({"title": "https://shop.example/p/1"}, "no_word"),
        ({"brand": "a light shirt for warm days made of soft cotton"}, "swapped"),
        ({"title": "shirt " * 15}, "stuffed"),
        ({"title": "shirt " * 200}, "huge"),
        ({"description": "word " * 6_000}, "huge"),
        ({"price": 0.0}, "price_zero"),
    ],
)
def test_each_rule_finds_what_it_is_for(fields: dict[str, object], rule: str) -> None:
    assert rule in RULES
    assert rule in rules(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"title": "Crème brûlée torch, 2 x 10 °C"},
        {"title": "コットンシャツ 青"},
        {"title": "Хлопковая рубашка"},
        {"description": "<p>Formatted</p> text\nof two lines"},
        {"title": "Nut & bolt set, 5 < 10 mm"},
        {"title": "Red Red Wine, the red wine glass"},
    ],
)
def test_ordinary_products_are_not_suspected(fields: dict[str, object]) -> None:
    assert rules(**fields) == set()


def test_the_synthetic_catalogue_is_not_suspected() -> None:
    assert not [one for product in SyntheticCatalogue(400).products() for one in suspicions(product)]


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=60))
def test_text_that_was_decoded_wrongly_once_is_mended(text: str) -> None:
    garbled = text.encode("utf-8").decode("latin-1")
    if garbled != text:
        assert unbroken(garbled) == text
    for one in suspicions(catalogue_pb2.Product(product_id="P", title=text)):
        assert one.rule in RULES and one.detail


def test_a_price_of_another_scale_stands_out_and_a_dear_product_does_not() -> None:
    scale = price_scale([math.log(10.0 + number) for number in range(100)])
    assert scale is not None
    assert off_scale(300.0, scale) is None
    for price in (1e12, 1e-4):
        found = off_scale(price, scale)
        assert found is not None and found.rule == "price_scale"


def test_prices_that_are_all_alike_or_few_are_no_scale_to_be_strict_by() -> None:
    assert price_scale([1.0] * 19) is None
    scale = price_scale([math.log(5.0)] * 50)
    assert scale is not None and off_scale(20.0, scale) is None
