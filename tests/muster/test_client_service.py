"""Client and command line against a real primary and a real standby."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from muster import cli
from muster.client import Client, InvalidRequest, MusterError, NotFound, patch, search_filter
from tests.examples.service import PRODUCTS, running_pair


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with running_pair(tmp_path_factory.mktemp("service")) as found:
        yield found


@pytest.fixture
def client(endpoints: list[str]) -> Iterator[Client]:
    with Client(endpoints) as found:
        yield found


def test_ranked_products_come_with_a_receipt(client: Client) -> None:
    answer = client.search("coffee mug", deadline_ms=5_000, facets=["brand"], explain=True)
    assert len(answer.results) == 10
    assert answer.receipt.replica in ("a", "b") and answer.receipt.applied_sequence >= PRODUCTS
    assert answer.facets[0].field == "brand" and answer.results[0].signals


def test_a_write_is_seen_by_the_next_read(client: Client) -> None:
    known = client.search("coffee mug", deadline_ms=5_000).results[0].product_id
    written = client.apply(patch(known, price=1.25, stock=3))
    seen = client.get(known, min_sequence=written.sequence, deadline_ms=5_000)
    assert (seen.product.price, seen.product.stock) == (1.25, 3)


def test_filters_hold(client: Client) -> None:
    answer = client.search("sofa", deadline_ms=5_000, filter=search_filter(price_max=50.0, in_stock=True))
    assert all(result.price <= 50.0 for result in answer.results)


def test_errors_are_the_clients_own(client: Client) -> None:
    with pytest.raises(NotFound):
        client.get("no such product", deadline_ms=5_000)
    with pytest.raises(NotFound):
        client.apply(patch("no such product", stock=1))
    with pytest.raises(InvalidRequest) as caught:
        client.search("", page_size=5_000, deadline_ms=5_000)
    assert {"query", "page_size"} & {field for field, _ in caught.value.violations}


def test_watch_tells_every_event_once(client: Client) -> None:
    stream = client.watch(1)
    assert [next(stream).sequence for _ in range(50)] == list(range(1, 51))
    stream.close()  # type: ignore[attr-defined]


def test_the_command_line_speaks_with_the_service(endpoints: list[str], tmp_path: Path) -> None:
    target = ",".join(endpoints)
    runner = CliRunner()
    (tmp_path / "p.csv").write_text("product_id,title,price\nX1,purple ukulele,30\nX2,green ukulele,40\n")
    loaded = runner.invoke(
        cli.app, ["catalogue", "load", str(tmp_path / "p.csv"), "--target", target, "--json"]
    )
    assert loaded.exit_code == 0, loaded.output
    sequence = json.loads(loaded.stdout)["sequence"]
    found = runner.invoke(
        cli.app,
        [
            "search",
            "ukulele",
            "--target",
            target,
            "--deadline",
            "5s",
            "--json",
            "--min-sequence",
            str(sequence),
        ],
    )
    assert found.exit_code == 0, found.output
    assert {result["product_id"] for result in json.loads(found.stdout)["results"][:2]} == {"X1", "X2"}
    shown = runner.invoke(cli.app, ["status", "--target", target, "--json"])
    assert {entry["status"]["role"] for entry in json.loads(shown.stdout)} == {"primary", "standby"}


def test_nothing_is_lost_and_no_read_fails_when_the_primary_is_killed(tmp_path: Path) -> None:
    with running_pair(tmp_path) as endpoints, Client(endpoints) as client:
        known = [result.product_id for result in client.search("coffee mug", deadline_ms=5_000).results]
        primary = next(
            entry.status.pid for entry in client.status() if entry.status and entry.status.role == 1
        )
        failures: list[MusterError] = []
        acknowledged: list[int] = []
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                try:
                    client.search("coffee mug", deadline_ms=2_000)
                except MusterError as error:
                    failures.append(error)

        def write() -> None:
            stock = 0
            while not done.is_set():
                stock += 1
                client.apply(patch(known[stock % len(known)], stock=stock), deadline_ms=60_000)
                acknowledged.append(stock)

        threads = [threading.Thread(target=read), threading.Thread(target=write)]
        for thread in threads:
            thread.start()
        while len(acknowledged) < 10:
            time.sleep(0.01)
        os.kill(primary, signal.SIGKILL)
        before = len(acknowledged)
        give_up_at = time.monotonic() + 60
        while len(acknowledged) < before + 20 and time.monotonic() < give_up_at:
            time.sleep(0.01)
        done.set()
        for thread in threads:
            thread.join()
        assert len(acknowledged) >= before + 20, "writes go on at the standby"
        assert not failures, f"reads failed: {failures[:3]}"
        stream = client.watch(PRODUCTS + 1)
        logged = [next(stream).event.patch.stock for _ in acknowledged]
        stream.close()  # type: ignore[attr-defined]
        assert logged == acknowledged, "every acknowledged write is in the log once, in order"
