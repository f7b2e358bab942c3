"""Sends marked texts everywhere a caller can put one, and looks for them everywhere afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc

from drills.experiment import Inconclusive
from drills.failover import Rehearsal, head_of
from drills.journal import Journal
from drills.rig.canaries import Canary, Leak, Search, draw, draw_stored
from drills.rig.cluster import ROOT, Replica
from muster.client import Client, MusterError
from muster.v1 import catalogue_pb2, feedback_pb2_grpc, ranking_pb2, ranking_pb2_grpc
from muster.v1 import feedback_pb2 as pb

EVENTS = 40
PRODUCTS = 10
"""With marked texts, of a drill that looks into an encrypted store."""

RETENTION_EVENTS_MAX = 500
"""Of the log of an encrypted store: more than one run writes, so that its history can be read."""

_FOLDED_S = 30.0
_POLL_S = 0.1
_DEADLINE_S = 10.0
_COMMAND_S = 120.0


@dataclass
class Canaries:
    """The fault. For one run. answers: what replicas said, by what was asked.

    store_keys: of an encrypted store, into which marked texts of products go as well; empty: it is not.
    unlocked: the keys were taken away, and the store is looked into all the same.
    """

    seed: int
    store_keys: str = ""
    unlocked: bool = False
    name: str = "canaries"
    recorded: int = 0
    asked: int = 0
    answers: list[tuple[str, str]] = field(default_factory=list)
    canaries: list[Canary] = field(default_factory=list)
    stored: list[Canary] = field(default_factory=list)

    @property
    def into_store(self) -> bool:
        """Whether the store's own files are looked through for what it keeps."""
        return bool(self.store_keys) or self.unlocked

    def inject(self, rehearsal: Rehearsal) -> dict[str, Any]:
        """Sends them: in searches and metadata, in feedback, in what is refused."""
        self.canaries = draw(self.seed)
        texts = {canary.name: canary.text for canary in self.canaries}
        for replica in rehearsal.cluster.replicas:
            self._search(rehearsal, replica, texts)
        if self.into_store:
            self.stored = draw_stored(self.seed)
            texts |= {canary.name: canary.text for canary in self.stored}
            self._offer(rehearsal, texts)
        self._record(rehearsal, texts)
        return {
            "canaries": len(self.canaries),
            "stored": len(self.stored),
            "recorded": self.recorded,
            "asked": self.asked,
        }

    def rollback(self, rehearsal: Rehearsal) -> None:
        """Nothing was broken."""

    def _search(self, rehearsal: Rehearsal, replica: Replica, texts: Mapping[str, str]) -> None:
        stub = ranking_pb2_grpc.RankingServiceStub(rehearsal.cluster.channel(replica))
        metadata = (
            ("x-request-id", texts["metadata"]),
            ("authorization", f"Bearer {texts['token']}"),
            ("cookie", f"session={texts['session']}"),
            ("muster-shopper-key", texts["shopper"]),
        )
        for what, request in (
            ("search", ranking_pb2.SearchRequest(query=texts["query"], explain=True)),
            ("search, too long", ranking_pb2.SearchRequest(query=f"{texts['email']} " * 200)),
            ("search, wrong page", ranking_pb2.SearchRequest(query=texts["query"], page_size=10_000)),
        ):
            self._ask(
                f"{replica.name}: {what}",
                lambda r=request: stub.Search(r, timeout=_DEADLINE_S, metadata=metadata),
            )

    def _offer(self, rehearsal: Rehearsal, texts: Mapping[str, str]) -> None:
        """Products with marked texts."""
        events = []
        for number in range(PRODUCTS):
            product = catalogue_pb2.Product(
                product_id=f"marked-{number}",
                title=texts["title"],
                description=texts["description"],
                brand=texts["brand"],
                category=[texts["category"]],
                attributes={"note": texts["attribute"]},
            )
            events.append(catalogue_pb2.Event(event_id=f"marked-{number}", upsert=product))
        try:
            with Client(rehearsal.cluster.addresses) as client:
                client.apply(events, deadline_ms=1000.0 * _FOLDED_S)
        except MusterError as error:
            raise Inconclusive(f"products with marked texts could not be written: {error}") from error

    def _record(self, rehearsal: Rehearsal, texts: Mapping[str, str]) -> None:
        stub = feedback_pb2_grpc.FeedbackServiceStub(rehearsal.cluster.channel(rehearsal.cluster.primary()))
        comment = (
            f"I am {texts['shopper']}, write to {texts['email']} or call {texts['phone']};"
            f" card {texts['card']},"
            f" id {texts['identity']}, key {texts['token']}, {texts['session']}"
            + (f"; {texts['comment']}" if "comment" in texts else "")
        )

        def event(number: int, **more: Any) -> pb.FeedbackEvent:
            comments = number % 2 == 0
            values: dict[str, Any] = {
                "event_id": f"{texts['event id']}-{number}",
                "kind": pb.FEEDBACK_KIND_COMMENT if comments else pb.FEEDBACK_KIND_CLICK,
                "product_id": rehearsal.product_ids[number % len(rehearsal.product_ids)],
                "receipt_id": texts["receipt"],
                "shopper_id": texts["shopper"],
                "session_id": texts["session"],
                "query": texts["query"],
                "comment": comment if comments else "",
            }
            return pb.FeedbackEvent(**{**values, **more})

        def record(*events: pb.FeedbackEvent) -> pb.RecordResponse:
            answer: pb.RecordResponse = stub.Record(pb.RecordRequest(events=events), timeout=_DEADLINE_S)
            return answer

        for start in range(0, EVENTS, 10):
            batch = [event(start + number) for number in range(10)]
            if self._ask("record", lambda batch=batch: record(*batch)):
                self.recorded += len(batch)
        for field_name in ("shopper_id", "session_id", "receipt_id"):
            long = (texts["shopper"] + " ") * 40
            self._ask(
                f"record, {field_name} too long",
                lambda name=field_name, long=long: record(event(1, **{name: long})),
            )
        self._ask("record, an id with a line feed", lambda: record(event(1, event_id=texts["email"] + "\n")))
        self._ask("record, a comment on a click", lambda: record(event(1, comment=comment)))

    def _ask(self, what: str, call: Any) -> bool:
        """Keeps what was answered, good or bad. Returns whether it was good."""
        self.asked += 1
        try:
            self.answers.append((f"answer to {what}", str(call())))
        except grpc.RpcError as error:
            trailers = [
                (key, bytes(value, "utf-8") if isinstance(value, str) else value)
                for key, value in error.trailing_metadata() or ()
            ]
            self.answers.append((f"refusal of {what}", f"{error.code()} {error.details()}"))
            self.answers += [
                (f"refusal of {what}, {key}", value.decode("latin-1")) for key, value in trailers
            ]
            return False
        return True


def look(rehearsal: Rehearsal, journal: Journal, sent: Canaries) -> None:
    """Exports what there is, then looks through everything, and writes what was found into the history."""
    cluster = rehearsal.cluster
    keys = ("--store-keys", sent.store_keys) if sent.store_keys else ()
    backup = cluster.folder / "backup.gz"
    outputs = [
        _command(
            rehearsal,
            "feedback",
            "export",
            str(cluster.folder / "feedback.parquet"),
            "--texts",
            "--unknown-receipts",
            "--per-minute-max",
            "0",
            *keys,
        ),
        _command(rehearsal, "catalogue", "export", str(backup), *keys),
        _command(rehearsal, "catalogue", "verify", *keys),
    ]
    search = Search(sent.canaries)
    for number, output in enumerate(outputs, start=1):
        search.text(f"command {number}", output)
    for name, answer in sent.answers:
        search.text(name, answer)
    for replica in cluster.replicas:
        search.text(f"metrics of {replica.name}", _metrics(replica))
        search.text(f"status of {replica.name}", str(cluster.status(replica)))
    search.folder(cluster.folder)
    if not journal.path.is_relative_to(cluster.folder):
        search.file(journal.path, journal.path.name)
    leaks = [*search.leaks, *_look_into_store(rehearsal, journal, sent, backup)]
    journal.write("searched", files=search.files, bytes=search.size_bytes, unread=search.unread)
    journal.extend(
        {"kind": "leak", "at_s": journal.elapsed_s(journal.start_s), **asdict(leak)} for leak in leaks
    )


def _look_into_store(rehearsal: Rehearsal, journal: Journal, sent: Canaries, backup: Path) -> list[Leak]:
    """Looks for all that was sent in the store's files: log, snapshot, feedback and the write-ahead log. What
    of it the store keeps is read in the backup, which is not encrypted.
    """
    if not sent.into_store:
        return []
    kept = Search(sent.stored)
    kept.file(backup, backup.name)
    folded = _fold(rehearsal)
    search = Search([*sent.canaries, *sent.stored])
    cluster, server = rehearsal.cluster, rehearsal.server
    for path in sorted(cluster.data_dir.glob("catalogue.sqlite3*")):
        search.file(path, str(path.relative_to(cluster.folder)))
    if server is not None:
        search.folder(server.folder)
    journal.write(
        "store_searched",
        files=search.files,
        bytes=search.size_bytes,
        unread=search.unread,
        kept=sorted({leak.canary for leak in kept.leaks}),
        folded=folded,
    )
    return search.leaks


def _fold(rehearsal: Rehearsal) -> bool:
    """Writes as many events as the log keeps, and waits until all before them are in the snapshot. False
    where that takes too long."""
    cluster = rehearsal.cluster
    before, _ = head_of(cluster)
    run = uuid.uuid4().hex
    filling = [
        catalogue_pb2.Event(
            event_id=f"filling-{run}-{number}",
            patch=catalogue_pb2.Patch(product_id=rehearsal.product_ids[0], price=float(number)),
        )
        for number in range(RETENTION_EVENTS_MAX)
    ]
    try:
        with Client(cluster.addresses) as client:
            client.apply(filling, deadline_ms=1000.0 * _FOLDED_S)
    except MusterError:
        return False
    end_s = time.monotonic() + _FOLDED_S
    while time.monotonic() < end_s:
        # Only a primary folds, and tells how far it came.
        if (
            max(cluster.status(one).folding.first_sequence for one in cluster.replicas if one.running)
            > before
        ):
            return True
        time.sleep(_POLL_S)
    return False


def new_keys(path: Path) -> None:
    """Draws a key for a store into a file of its own. Raises: RuntimeError where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    _muster("privacy", "new-key", str(path), "--json")


def _command(rehearsal: Rehearsal, *arguments: str) -> str:
    """What a command of `muster` prints for the cluster's catalogue. Raises: RuntimeError where it fails."""
    plan = rehearsal.cluster.plan
    store = str(plan.settings.get("catalogue", {}).get("store") or rehearsal.cluster.data_dir)
    return _muster(*arguments, "--store", store, "--json")


def _muster(*arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MUSTER_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH", ""))))
    done = subprocess.run(
        [sys.executable, "-m", "muster.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=_COMMAND_S,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            f"muster {' '.join(arguments[:2])} ended with {done.returncode}: {done.stderr[-400:]}"
        )
    return done.stdout + done.stderr


def _metrics(replica: Replica) -> bytes:
    """What the replica publishes; nothing where it has no endpoint."""
    address = replica.metrics_address()
    if not address:
        return b""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=_DEADLINE_S) as answer:
        content: bytes = answer.read()
    return content


def fresh_seed() -> int:
    """Of texts that no earlier run has left behind."""
    return uuid.uuid4().int
