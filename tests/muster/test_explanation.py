"""Explanations: the parts add up, and the words say what the parts say."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from muster.explanation import (
    IDEAS,
    TOLERANCE,
    brought,
    brought_sum,
    explain,
    for_auditor,
    for_shopper,
    looked_at,
)

SIGNALS = [signal for idea in IDEAS for signal in idea.signals]
FIGURES = st.floats(-50, 50, allow_nan=False)


def result(parts: dict[str, float], *, base: float = 1.0, score: float | None = None) -> dict[str, Any]:
    total = base + sum(parts.values()) if score is None else score
    signals = [{"name": name, "value": 0.5, "contribution": part} for name, part in parts.items()]
    return {"product_id": "p", "score": total, "base_score": base, "signals": signals}


@given(st.dictionaries(st.sampled_from(SIGNALS), FIGURES), FIGURES)
def test_parts_and_ideas_add_up_to_the_score(parts: dict[str, float], base: float) -> None:
    told = result(parts, base=base)
    found = explain(told)
    assert found is not None and found.adds_up
    ideas = sum(total for _, total in found.ideas())
    assert abs(found.base + ideas - told["score"]) <= TOLERANCE * max(1.0, abs(base), abs(told["score"]))


def part(source: str, contribution: float, product_id: str = "", title: str = "") -> dict[str, Any]:
    return {"source": source, "contribution": contribution, "product_id": product_id, "title": title}


def test_a_recommendation_is_told_by_what_brought_it_each_product_once() -> None:
    told = {
        "because": [
            part("next", 0.3, "p1", "red kettle"),
            part("together", 0.2, "p1", "red kettle"),
            part("popularity", 0.1),
            part("texts", 0.05, "p2"),
            part("", 0.01),
        ]
    }
    assert brought(told) == "Shown because it is often taken right after red kettle and many take it."
    assert brought(told, reasons_max=3).endswith("many take it and it reads like p2.")
    assert brought_sum(told) == (
        "0.66 = +0.3 next (p1) +0.2 together (p1) +0.1 popularity +0.05 texts (p2) +0.01 others"
    )
    assert brought({"because": []}) == brought_sum({}) == ""


def test_what_moved_a_result_up_is_told_each_product_once_by_what_says_most() -> None:
    told = {
        "because": [
            part("brand", 0.3, "p1", "red kettle"),
            part("similar", 0.2, "p1", "red kettle"),
            part("later", 0.1, "p2"),
            part("itself", 0.05, "p3", "blue mug"),
            part("", 0.01),
        ]
    }
    assert looked_at(told) == (
        "You looked at red kettle (the same brand) and p2 (this is often taken soon after it)."
    )
    assert looked_at(told, products_max=3).endswith(" and blue mug (it is this one).")
    assert looked_at({"because": []}) == looked_at({}) == ""


def test_a_sum_that_does_not_add_up_is_told() -> None:
    found = explain(result({"bm25": 0.5}, score=9.0))
    assert found is not None and not found.adds_up
    assert "+7.5000 is not accounted for" in for_auditor(found)


def test_every_signal_belongs_to_one_idea() -> None:
    assert len(SIGNALS) == len(set(SIGNALS))


def test_the_shopper_is_told_what_weighs_most_and_no_numbers() -> None:
    found = explain(result({"bm25": 0.9, "late": 0.3, "price_log": -0.5, "rating": 0.001}))
    assert found is not None
    told = for_shopper(found)
    assert told == (
        "Shown because it has the words that you typed and it is close in meaning to what you asked for,"
        " though its price speaks against it."
    )
    assert not any(character.isdigit() for character in told)


def test_signals_of_one_idea_are_told_together() -> None:
    found = explain(result({"bm25": 1.0, "bm25_share": -1.0, "dense": 0.2}))
    assert found is not None
    assert for_shopper(found) == "Shown because it is close in meaning to what you asked for."


def test_a_product_that_nothing_speaks_for_has_words_too() -> None:
    against, nothing = explain(result({"dense": -0.2})), explain(result({}))
    assert against is not None and nothing is not None
    assert for_shopper(against).startswith("Shown as one of the nearest, though")
    assert for_shopper(nothing) == "Shown as one of the nearest; nothing sets it apart."


def test_the_auditor_gets_the_whole_sum_and_the_rest_in_one() -> None:
    found = explain(result({"bm25": 0.5, "late": -0.25, "rating": 0.125}))
    assert found is not None
    assert for_auditor(found) == (
        "1.3750 = 1.0000 for any product +0.5000 bm25 (0.5) -0.2500 late (0.5) +0.1250 rating (0.5)"
    )
    assert (
        for_auditor(found, parts_max=1)
        == "1.3750 = 1.0000 for any product +0.5000 bm25 (0.5) -0.1250 2 others"
    )


def test_signals_that_add_nothing_are_counted_and_not_listed() -> None:
    found = explain(result({"bm25": 0.5, "dense": 0.0, "rating": 0.0}))
    assert found is not None and [part.signal for part in found.parts] == ["bm25"]
    assert for_auditor(found).endswith("bm25 (0.5); 2 more signals are read and add nothing")


def test_without_contributions_there_is_no_explanation() -> None:
    assert explain({"product_id": "p", "score": 1.0, "signals": [{"name": "bm25", "value": 1.0}]}) is None
