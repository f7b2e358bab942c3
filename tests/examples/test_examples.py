"""The example programs run as printed: against scripted replicas always, against real ones where built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from examples import apply_events, plain_stubs, search
from tests.examples.service import running_pair
from tests.muster.scripted_replica import ScriptedReplica


@pytest.fixture(scope="module", params=["scripted", "real"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """All endpoints of a service, joined by commas."""
    if request.param == "scripted":
        log: dict[str, int] = {}
        with ScriptedReplica("a", log, primary=True) as one, ScriptedReplica("b", log) as two:
            yield f"{one.endpoint},{two.endpoint}"
    else:
        folder: Path = tmp_path_factory.mktemp("examples")
        with running_pair(folder) as endpoints:
            yield ",".join(endpoints)


def test_search_shows_a_tier_for_the_longer_deadlines(
    target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search.main(target, "coffee mug") == 0
    assert "200 ms: tier " in capsys.readouterr().out


def test_apply_events_reads_its_own_writes(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert apply_events.main(target) == 0
    shown = capsys.readouterr().out
    assert "inserted: sequence" in shown and shown.endswith("deleted\n")


def test_plain_stubs_need_nothing_of_ours_but_the_contract(
    target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plain_stubs.main(target.split(",")[0]) == 0
    assert "tier TIER_" in capsys.readouterr().out
    source = Path(plain_stubs.__file__).read_text(encoding="utf-8")
    assert "muster.client" not in source


@pytest.mark.parametrize("example", [search.main, plain_stubs.main])
def test_examples_say_when_nothing_listens(example: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(example)
    assert example("127.0.0.1:1") == 3
    assert capsys.readouterr().err
