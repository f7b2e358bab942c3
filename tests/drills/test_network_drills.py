"""The drills of network, store and storm from the command line, with scripted replicas: what they print, what
they refuse. Whether scripted replicas hold is not asked."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from drills.failover import Traffic
from drills.journal import read_history
from drills.partition import DETECTION, without
from drills.rig.cluster import ClusterPlan
from tests.drills.conftest import FAKE_COMMAND

Scripted = Callable[..., ClusterPlan]
VERDICTS = {0: "held", 10: "deviated", 20: "inconclusive"}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("partition", ["--runs", "1"]),
        ("loss", ["--by", "proxy", "--kind", "primary"]),
        ("latency", ["--slowed", "one", "--deadline-ms", "500"]),
        ("retry_storm", ["--clients", "3", "--reads", "20"]),
    ],
)
def test_a_drill_prints_one_object_with_the_keys_that_it_documents(
    name: str,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    scripted: Scripted,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drill = importlib.import_module(f"drills.{name}")
    monkeypatch.setattr("drills.failover.SERVER_COMMAND", FAKE_COMMAND)
    given = ["--json", "--bundle", str(scripted().bundle), "--replicas", "2", "--journal", str(tmp_path)]
    code = drill.main([*given, *arguments])
    result = json.loads(capsys.readouterr().out)
    assert result["verdict"] == VERDICTS[code]
    assert set(result) - {"reason"} == {"drill", "verdict", *drill.EMPTY}
    assert result["reads"] > 0, result
    [path] = tmp_path.glob("**/run-0001.jsonl")
    history = read_history(path)
    assert history.first("fault") is not None and history.first("rollback") is not None


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("partition", ["--between", "store"]),
        ("partition", ["--without", "sense"]),
        ("store_down", ["--replicas", "1"]),
        ("standby_lag", ["--place", "nowhere"]),
        ("latency", ["--latency-ms", "0"]),
        ("loss", ["--share", "1.5"]),
        ("oversized_payload", ["--runs", "0"]),
        ("poison_request", ["--plant", "flowers"]),
        ("retry_storm", ["--clients", "0"]),
        ("hot_key", ["--factor", "-1"]),
        ("clock_jump", ["--whose", "nobodys"]),
    ],
)
def test_bad_usage_exits_with_2(name: str, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"drills.{name}").main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize("name", ["loss", "clock_jump"])
def test_a_machine_without_what_is_needed_makes_it_inconclusive(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    drill = importlib.import_module(f"drills.{name}")
    assert drill.main(["--json"]) == 20
    result = json.loads(capsys.readouterr().out)
    assert result["verdict"] == "inconclusive"
    assert "apt-get install" in result["reason"]
    assert {key: result[key] for key in drill.EMPTY} == drill.EMPTY


def test_without_detection_a_read_is_sent_once() -> None:
    traffic = Traffic()
    assert without(traffic, None) is traffic
    client = without(traffic, DETECTION).client
    assert client is not None
    assert (client.hedge_share, client.hedge_burst, client.attempts_max) == (0.0, 0, 1)
