"""What the drill's own clients show and believe for a while."""

from __future__ import annotations

import os

import pytest

from drills.rig.callers import callers
from muster.client import Credentials


def test_clients_do_what_the_drill_says_and_then_what_they_did_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MUSTER_TOKEN", "one")
    monkeypatch.setenv("MUSTER_TLS_CA", "mine.pem")
    before = dict(os.environ)
    with callers({"MUSTER_TOKEN_FILE": "drill.token"}):
        assert Credentials.from_environment() == Credentials(token_file="drill.token")
    assert dict(os.environ) == before
    with pytest.raises(RuntimeError), callers({"MUSTER_TOKEN": "two"}):
        raise RuntimeError
    assert dict(os.environ) == before
