from __future__ import annotations

import json

import pytest

from benchmarks.reconnect import Returns, main


def test_every_client_is_seen_to_come_back_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--clients", "12", "--down", "0.2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["clients"] == 12
    assert found["last_s"] is not None and found["last_s"] > 0
    assert 1 / 12 <= found["crowd"] <= 1


def test_the_crowd_is_the_fullest_moment_and_who_never_comes_is_missed() -> None:
    found = Returns(5, [0.01, 0.02, 0.04, 0.3])
    assert found.crowd == 0.6
    assert found.last_s is None
    assert Returns(2, [0.01, 0.3]).last_s == 0.3


@pytest.mark.parametrize("arguments", [["--clients", "0"], ["--clients", "301"], ["--down", "-1"]])
def test_bad_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
