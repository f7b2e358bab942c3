"""The load command: what it sends, what it tells, and how it ends where it cannot."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drills.experiment import Verdict
from drills.load import (
    LoadError,
    Wish,
    arrivals_of,
    dealt,
    drawn_requests,
    figures,
    judged,
    main,
    read_queries,
    table,
)
from drills.rig.cluster import Cluster
from drills.rig.load import Sample
from muster.cli import app
from muster.v1 import ranking_pb2


def wish(**changes: Any) -> Wish:
    values: dict[str, Any] = {
        "targets": ["127.0.0.1:1"],
        "queries": ["shoe", "lamp", "pan", "hat"],
        "rate_per_s": 100.0,
        "duration_s": 10.0,
        "deadline_ms": 50.0,
    }
    return Wish(**{**values, **changes})


def sample(took_s: float, status: str = "OK", late_s: float = 0.0, **fields: Any) -> Sample:
    kept = {"tier": "late", "expected_ndcg": 0.8} if status == "OK" else {}
    return Sample("read", 0, 1.0, 1.0 + late_s, 1.0 + took_s, status, {**kept, **fields})


def test_times_count_from_the_intended_moment_and_late_answers_are_worth_nothing() -> None:
    samples = [*(sample(0.01) for _ in range(97)), sample(0.2), sample(0.05, "UNAVAILABLE"), sample(0.01)]
    told, histogram = figures(samples, 50.0)
    assert (told["offered"], told["answered"], told["in_time"]) == (100, 99, 98)
    assert told["quality_in_time"] == pytest.approx(0.98 * 0.8)
    assert told["latency_ms"]["p50"] == pytest.approx(10.0, rel=0.01)
    assert told["latency_ms"]["max"] == pytest.approx(200.0, rel=0.01)
    assert told["statuses"] == {"OK": 99, "UNAVAILABLE": 1}
    assert histogram.get_total_count() == 99


def test_nothing_offered_is_nothing_measured() -> None:
    told, _ = figures([], 50.0)
    assert (told["in_time_share"], told["latency_ms"]["p50"]) == (None, None)
    assert judged(told)[0] is Verdict.HELD


def test_a_generator_that_was_late_says_so() -> None:
    told, _ = figures([sample(0.02, late_s=0.015) for _ in range(3)] + [sample(0.01)] * 7, 50.0)
    verdict, reason = judged(told)
    assert verdict is Verdict.INCONCLUSIVE
    assert "bottleneck" in reason


def test_recommendations_are_dealt_by_their_share_and_told_apart() -> None:
    asked = wish(recommend_share=0.25, duration_s=40.0)
    searches, recommendations = dealt(arrivals_of(asked), asked)
    assert len(recommendations) / (len(searches) + len(recommendations)) == pytest.approx(0.25, abs=0.03)
    assert all(moments == sorted(moments) and moments[-1] < 40.0 for moments in (searches, recommendations))
    told, histogram = figures(
        [
            sample(0.01),
            replace(sample(0.03), kind="recommendation"),
            replace(sample(0.2), kind="recommendation"),
        ],
        50.0,
    )
    assert (told["offered"], histogram.get_total_count()) == (1, 1)
    assert (told["recommendations"]["offered"], told["recommendations"]["in_time"]) == (2, 1)
    assert told["recommendations"]["quality_in_time"] == pytest.approx(0.8 / 2)
    unknown, _ = figures([replace(sample(0.01, expected_ndcg=0.0), kind="recommendation")], 50.0)
    assert unknown["recommendations"]["quality_in_time"] is None
    assert "recommendations" in table(told, Verdict.HELD, "")
    late = {**told, "recommendations": {**told["recommendations"], "sent_late_share": 0.5}}
    assert judged(late)[0] is Verdict.INCONCLUSIVE


def test_queries_are_drawn_by_their_popularity() -> None:
    def shares(zipf: float) -> list[float]:
        drawn = Counter(
            ranking_pb2.SearchRequest.FromString(one).query for one in drawn_requests(wish(zipf=zipf), 20_000)
        )
        return [drawn[query] / 20_000 for query in wish().queries]

    assert shares(0.0) == pytest.approx([0.25] * 4, abs=0.02)
    total = 1 + 1 / 2 + 1 / 3 + 1 / 4
    assert shares(1.0) == pytest.approx([1 / total / place for place in (1, 2, 3, 4)], abs=0.02)


@pytest.mark.parametrize("arrivals", ["poisson", "even", "bursts", "day"])
def test_every_kind_of_arrivals_ascends(arrivals: str) -> None:
    moments = list(islice(arrivals_of(wish(arrivals=arrivals)), 500))
    assert moments == sorted(moments)


def test_queries_come_from_a_file_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "queries.txt"
    path.write_text("usb cable\n\n  wool hat \n", encoding="utf-8")
    assert read_queries(path) == ["usb cable", "wool hat"]
    for content, words in (("\n\n", "no query"), ("x" * 600, "line 1"), (b"\xff\xfe", "cannot be read")):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(LoadError, match=words):
            read_queries(path)
    with pytest.raises(LoadError, match="cannot be read"):
        read_queries(tmp_path / "absent")


@pytest.mark.parametrize(
    "arguments",
    [["--rate", "0"], ["--rate", "5", "--zipf", "-1"], ["--rate", "5", "--deadline", "soon"], []],
)
def test_bad_usage_ends_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["load", *arguments]).exit_code == 2


def test_a_service_that_is_not_there_ends_with_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", "127.0.0.1:1", "--rate", "5", "--duration", "1s"]) == 3
    assert "muster status" in capsys.readouterr().err


def test_a_running_service_is_measured(scripted: Any, tmp_path: Path) -> None:
    with Cluster(scripted(2), tmp_path / "cluster") as cluster:
        cluster.start()
        histogram = tmp_path / "times.hgrm"
        target = ",".join(cluster.addresses)
        load = f"load --target {target} --rate 50 --duration 1s --deadline 2s --arrivals even --json"
        result = CliRunner().invoke(app, [*load.split(), "--histogram", str(histogram)])
    told = json.loads(result.output)
    assert told["offered"] == 50
    assert told["statuses"] == {"OK": 50}
    assert "Percentile" in histogram.read_text()
