"""A scripted replica for testing the drills themselves: the real wire, roles by health, a shared log, no
ranking.

Started like the server (`python -m tests.drills.fake_replica --config FILE --port-file FILE`). The `[fake]`
section of its settings switches a protection off, one at a time, so that a judge can be shown what it must
find:

    lose_every = N        acknowledge every Nth patch without writing it
    double_every = N      write every Nth patch at two places
    keep_epoch = true     the first primary reigns in epoch 2, every later one in epoch 1
    fail_reads_every = N  answer every Nth search with INTERNAL
    takeover_s = X        wait this long before taking over
    drain_code = N        end with this code after a drain
    keep_lease = true     answer a transfer without giving the lease away
    service_ms = X        work for one search of the best plan, done by one worker at a time (default 1)
    shed = true           answer by a cheap tier what the best plan cannot answer in time (default true)
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import os
import signal
import sqlite3
import threading
import time
import tomllib
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from muster.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    catalogue_pb2,
    catalogue_pb2_grpc,
    ranking_pb2,
    ranking_pb2_grpc,
)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Log:
    """The shared log: one table of events, one row with the epoch."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5.0)
        self._lock = threading.Lock()
        self._switch_to_wal()
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS log "
            "(sequence INTEGER PRIMARY KEY, epoch INTEGER, event_id TEXT, body BLOB)"
        )
        self._database.execute("CREATE TABLE IF NOT EXISTS reign (epoch INTEGER, holder TEXT)")

    def _switch_to_wal(self) -> None:
        # The switch needs the file alone and does not wait for it: replicas that start together try again.
        give_up_s = time.monotonic() + 5.0
        while True:
            try:
                self._database.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() >= give_up_s:
                    raise
                time.sleep(0.01)

    def query(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(text, values).fetchall()

    def find(self, event_id: str) -> int | None:
        rows = self.query("SELECT sequence FROM log WHERE event_id = ?", event_id)
        return int(rows[0][0]) if rows else None

    def append(self, epoch: int, event: catalogue_pb2.Event) -> int:
        with self._lock:
            cursor = self._database.execute(
                "INSERT INTO log (epoch, event_id, body) VALUES (?, ?, ?)",
                (epoch, event.event_id, event.SerializeToString()),
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def head(self) -> int:
        return int(self.query("SELECT COALESCE(MAX(sequence), 0) FROM log")[0][0])

    def next_epoch(self, holder: str) -> int:
        self.query("INSERT INTO reign SELECT COALESCE(MAX(epoch), 0) + 1, ? FROM reign", holder)
        return self.reign()[0]

    def reign(self) -> tuple[int, str]:
        [(epoch, holder)] = self.query("SELECT epoch, holder FROM reign ORDER BY epoch DESC LIMIT 1")
        return int(epoch), str(holder)

    def read(self, start: int) -> list[tuple[Any, ...]]:
        return self.query(
            "SELECT sequence, epoch, body FROM log WHERE sequence >= ? ORDER BY sequence", start
        )


class Replica(
    ranking_pb2_grpc.RankingServiceServicer,
    catalogue_pb2_grpc.CatalogueServiceServicer,
    admin_pb2_grpc.AdminServiceServicer,
):
    def __init__(self, name: str, log: Log, switches: dict[str, Any]) -> None:
        self.name = name
        self.log = log
        self.switches = switches
        self.epoch = 0
        self.primary = False
        self.writes = itertools.count(1)
        self.reads = itertools.count(1)
        self.worker = threading.Lock()
        self.waiting = 0
        self.roles = health.HealthServicer(experimental_non_blocking=True)
        self.give_up = threading.Event()

    def every(self, name: str, number: int) -> bool:
        period = int(self.switches.get(name, 0))
        return period > 1 and number % period == 0

    def Search(self, request: ranking_pb2.SearchRequest, context: Any) -> ranking_pb2.SearchResponse:  # noqa: N802
        if self.every("fail_reads_every", next(self.reads)):
            context.abort(grpc.StatusCode.INTERNAL, "scripted")
        service_s = float(self.switches.get("service_ms", 1)) / 1000.0
        left_s = context.time_remaining()
        left_s = 10.0 if left_s is None else left_s
        # Admission as simple as it gets: the wait is what stands before us.
        best = not self.switches.get("shed", True) or (self.waiting + 2) * service_s < left_s - 0.02
        if best:
            self.waiting += 1
            with self.worker:
                time.sleep(service_s)
            self.waiting -= 1
        tier = ranking_pb2.TIER_LATE if best else ranking_pb2.TIER_LEXICAL
        receipt = ranking_pb2.Receipt(
            tier=tier,
            depth=100 if best else 0,
            expected_ndcg=1.0 if best else 0.8,
            reason=ranking_pb2.REASON_BEST if best else ranking_pb2.REASON_LOAD,
            planned_tier=tier,
            replica=self.name,
            epoch=self.epoch,
            applied_sequence=self.log.head(),
        )
        return ranking_pb2.SearchResponse(
            results=[ranking_pb2.RankedProduct(product_id="1", title="scripted", score=1.0)], receipt=receipt
        )

    def Recommend(  # noqa: N802
        self, request: ranking_pb2.RecommendRequest, context: Any
    ) -> ranking_pb2.RecommendResponse:
        receipt = ranking_pb2.Receipt(
            tier=ranking_pb2.TIER_SIMILAR if request.history else ranking_pb2.TIER_POPULARITY,
            reason=ranking_pb2.REASON_DEPENDENCY,
            replica=self.name,
            epoch=self.epoch,
            applied_sequence=self.log.head(),
        )
        return ranking_pb2.RecommendResponse(receipt=receipt)

    def Apply(self, request: catalogue_pb2.ApplyRequest, context: Any) -> catalogue_pb2.ApplyResponse:  # noqa: N802
        if not self.primary:
            context.abort(grpc.StatusCode.UNAVAILABLE, "a standby")
        sequence, duplicates = 0, 0
        for event in request.events:
            # Only the drill's own writes go wrong, so that a catalogue can be loaded first.
            number = next(self.writes) if event.WhichOneof("change") == "patch" else 1
            known = self.log.find(event.event_id)
            if known is not None:
                sequence, duplicates = max(sequence, known), duplicates + 1
            elif self.every("lose_every", number):
                sequence = self.log.head() + 1
            else:
                sequence = self.log.append(self.epoch, event)
                if self.every("double_every", number):
                    self.log.append(self.epoch, event)
        return catalogue_pb2.ApplyResponse(sequence=sequence, epoch=self.epoch, duplicates=duplicates)

    def Get(self, request: catalogue_pb2.GetRequest, context: Any) -> catalogue_pb2.GetResponse:  # noqa: N802
        return catalogue_pb2.GetResponse(applied_sequence=self.log.head())

    def Watch(  # noqa: N802
        self, request: catalogue_pb2.WatchRequest, context: Any
    ) -> Iterator[catalogue_pb2.WatchResponse]:
        start = max(1, request.from_sequence)
        while context.is_active():
            for sequence, epoch, body in self.log.read(start):
                start = sequence + 1
                yield catalogue_pb2.WatchResponse(
                    event=catalogue_pb2.SequencedEvent(
                        sequence=sequence, epoch=epoch, event=catalogue_pb2.Event.FromString(body)
                    )
                )
            time.sleep(0.02)

    def Status(self, request: admin_pb2.StatusRequest, context: Any) -> admin_pb2.StatusResponse:  # noqa: N802
        head = self.log.head()
        return admin_pb2.StatusResponse(
            replica=self.name,
            role=admin_pb2.ROLE_PRIMARY if self.primary else admin_pb2.ROLE_STANDBY,
            epoch=self.epoch,
            head_sequence=head,
            applied_sequence=head,
            serving=True,
            bundle_id="scripted",
            generation_id="scripted",
            pid=os.getpid(),
            plans=[admin_pb2.PlanStatus(tier="late", depth=100, expected_ndcg=0.6, cost_ms=1.0)],
        )

    def Drain(self, request: admin_pb2.DrainRequest, context: Any) -> admin_pb2.DrainResponse:  # noqa: N802
        self.primary = False
        for service in ("muster.v1.RankingService", "muster.v1.CatalogueService"):
            self.roles.set(service, NOT_SERVING)
        threading.Timer(0.3, os._exit, [int(self.switches.get("drain_code", 0))]).start()
        return admin_pb2.DrainResponse()

    def TransferLease(  # noqa: N802
        self, request: admin_pb2.TransferLeaseRequest, context: Any
    ) -> admin_pb2.TransferLeaseResponse:
        if not self.primary:
            context.abort(grpc.StatusCode.UNAVAILABLE, "a standby")
        before, holder = self.log.reign()
        if self.switches.get("keep_lease"):
            return admin_pb2.TransferLeaseResponse(primary=holder, epoch=before)
        self.primary = False
        self.roles.set("muster.v1.CatalogueService", NOT_SERVING)
        self.give_up.set()
        while context.is_active():
            epoch, holder = self.log.reign()
            if epoch > before:
                return admin_pb2.TransferLeaseResponse(primary=holder, epoch=epoch)
            time.sleep(0.01)
        return admin_pb2.TransferLeaseResponse()


def reign(replica: Replica, lock_path: Path) -> None:
    """Waits for the kernel lock, which a dead primary has let go, and takes over; again after each
    transfer."""
    handle = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    while True:
        fcntl.flock(handle, fcntl.LOCK_EX)
        epoch = replica.log.next_epoch(replica.name)
        if epoch > 1:
            time.sleep(float(replica.switches.get("takeover_s", 0.0)))
        if replica.switches.get("keep_epoch"):
            epoch = 2 if epoch == 1 else 1
        replica.epoch, replica.primary = epoch, True
        print(f"this replica is the primary of epoch {epoch}", flush=True)
        replica.roles.set("muster.v1.CatalogueService", SERVING)
        replica.give_up.wait()
        replica.give_up.clear()
        fcntl.flock(handle, fcntl.LOCK_UN)
        time.sleep(1.0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--port-file", type=Path, required=True)
    arguments = parser.parse_args()
    settings = tomllib.loads(arguments.config.read_text(encoding="utf-8"))
    data = Path(settings["data_dir"])
    data.mkdir(parents=True, exist_ok=True)
    replica = Replica(settings["replica"], Log(data / "catalogue.sqlite3"), settings.get("fake", {}))

    options = [
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 50),
        ("grpc.http2.max_ping_strikes", 0),
    ]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64), options=options)
    roles = replica.roles
    ranking_pb2_grpc.add_RankingServiceServicer_to_server(replica, server)
    catalogue_pb2_grpc.add_CatalogueServiceServicer_to_server(replica, server)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(replica, server)
    health_pb2_grpc.add_HealthServicer_to_server(roles, server)
    port = server.add_insecure_port(settings["listen"])
    for service in ("", "muster.v1.RankingService", "muster.v1.AdminService"):
        roles.set(service, SERVING)
    roles.set("muster.v1.CatalogueService", NOT_SERVING)
    server.start()
    arguments.port_file.write_text(f"127.0.0.1:{port}\n", encoding="utf-8")
    threading.Thread(target=reign, args=(replica, data / "primary.lock"), daemon=True).start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    os._exit(0)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
