"""Nothing that is shown is about few people, names a shopper, or holds what is personal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.insight.analysis import Choice, Insight, analyse
from muster.insight.events import DAY_US
from muster.insight.hiding import shown
from muster.insight.page import render
from muster.insight.simulate import Simulated
from tests.muster.insight.conftest import NOW_US
from tests.muster.insight.event_rows import AT_US, events, row


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8), st.integers(10, 15))
def test_no_row_of_few_people_is_shown(counts: list[tuple[int, int]], least: int) -> None:
    rows: list[dict[str, Any]] = [
        {"name": at, "value": 0.5, "count": part, "people": people, "counted_people": min(part, people)}
        for at, (people, part) in enumerate(counts)
    ]
    for one, before in zip(shown(rows, least), rows, strict=True):
        assert "counted_people" not in one
        if one["hidden"]:
            assert one["value"] is one["count"] is one["people"] is None
        else:
            assert one["people"] >= least
            assert not 0 < before["counted_people"] < least
    hidden_by_people = [one for one in rows if 0 < one["people"] < least]
    others = [one for one in rows if one["people"] >= least]
    if len(hidden_by_people) == 1 and others:
        assert (
            sum(
                one["hidden"] and before["people"] > 0
                for one, before in zip(shown(rows, least), rows, strict=True)
            )
            > 1
        )


def test_a_query_is_named_only_if_enough_people_asked_it_and_without_what_is_personal() -> None:
    rows = []
    for person in range(12):
        rows.append(
            row("answer", person, receipt_id=f"a{person}", results=5, query="mail anna@example.org please")
        )
        rows.append(row("answer", person, receipt_id=f"b{person}", results=5, query=f"secret {person // 9}"))
    # One person who asks often is one person.
    rows += [
        row("answer", 0, receipt_id=f"c{at}", results=5, query="again", at_unix_us=AT_US + at)
        for at in range(30)
    ]
    found = analyse(events(rows), {}, Choice(), NOW_US)
    named = [one["query"] for one in found.table("queries").rows]
    assert named == ["all queries", "mail [email] please"]
    page = render(found, ["x"], 0.0)
    assert "anna@example.org" not in page
    assert "secret" not in page


def test_the_page_names_no_shopper_no_visit_and_no_answer(insight: Insight, shop: Simulated) -> None:
    page = render(insight, ["x"], 0.0)
    rows = shop.events.select(["shopper", "session", "receipt_id"]).slice(0, 20_000).to_pylist()
    names = {value for one in rows for value in one.values() if value}
    assert len(names) > 500
    assert not [name for name in names if name in page]


@pytest.mark.parametrize("weeks", [2, 5])
def test_who_gets_another_pseudonym_is_followed_for_its_period_only(weeks: int) -> None:
    """Every shopper comes every week; the pseudonyms last two weeks."""
    period_us = 14 * DAY_US
    monday_us = -(-AT_US // period_us) * period_us + 4 * DAY_US
    rows = []
    for person in range(20):
        for week in range(weeks):
            at_us = monday_us + week * 7 * DAY_US + 3_600_000_000
            name = f"0123abcd-14-{at_us // period_us}-{person:032x}"
            rows.append({"kind": "click", "shopper": name, "at_unix_us": at_us, "product_id": "p"})
        end_us = monday_us + weeks * 7 * DAY_US + 1
        rows.append({"kind": "click", "shopper": f"0123abcd-14-{end_us // period_us}-{person:032x}",
                     "at_unix_us": end_us, "product_id": "p"})  # fmt: skip
    found = analyse(events(rows), {}, Choice(), NOW_US)
    returning = found.table("returning")
    assert "Pseudonyms change" in returning.note
    assert all(one["value"] == 1.0 for one in returning.rows)
