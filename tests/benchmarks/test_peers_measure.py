"""The harness counts right, against a process that really answers, and leaves none behind."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from benchmarks.peers.callers import peer_caller, peer_order
from benchmarks.peers.compare import Comparison, Contender, Held, Scope, ratios
from benchmarks.peers.measure import (
    Cell,
    ServerSilent,
    Subject,
    capacity,
    in_flight_max,
    latency,
    ndcg,
    storm,
    summarise,
)
from benchmarks.peers.process import Server, ServerFailed, free_port, tree_of
from benchmarks.peers.roster import Peer
from benchmarks.peers.workload import Asked, order_of
from drills.rig.load import OK, Sample

# The longest text is the best answer here, and the second best of the labels.
TEXTS = ("aa", "aaaa", "a", "aaa")
ASKED = (
    Asked("one", ("p", "q", "r", "s"), TEXTS, {"q": 1.0, "s": 0.5}),
    Asked("two", ("p", "q", "r", "s"), TEXTS, {"p": 1.0}),
)


def peer(protocol: str) -> Peer:
    return Peer("fake", "Fake", "none", protocol, "float64", ["none"])


@contextmanager
def fake(folder: Path, protocol: str, *more: str, in_flight: int = 8) -> Iterator[tuple[Server, Subject]]:
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.fake_peer", "--protocol", protocol, *more]
    command += ["--model", str(folder), "--port", str(port), "--threads", "1"]
    command += ["--in-flight-max", str(in_flight), "--deadline-ms", "50"]
    one = peer(protocol)
    address = f"127.0.0.1:{port}"
    subject = Subject(
        "fake",
        ASKED,
        lambda deadline_ms: peer_caller(one, address, ASKED, deadline_ms=deadline_ms),
        peer_order(one),
    )
    with Server(command, folder / "fake.log") as server:
        server.wait_until(subject.answers, 60.0)
        yield server, subject


@pytest.mark.parametrize("protocol", ["grpc", "json"])
def test_answers_are_read_and_judged_over_either_protocol(tmp_path: Path, protocol: str) -> None:
    with fake(tmp_path, protocol) as (_, subject):
        samples = subject.closed(concurrency=1, seconds=60.0, requests_max=4)
    assert [one.status for one in samples] == [OK] * 4
    # Order by length: q, s, p, r.
    assert samples[0].fields["ndcg"] == 1.0
    assert samples[1].fields["ndcg"] == pytest.approx(0.5)
    assert ndcg(samples, len(ASKED)) == pytest.approx(0.75, abs=1e-4)
    found = latency(samples)
    assert 0.0 < found["p50_ms"] <= found["p99_ms"]


@pytest.mark.parametrize("protocol", ["grpc", "json"])
def test_a_storm_counts_every_request_once_and_what_is_late_for_nothing(
    tmp_path: Path, protocol: str
) -> None:
    with fake(tmp_path, protocol, "--work-ms", "120") as (_, subject):
        samples = storm(subject, rate_per_s=40.0, seconds=1.0, deadline_ms=50.0, seed=3)
    cell = Cell.of(samples, 50.0)
    assert cell.offered == len(samples) > 10
    assert cell.in_time == 0 and cell.quality == 0.0
    assert cell.statuses.total() == cell.offered and OK not in cell.statuses


def test_what_is_beyond_the_limit_is_refused_at_once(tmp_path: Path) -> None:
    with fake(tmp_path, "grpc", "--work-ms", "300", in_flight=1) as (_, subject):
        samples = subject.closed(concurrency=4, seconds=1.0)
    statuses = [one.status for one in samples]
    assert OK in statuses and "RESOURCE_EXHAUSTED" in statuses


def test_capacity_is_that_of_the_best_concurrency_and_counts_full_answers_alone(tmp_path: Path) -> None:
    with fake(tmp_path, "grpc") as (_, subject):
        found = capacity(subject, seconds=0.3)
        assert found["per_s"] > 0 and found["concurrency"] in (1, 2, 4)
        nothing = Subject(subject.name, ASKED, subject.caller, subject.order, lambda sample: False)
        with pytest.raises(ServerSilent, match="no answer was one in full"):
            capacity(nothing, seconds=0.1)


def test_a_process_is_held_still_with_its_children_and_none_is_left(tmp_path: Path) -> None:
    with fake(tmp_path, "grpc", "--child") as (server, subject):
        tree = tree_of(server.pid)
        assert len(tree) == 2
        server.pause()
        # A process that waits for a core takes note of the signal only when it gets one.
        end_s = time.monotonic() + 30.0
        while {one.status() for one in tree} != {psutil.STATUS_STOPPED} and time.monotonic() < end_s:
            time.sleep(0.02)
        assert {one.status() for one in tree} == {psutil.STATUS_STOPPED}
        server.resume()
        assert subject.answers()
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in tree)


def test_a_process_that_ends_says_why(tmp_path: Path) -> None:
    with (
        Server([sys.executable, "-c", "raise SystemExit('no model here')"], tmp_path / "log") as server,
        pytest.raises(ServerFailed, match="ended with code 1: no model here"),
    ):
        server.wait_until(lambda: False, 30.0)


def sample(index: int, *, latency_ms: float, status: str = OK, ndcg: float = 1.0) -> Sample:
    return Sample(
        "read", index, 0.0, 0.0, latency_ms / 1000.0, status, {"ndcg": ndcg} if status == OK else {}
    )


def test_a_cell_counts_quality_in_time_over_all_offered() -> None:
    cell = Cell.of(
        [
            sample(0, latency_ms=10.0, ndcg=0.8),
            sample(1, latency_ms=49.0, ndcg=0.4),
            sample(2, latency_ms=51.0, ndcg=1.0),
            sample(3, latency_ms=1.0, status="RESOURCE_EXHAUSTED"),
        ],
        50.0,
    )
    assert (cell.offered, cell.in_time) == (4, 2)
    assert cell.quality == pytest.approx(1.2)
    assert cell.statuses == {"OK": 2, "late": 1, "RESOURCE_EXHAUSTED": 1}
    found = summarise(2.0, 30.0, [cell, Cell.of([sample(0, latency_ms=1.0, ndcg=0.5)], 50.0)])
    assert found["in_time_share"] == 0.6
    assert found["quality_in_time"] == pytest.approx(1.7 / 5)
    assert (found["quality_min"], found["quality_max"]) == (0.3, 0.5)
    assert found["outcomes"] == {"OK": 3, "late": 1, "RESOURCE_EXHAUSTED": 1}


def test_an_unread_answer_is_no_answer() -> None:
    order = peer_order(peer("json"))
    with pytest.raises(ValueError, match="gave 1 scores for 4 texts"):
        order(ASKED[0], b'{"scores": [1.0]}')
    assert order(ASKED[0], b'{"scores": [1, 1, 2, 1]}')[0] == [2, 0, 1, 3]
    assert order_of([0.0, 2.0, 2.0]) == [1, 2, 0]


@pytest.mark.parametrize(("p50_ms", "expected"), [(200.0, 1), (50.0, 1), (20.0, 2), (4.0, 12)])
def test_so_many_requests_are_let_in_as_end_in_time(p50_ms: float, expected: int) -> None:
    assert in_flight_max(p50_ms, 50.0) == expected


def contender(name: str, folder: Path, *more: str) -> Contender:
    running = []

    def start(in_flight: int, deadline_ms: float) -> tuple[Held, Subject]:
        context = fake(folder / name, "grpc", *more, in_flight=in_flight)
        server, subject = context.__enter__()
        running.append(context)
        return server, subject

    (folder / name).mkdir(parents=True)
    return Contender(name, {"name": name}, start)


def broken(reason: str) -> Callable[[int, float], tuple[Held, Subject]]:
    def start(in_flight: int, deadline_ms: float) -> tuple[Held, Subject]:
        raise ServerFailed(reason)

    return start


def test_a_whole_run_measures_who_answers_and_names_the_reason_of_who_does_not(tmp_path: Path) -> None:
    told: list[str] = []
    good = contender("good", tmp_path)
    bad = Contender("bad", {"name": "bad"}, broken("it has no wheel | for this machine"))
    scope = Scope(passes=1, capacity_s=0.2, seconds=0.3, rounds=2, loads=(1.0, 2.0), patient_loads=(1.0,))
    run = Comparison([good, bad], len(ASKED), scope, told.append)
    try:
        run.bring_up()
        run.measure_latency()
        run.measure_capacity()
        for views in scope.stages():
            run.bring_up(views[0].deadline_ms)
            run.measure_storm(views)
    finally:
        run.end()
    assert bad.failed == "it has no wheel | for this machine"
    assert any("bad: not run: it has no wheel" in line for line in told)
    row = good.row
    assert row["ndcg10"] == pytest.approx(0.75, abs=1e-4) and row["capacity_per_s"] > 0
    for view, loads in (("storm", [1.0, 2.0]), ("storm_absolute", [1.0, 2.0]), ("storm_patient", [1.0])):
        assert [cell["load"] for cell in row[view]] == loads
        assert all(cell["offered"] > 0 for cell in row[view])


def test_a_cell_of_few_requests_lasts_longer_but_not_for_ever() -> None:
    scope = Scope(seconds=2.0)
    assert scope.cell_s(100.0) == 2.0
    assert scope.cell_s(10.0) == 4.0
    assert scope.cell_s(1.0) == 6.0


def test_ratios_are_against_the_best_peer_of_each_load() -> None:
    def row(name: str, p50_ms: float, qualities: list[float]) -> dict[str, object]:
        cells = [{"load": float(at + 1), "quality_in_time": value} for at, value in enumerate(qualities)]
        return {"name": name, "p50_ms": p50_ms, "storm": cells, "storm_absolute": cells}

    found = ratios(
        {
            "muster": row("muster", 10.0, [0.6, 0.6]),
            "peers": [
                row("slow", 40.0, [0.3, 0.0]),
                row("fast", 20.0, [0.2, 0.0]),
                {"name": "gone", "not_run": "no wheel"},
            ],
        }
    )
    assert found["fastest_peer"] == "fast" and found["p50"] == 2.0
    assert found["storm"] == [
        {"load": 1.0, "best_peer": "slow", "quality_in_time": 2.0},
        {"load": 2.0, "best_peer": None, "quality_in_time": None},
    ]
    assert ratios({"muster": None, "peers": []}) == {}
