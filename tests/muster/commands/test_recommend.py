"""`muster recommend`: what it asks and prints."""

from __future__ import annotations

import json

from tests.muster.commands.command_line import muster
from tests.muster.conftest import Start


def test_recommendations_are_printed_with_what_brought_them(start_replicas: Start) -> None:
    replica = start_replicas(1)[0]
    done = muster("recommend", "P1", "--target", replica.endpoint, "--deadline", "20s", "--explain")
    assert done.exit_code == 0, done.output
    text = " ".join(done.stdout.split())
    assert "a [bold] cup" in text and "4.50" in text
    assert "because it is often taken right after a [bold] kettle and many take it" in text
    assert "0.25 = +0.2 next (P1) +0.05 popularity" in text
    assert "2 products read, 4 told by feedback alone, 3 not read, 1 unknown" in text
    assert "tier mixture" in text and "worth not measured" in text


def test_recommendations_are_printed_as_one_json_object(start_replicas: Start) -> None:
    replica = start_replicas(1)[0]
    done = muster("recommend", "--deadline", "20s", "--json", MUSTER_TARGET=replica.endpoint)
    answer = json.loads(done.stdout)
    assert answer["receipt"]["tier"] == "mixture" and answer["receipt"]["reason"] == "deadline"
    assert answer["history"] == {"used": 2, "unknown": 1, "left_out": 3, "recorded": 4}
    assert answer["results"][0]["because"][1] == {
        "product_id": "",
        "title": "",
        "source": "popularity",
        "contribution": 0.05,
    }


def test_history_shopper_and_conditions_reach_the_service(start_replicas: Start) -> None:
    replica = start_replicas(1)[0]
    done = muster(
        *("recommend", "P1", "P2", "--target", replica.endpoint, "--deadline", "20s", "--shopper", "ada"),
        *("--session", "visit", "--diversity", "0.5", "--repeats", "-n", "3", "--brand", "A"),
        *("--min-sequence", "7", "--priority", "critical"),
    )
    assert done.exit_code == 0, done.output
    sent = replica.requests[0]
    assert [item.product_id for item in sent.history] == ["P1", "P2"]
    assert (sent.shopper_id, sent.session_id, sent.diversity, sent.repeats) == ("ada", "visit", 0.5, True)
    assert (sent.page_size, sent.min_sequence, sent.priority) == (3, 7, 1)
    assert list(sent.filter.brands) == ["A"]
    assert muster("recommend", "--attribute", "color", "--target", replica.endpoint).exit_code == 2
