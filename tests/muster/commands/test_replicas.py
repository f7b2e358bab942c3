"""`muster status` and `muster transfer`."""

from __future__ import annotations

import json

import pytest

from muster.commands.replicas import folding_lines
from muster.v1 import admin_pb2
from tests.muster.commands.command_line import muster
from tests.muster.conftest import Start


def test_status_shows_each_replica_and_fails_only_when_none_answers(start_replicas: Start) -> None:
    replica = start_replicas(1)[0]
    done = muster("status", "--target", f"{replica.endpoint},127.0.0.1:1", "--deadline", "20s", "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0
    assert found[0]["status"]["role"] == "standby" and found[0]["status"]["epoch"] == 3
    assert found[1]["status"] is None and found[1]["error"]
    shown = muster("status", "--target", f"{replica.endpoint},127.0.0.1:1", "--deadline", "20s")
    assert "r0" in shown.stdout and "no answer" in shown.stdout
    index = next(line.split() for line in shown.stdout.splitlines() if "gen-1" in line)
    assert [word for word in index if word.isalnum() or "." in word] == ["lists", "9", "0.981"]
    assert muster("status", "--target", "127.0.0.1:1").exit_code == 3


@pytest.mark.parametrize(("successor", "exit_code"), [("r0", 0), ("r1", 3), ("", 3)])
def test_a_transfer_asks_the_primary_and_says_whether_another_replica_took_over(
    start_replicas: Start, successor: str, exit_code: int
) -> None:
    replicas = start_replicas(2)
    replicas[1].role = admin_pb2.ROLE_PRIMARY
    answer = admin_pb2.TransferLeaseResponse(primary=successor, epoch=4 if successor else 0)
    replicas[1].always = lambda request, context: answer
    target = ",".join(replica.endpoint for replica in replicas)
    done = muster("transfer", "--target", target, "--deadline", "20s", "--json")
    assert done.exit_code == exit_code, done.output
    assert json.loads(done.stdout)["transferred"] is (exit_code == 0)
    assert ("no other replica took the lease" in done.stderr) is (exit_code != 0)
    assert "TransferLease" in replicas[1].calls and "TransferLease" not in replicas[0].calls


def test_a_transfer_without_a_primary_is_unavailable(start_replicas: Start) -> None:
    done = muster("transfer", "--target", start_replicas(1)[0].endpoint, "--deadline", "20s")
    assert done.exit_code == 3 and "none of the replicas is primary" in done.stderr


FOLDING = {
    "folded_events": 1200,
    "last_fold_unix_us": 1_700_000_000_000_000,
    "last_fold_events": 200,
    "last_fold_ms": 41.6,
    "held_ms_max": 3.0,
    "failures": 0,
    "problem": "",
    "store_bytes": 3 * 2**20,
    "first_sequence": 1201,
    "first_committed_unix_us": 1_699_999_000_000_000,
}


def state(role: str, **folding: object) -> dict[str, object]:
    return {"replica": "r0", "role": role, "head_sequence": 5000, "folding": {**FOLDING, **folding}}


def test_the_primary_says_how_the_log_is_kept_within_its_bounds() -> None:
    assert folding_lines([state("standby"), state("primary")]) == [
        "log: events 1,201 to 5,000, 3.0 MiB with the snapshot, the oldest of 2023-11-14 21:56:40 UTC;"
        " last folded 200 events, 2023-11-14 22:13:20 UTC, in 42 ms"
    ]


def test_what_is_wrong_with_folding_is_said_of_any_replica() -> None:
    failing = state("standby", failures=7, problem="the store is locked")
    assert folding_lines([failing]) == [
        "r0 failed 7 times in a row to look after the log: the store is locked"
    ]
    assert folding_lines([state("standby", problem="the wall clock here is behind")]) == [
        "r0: the wall clock here is behind"
    ]


def test_a_replica_that_has_not_looked_or_is_older_says_nothing_of_folding() -> None:
    assert folding_lines([{"replica": "r0", "role": "primary", "head_sequence": 1}]) == []
    nothing_yet = {
        name: value for name, value in FOLDING.items() if "last_fold" not in name and "committed" not in name
    }
    nothing_yet |= {"first_sequence": 0}
    assert folding_lines([{**state("primary"), "folding": nothing_yet}]) == [
        "log: no events, 3.0 MiB with the snapshot; nothing folded since r0 started"
    ]


def test_status_tells_of_folding(start_replicas: Start) -> None:
    replica = start_replicas(1)[0]
    replica.role = admin_pb2.ROLE_PRIMARY
    replica.folding = admin_pb2.FoldingStatus(**FOLDING)  # type: ignore[arg-type]
    line = ("status", "--target", replica.endpoint, "--deadline", "20s")
    assert "last folded 200 events" in " ".join(muster(*line).stdout.split())
    [found] = json.loads(muster(*line, "--json").stdout)
    assert found["status"]["folding"] == FOLDING
