"""The throw-away server: real where it is installed, a clear reason where it is not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from drills.experiment import Inconclusive
from drills.failover import main
from drills.rig import postgres
from drills.rig.postgres import ThrowawayPostgres, missing
from tests.server.replica import wait_until


@pytest.fixture
def server() -> Iterator[ThrowawayPostgres]:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with ThrowawayPostgres(["max_connections=20"]) as server:
        yield server


def ask(server: ThrowawayPostgres, statement: str, database: str = "postgres") -> str:
    with psycopg.connect(
        host=str(server.folder), user=server.user, dbname=database, autocommit=True, connect_timeout=10
    ) as session:
        cursor = session.execute(statement)  # type: ignore[call-overload]
        row = cursor.fetchone() if cursor.description else None
        return str(row[0]) if row else ""


@pytest.fixture
def without_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "_PACKAGED", tmp_path)


@pytest.mark.postgresql
def test_it_flushes_to_the_disk_listens_on_its_socket_alone_and_is_not_root(
    server: ThrowawayPostgres,
) -> None:
    assert ask(server, "SHOW fsync") == "on"
    assert ask(server, "SHOW listen_addresses") == ""
    assert ask(server, "SHOW max_connections") == "20"
    assert Path(f"/proc/{server.pid}").stat().st_uid != 0
    assert server.folder.stat().st_mode & 0o077 == 0


@pytest.mark.postgresql
def test_what_was_committed_survives_a_kill_and_a_stop(server: ThrowawayPostgres) -> None:
    address = server.create_database("shop")
    assert address.endswith(f"/shop?host={server.folder}")
    ask(server, "CREATE TABLE t AS SELECT 7 AS x", "shop")
    for end in (server.kill, server.stop):
        end()
        with pytest.raises(psycopg.OperationalError):
            ask(server, "SELECT 1")
        server.start()
        assert ask(server, "SELECT x FROM t", "shop") == "7"


@pytest.mark.postgresql
def test_a_frozen_server_answers_again_once_it_is_thawed(server: ThrowawayPostgres) -> None:
    server.freeze()
    stat = Path(f"/proc/{server.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "the server to be stopped")
    server.thaw()
    assert ask(server, "SELECT 1") == "1"


@pytest.mark.postgresql
def test_nothing_is_left_of_it(server: ThrowawayPostgres) -> None:
    with ThrowawayPostgres() as other:
        folder, pid = other.folder, other.pid
        assert folder != server.folder
    assert not folder.exists()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.postgresql
def test_a_server_that_does_not_start_says_why(server: ThrowawayPostgres) -> None:
    with pytest.raises(Inconclusive, match="no_such_setting"), ThrowawayPostgres(["no_such_setting=1"]):
        pass


@pytest.mark.usefixtures("without_programs")
def test_without_the_programs_the_reason_says_what_to_install() -> None:
    assert missing() == "PostgreSQL is not installed; apt-get install postgresql"
    with pytest.raises(Inconclusive, match="apt-get install postgresql"), ThrowawayPostgres():
        pass


def test_root_without_another_user_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    binaries = tmp_path / "17" / "bin"
    binaries.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (binaries / name).touch()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(postgres, "_PACKAGED", tmp_path)
    monkeypatch.setattr(postgres, "_USERS", ("no-such-user",))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert missing() == "PostgreSQL does not run as root, and none of the users no-such-user exists"


@pytest.mark.usefixtures("without_programs")
def test_a_drill_on_a_server_that_cannot_be_started_is_inconclusive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["--store", "postgresql", "--json", "--journal", str(tmp_path / "journal"), "--runs", "1"])
    told = json.loads(capsys.readouterr().out)
    assert code == 20
    assert told["verdict"] == "inconclusive"
    assert "apt-get install postgresql" in told["reason"]
