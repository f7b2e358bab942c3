"""What holds for all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is slow; an example that took long is no fault of the code under test.
_ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples each time: a change is judged by what it changes. For others there is
# `pytest --hypothesis-profile=new`.
settings.register_profile("same", _ANY_MACHINE, derandomize=True)
settings.register_profile("new", _ANY_MACHINE)
settings.load_profile("same")

# Drills that tests run are none of the drills of this checkout.
os.environ["MUSTER_DRILL_RECORDS"] = ""

# Real processes on a shared machine stall now and then, so `make test` tries a failed test once more, and
# shows what it said at first. A fault fails again; several tests that do not hold at first are no chance.
TRIED_AGAIN_MAX = 3


def pytest_sessionfinish(session: pytest.Session) -> None:
    if len(_tried_again(session.config)) > TRIED_AGAIN_MAX and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reports = _tried_again(config)
    for name, report in reports.items():
        terminalreporter.section(f"at first: {name}", sep="-")
        terminalreporter.write_line(report.longreprtext)
    if len(reports) > TRIED_AGAIN_MAX:
        terminalreporter.write_line(
            f"{len(reports)} tests did not hold at first; at most {TRIED_AGAIN_MAX} may", red=True
        )


def _tried_again(config: pytest.Config) -> dict[str, pytest.TestReport]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return {} if reporter is None else {report.nodeid: report for report in reporter.stats.get("rerun", [])}
