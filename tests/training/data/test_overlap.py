"""Shared words find products, by the formula that the books give."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from training.data.overlap import WordOverlap, words_of

TEXTS = {
    "a": "red running shoes for men",
    "b": "red red dress",
    "c": "running socks and running shorts, pack of 3",
    "d": "",
}


def by_the_book(query: str, key: str) -> float:
    """BM25 with k1 1.2 and b 0.75, written out once more."""
    documents = {name: Counter(words_of(text)) for name, text in TEXTS.items()}
    mean = sum(sum(one.values()) for one in documents.values()) / len(documents)
    total = 0.0
    for word in words_of(query):
        holders = sum(word in one for one in documents.values())
        if not documents[key][word]:
            continue
        rarity = math.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5))
        times, length = documents[key][word], sum(documents[key].values())
        total += rarity * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length / mean))
    return total


@pytest.mark.parametrize("query", ["red shoes", "running running", "socks", "nothing here"])
def test_scores_are_bm25(query: str) -> None:
    overlap = WordOverlap(TEXTS)
    found = overlap.scores(query)
    for key in TEXTS:
        assert found[overlap.at[key]] == pytest.approx(by_the_book(query, key), rel=1e-5)


def test_the_best_come_first_and_only_those_that_share_a_word() -> None:
    overlap = WordOverlap(TEXTS)
    assert overlap.best("red dress", 10) == ["b", "a"]
    assert overlap.best("red dress", 1) == ["b"]
    assert overlap.best("teapot", 10) == []


def test_a_plural_meets_its_singular_but_glass_stays_glass() -> None:
    assert words_of("Shoes, SHOE, glass bus") == ["shoe", "shoe", "glass", "bus"]


def test_each_chinese_character_is_a_word() -> None:
    assert words_of("红色跑鞋 Nike鞋") == ["红", "色", "跑", "鞋", "nike", "鞋"]


def test_a_product_holds_a_query_only_with_all_of_its_words() -> None:
    overlap = WordOverlap(TEXTS)
    assert overlap.holds(words_of("red shoe"), "a")
    assert not overlap.holds(words_of("red shoe"), "b")
    assert not overlap.holds([], "a")
    assert overlap.holders("running") == 2
    assert overlap.holders("teapot") == 0
