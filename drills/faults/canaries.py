"""Sends marked texts everywhere a caller can put one, and looks for them everywhere afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc

from drills.failover import Rehearsal
from drills.journal import Journal
from drills.rig.canaries import Canary, Search, draw
from drills.rig.cluster import ROOT, Replica
from muster.v1 import feedback_pb2 as pb
from muster.v1 import feedback_pb2_grpc, ranking_pb2, ranking_pb2_grpc

EVENTS = 40
_DEADLINE_S = 10.0
_COMMAND_S = 120.0


@dataclass
class Canaries:
    """The fault. For one run. answers: what replicas said, by what was asked."""

    seed: int
    name: str = "canaries"
    recorded: int = 0
    asked: int = 0
    answers: list[tuple[str, str]] = field(default_factory=list)
    canaries: list[Canary] = field(default_factory=list)

    def inject(self, rehearsal: Rehearsal) -> dict[str, Any]:
        """Sends them: in searches and metadata, in feedback, in what is refused."""
        self.canaries = draw(self.seed)
        texts = {canary.name: canary.text for canary in self.canaries}
        for replica in rehearsal.cluster.replicas:
            self._search(rehearsal, replica, texts)
        self._record(rehearsal, texts)
        return {"canaries": len(self.canaries), "recorded": self.recorded, "asked": self.asked}

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
            (
                "search of a shopper",
                ranking_pb2.SearchRequest(
                    query=texts["query"],
                    shopper_id=texts["shopper"],
                    session_id=texts["session"],
                    explain=True,
                ),
            ),
            (
                "search, a name too long",
                ranking_pb2.SearchRequest(query=texts["query"], shopper_id=(texts["shopper"] + " ") * 40),
            ),
            ("search, wrong page", ranking_pb2.SearchRequest(query=texts["query"], page_size=10_000)),
        ):
            self._ask(
                f"{replica.name}: {what}",
                lambda r=request: stub.Search(r, timeout=_DEADLINE_S, metadata=metadata),
            )

    def _record(self, rehearsal: Rehearsal, texts: Mapping[str, str]) -> None:
        stub = feedback_pb2_grpc.FeedbackServiceStub(rehearsal.cluster.channel(rehearsal.cluster.primary()))
        comment = (
            f"I am {texts['shopper']}, write to {texts['email']} or call {texts['phone']};"
            f" card {texts['card']},"
            f" id {texts['identity']}, key {texts['token']}, {texts['session']}"
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
        ),
        _command(rehearsal, "catalogue", "export", str(cluster.folder / "backup.gz")),
        _command(rehearsal, "catalogue", "verify"),
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
    journal.write("searched", files=search.files, bytes=search.size_bytes, unread=search.unread)
    journal.extend(
        {"kind": "leak", "at_s": journal.elapsed_s(journal.start_s), **asdict(leak)} for leak in search.leaks
    )


def _command(rehearsal: Rehearsal, *arguments: str) -> str:
    """What a command of `muster` prints for the cluster's catalogue. Raises: RuntimeError where it fails."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MUSTER_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH", ""))))
    store = str(rehearsal.cluster.data_dir)
    done = subprocess.run(
        [sys.executable, "-m", "muster.cli", *arguments, "--store", store, "--json"],
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
