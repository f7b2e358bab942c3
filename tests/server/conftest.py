"""A tiny bundle, and a primary with a standby that many tests read and write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from drills.rig.postgres import ThrowawayPostgres, missing
from tests.fixtures.tiny_bundle import build
from tests.server.replica import Replica, shoes, wait_until


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with random but fixed weights."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    build(folder)
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[ThrowawayPostgres]:
    """A PostgreSQL server for all tests that leave it running."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with ThrowawayPostgres() as server:
        yield server


@pytest.fixture(scope="session")
def used_database(postgres: ThrowawayPostgres) -> str:
    """The address of a database of that server, as the last test left it."""
    return postgres.create_database("muster_test")


@pytest.fixture(scope="session")
def used_other_database(postgres: ThrowawayPostgres) -> str:
    """As `used_database`, another one."""
    return postgres.create_database("muster_other")


@pytest.fixture
def database(used_database: str) -> str:
    """The address of an empty database: of the same one, for making one costs more than most tests."""
    return emptied(used_database)


@pytest.fixture
def other_database(used_other_database: str) -> str:
    """The address of another empty database."""
    return emptied(used_other_database)


def emptied(address: str) -> str:
    with psycopg.connect(address.replace("+psycopg", ""), autocommit=True) as session:
        session.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        session.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return address


@pytest.fixture
def own_server() -> Iterator[ThrowawayPostgres]:
    """A PostgreSQL server that the test may break."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with ThrowawayPostgres() as server:
        yield server


@dataclass(frozen=True)
class Pair:
    """Two replicas of one catalogue."""

    primary: Replica
    standby: Replica


@pytest.fixture(scope="session")
def pair(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A primary and a standby with sixty shoes. Tests may add products, never stop a replica."""
    data_dir = tmp_path_factory.mktemp("pair") / "data"
    settings = {"generation.rebuild": "false", "rpc.watch_streams_max": 2, "metrics.listen": "127.0.0.1:0"}
    with Replica(bundle, data_dir, "a", settings) as primary:
        primary.wait_primary()
        with Replica(bundle, data_dir, "b", {**settings, "lease.eligible": "false"}) as standby:
            standby.wait_serving()
            sequence = primary.apply(*shoes(60)).sequence
            wait_until(lambda: standby.status().applied_sequence >= sequence, "the standby has applied all")
            yield Pair(primary, standby)
