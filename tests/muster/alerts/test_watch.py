"""The loop that looks at real endpoints, and the command around it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from muster.alerts.evaluator import Alert, Evaluator
from muster.alerts.expression import parse
from muster.alerts.rules import Rule
from muster.alerts.sinks import SinkError
from muster.alerts.watch import Watch, fetch_page
from tests.muster.alerts.listener import Endpoint, Listener
from tests.muster.alerts.prometheus import free_port

ROOT = Path(__file__).parents[3]
DOWN = Rule("MusterTest", "up == 0", parse("up == 0"), 0.0, "page", "It is down.")


class Kept:
    def __init__(self, problem: str = "") -> None:
        self.alerts: list[tuple[str, str]] = []
        self.problem = problem

    def tell(self, alerts: list[Alert]) -> None:
        if self.problem:
            raise SinkError(self.problem)
        self.alerts += [(alert.name, alert.status) for alert in alerts]


def test_every_sink_is_told_though_one_of_them_cannot_be() -> None:
    kept, reported = Kept(), []
    nobody = f"127.0.0.1:{free_port()}"
    with Endpoint() as endpoint:
        watch = Watch(
            lambda: [endpoint.address, nobody],
            Evaluator([DOWN]),
            [Kept("nobody is there"), kept],
            interval_s=0.1,
            timeout_s=5.0,
            report=reported.append,
        )
        changed = watch.look()
    assert [dict(alert.labels)["instance"] for alert in changed] == [nobody]
    assert kept.alerts == [("MusterTest", "firing")]
    assert reported == ["nobody is there"]


def test_a_page_that_is_no_metrics_page_counts_as_no_answer() -> None:
    reported: list[str] = []
    rule = Rule("MusterTest", "", parse("up == 0 and on (a) muster_primary == 1"), 0.0, "page", "")
    both = Evaluator([DOWN, rule])
    with Endpoint('muster_primary{a="1') as endpoint:
        watch = Watch(
            lambda: [endpoint.address], both, [], interval_s=0.1, timeout_s=5.0, report=reported.append
        )
        assert [alert.name for alert in watch.look()] == ["MusterTest"]
    assert "no metrics page" in reported[0]


def test_an_address_without_anybody_is_none_and_never_an_error() -> None:
    assert fetch_page(f"127.0.0.1:{free_port()}", 1.0) is None


def test_the_command_tells_a_webhook_a_file_and_people(tmp_path: Path) -> None:
    log = tmp_path / "alerts.jsonl"
    with Listener() as listener, Endpoint("muster_serving 0\n") as endpoint:
        line = [sys.executable, "-m", "muster.cli", "alerts", "watch", "--target", endpoint.address]
        line += ["--webhook", listener.url, "--log", str(log), "--interval", "50ms", "--scale", "0.001"]
        process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert listener.wait_for("MusterReadsNotServed", "firing", 30.0)
            endpoint.page = "muster_serving 1\n"
            assert listener.wait_for("MusterReadsNotServed", "resolved", 30.0)
        finally:
            process.send_signal(signal.SIGTERM)
            told, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [(line["alert"], line["status"]) for line in lines] == [
        ("MusterReadsNotServed", "firing"),
        ("MusterReadsNotServed", "resolved"),
    ]
    assert f"MusterReadsNotServed firing (instance={endpoint.address})" in told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--target", "nowhere"], "--target takes host:port"),
        (["--target", "a:1", "--webhook", "ftp://x"], "--webhook takes a URL"),
        (["--target", "a:1", "--rules", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_bad_arguments_are_refused_with_what_is_wanted(more: list[str], told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "muster.cli", "alerts", "watch", *more],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert told in done.stderr
