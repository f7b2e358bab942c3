"""A running service, which somebody else started: looked at like a cluster, never signalled or restarted.

A drill against it asks each replica for leave before it begins and every second after (`Leave`), does only
what all of them allow, and ends at once where an operator aborts it: by Ctrl-C or `q` here, or by `muster
drill abort` anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import select
import signal
import sys
import termios
import threading
import tty
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from drills.experiment import Inconclusive
from drills.load import LoadError, read_queries
from drills.outcome import positive
from drills.rig.cluster import Cluster, ClusterError, ClusterPlan, Replica, interrupted_by_sigterm
from drills.rig.shop import choose_shop
from muster.client.settings import parse_endpoints
from muster.v1 import admin_pb2_grpc, drill_pb2

CALL_S = 2.0
AGAIN_S = 0.5
"""From one question whether the drill may go on to the next; replicas give up on one after five seconds."""


@dataclass
class Remote(Replica):
    """A replica of a running service."""

    @property
    def running(self) -> bool:
        """As far as a drill is concerned: whether it answers is another question."""
        return True


class Service(Cluster):
    """The replicas at these addresses. Raises: Inconclusive where one does not tell its name."""

    def __init__(self, addresses: Sequence[str]) -> None:
        # As a cluster of which nothing is started: neither its folder nor its names are used.
        super().__init__(ClusterPlan(bundle=Path(), replicas=1), Path())
        self.replicas = [Remote(address, Path(), (), address) for address in addresses]
        for replica in self.replicas:
            try:
                replica.name = self.status(replica).replica
            except grpc.RpcError as error:
                self.close()
                raise Inconclusive(
                    f"the replica at {replica.address} does not answer: {error.code().name}"
                ) from error

    def part(self, count: int) -> Self:
        """So many of the replicas, standbys first, over the same connections."""
        found = copy.copy(self)
        primaries = self.primaries()
        found.replicas = sorted(self.replicas, key=lambda one: one in primaries)[:count]
        return found

    def start(self, count: int | None = None) -> None:
        """It runs."""

    def restart(self, replica: Replica) -> None:
        """It is not ours to start."""

    def signal(self, replica: Replica, number: signal.Signals) -> None:
        """Raises: ClusterError."""
        raise ClusterError(f"replica {replica.name} is not this drill's to signal")

    def wake(self, replica: Replica) -> None:
        """It was never stopped."""

    def close(self, grace_s: float = 5.0) -> None:
        """Closes the connections; the replicas serve on. Safe to call twice."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    def remove_data(self) -> None:
        """It is not ours to delete."""


@dataclass(frozen=True)
class Allowed:
    """What all replicas of a service allow: the least of what each does."""

    faults: frozenset[str]
    blast_radius_replicas: int
    rate_max_per_s: float


def allowed(service: Service) -> Allowed:
    """What its operators allow. Raises: Inconclusive where a replica does not tell."""
    told = [
        _call(service, replica, "DrillStatus", drill_pb2.DrillStatusRequest()) for replica in service.replicas
    ]
    return Allowed(
        frozenset.intersection(*(frozenset(one.allowed) for one in told)),
        min(one.blast_radius_replicas for one in told),
        min(one.rate_max_per_s for one in told),
    )


def _call(service: Service, replica: Replica, name: str, request: Any) -> Any:
    stub = admin_pb2_grpc.AdminServiceStub(service.channel(replica))
    try:
        return getattr(stub, name)(request, timeout=CALL_S)
    except grpc.RpcError as error:
        raise Inconclusive(
            f"replica {replica.name} refuses: {error.details() or error.code().name}"
        ) from error


@dataclass
class Leave:
    """Leave for one drill, of every replica. A context manager: asked for on the way in, told over on the way
    out. While it lasts an operator's abort interrupts the main thread; `why` then says whose it was.

    Raises: Inconclusive, with the replica's words, where one refuses.
    """

    service: Service
    drill: str
    fault: str
    replicas: int
    rate_per_s: float
    why: str = ""
    _drill_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        begun: list[Replica] = []
        try:
            for replica in self.service.replicas:
                self._begin(replica)
                begun.append(replica)
        except Inconclusive:
            for replica in begun:
                self._end(replica)
            raise
        self._thread = threading.Thread(target=self._ask_again, name="leave", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        for replica in self.service.replicas:
            self._end(replica)

    def _begin(self, replica: Replica) -> bool:
        request = drill_pb2.BeginDrillRequest(
            drill_id=self._drill_id,
            drill=self.drill,
            fault=self.fault,
            replicas=self.replicas,
            rate_per_s=self.rate_per_s,
        )
        return bool(_call(self.service, replica, "BeginDrill", request).aborted)

    def _end(self, replica: Replica) -> None:
        # A replica that cannot be told forgets the drill by itself.
        with contextlib.suppress(Inconclusive):
            _call(self.service, replica, "EndDrill", drill_pb2.EndDrillRequest(drill_id=self._drill_id))

    def _ask_again(self) -> None:
        while not self._ended.wait(AGAIN_S):
            for replica in self.service.replicas:
                # One that does not answer may be what the drill is about.
                with contextlib.suppress(Inconclusive):
                    if self._begin(replica):
                        self.why = f"aborted by an operator at replica {replica.name}"
                        interrupt()
                        return


def interrupt() -> None:
    """Ends what the main thread is at, as Ctrl-C does; SIGINT itself may be ignored by a drill that a script
    started in the background."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGTERM)


def _in_background(terminal: int) -> bool:
    """Whether this process would be stopped for changing the terminal, as a shell's background jobs are."""
    try:
        return os.tcgetpgrp(terminal) != os.getpgrp()
    except OSError:
        # A terminal, but not the one that this process is controlled from.
        return False


@contextlib.contextmanager
def abort_key() -> Iterator[None]:
    """While it lasts, `q` on the terminal is what Ctrl-C is. Without a terminal only the latter."""
    if not sys.stdin.isatty() or _in_background(sys.stdin.fileno()):
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    ended = threading.Event()

    def listen() -> None:
        while not ended.is_set():
            ready, _, _ = select.select([terminal], [], [], 0.1)
            if ready and b"q" in os.read(terminal, 64).lower():
                interrupt()
                return

    thread = threading.Thread(target=listen, name="abort-key", daemon=True)
    tty.setcbreak(terminal)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def abort(service: Service) -> list[str]:
    """Has every drill end that is under way against the service; returns their ids. Raises: Inconclusive."""
    found = [
        _call(service, one, "AbortDrill", drill_pb2.AbortDrillRequest()).drill_id for one in service.replicas
    ]
    return list(dict.fromkeys(drill_id for drill_id in found if drill_id))


@contextlib.contextmanager
def with_leave(
    addresses: Sequence[str], drill: str, fault: str, *, replicas: int, rate_per_s: float
) -> Iterator[Service]:
    """The service, once every replica has given leave, for as long as the drill lasts.

    replicas: that it harms; rate_per_s: requests that it adds. Raises: Inconclusive where one refuses, and
    where the drill is aborted, by whomever, once it has undone what it did.
    """
    with contextlib.closing(Service(addresses)) as service:
        leave = Leave(service, drill, fault, replicas, rate_per_s)
        try:
            with interrupted_by_sigterm(), leave, abort_key():
                yield service
        except KeyboardInterrupt as error:
            raise Inconclusive(leave.why or "aborted") from error


def service_options(options: argparse.ArgumentParser) -> None:
    """The options of a drill that can be done to a running service."""
    options.add_argument(
        "--target",
        type=parse_endpoints,
        metavar="HOST:PORT,...",
        help="do it to this running service, as far as its operators allow (settings drills.*); Ctrl-C or q"
        " aborts",
    )
    options.add_argument(
        "--queries", type=Path, metavar="FILE", help="what to ask a running service, one a line"
    )
    options.add_argument(
        "--rate",
        type=positive(float),
        metavar="PER_S",
        help="requests that a drill of a running service may add (default: as many as it allows)",
    )


def refuse_control(given: argparse.Namespace) -> None:
    """Raises: Inconclusive where a protection is to be taken from a service that is not the drill's."""
    if getattr(given, "without", None) or getattr(given, "plant", None):
        raise Inconclusive("a control is for replicas of the drill's own: leave out --target")


def asked_of_service(given: argparse.Namespace, fault: str, *, everyone: bool = False) -> argparse.Namespace:
    """What was asked for, within what the service at `given.target` allows: `harmed` replicas, `rate_per_s`,
    and `queries`. everyone: all its replicas would be harmed. Raises: Inconclusive where it allows too
    little."""
    with contextlib.closing(Service(given.target)) as service:
        found, count = allowed(service), len(service.replicas)
    if fault not in found.faults:
        raise Inconclusive(
            f"the operators of this service do not allow {fault!r}: every replica would have to name it in"
            f" drills.allowed (allowed are: {', '.join(sorted(found.faults)) or 'none'})"
        )
    if everyone and count > found.blast_radius_replicas:
        raise Inconclusive(
            f"all {count} replicas would be harmed, and drills.blast_radius_replicas is"
            f" {found.blast_radius_replicas}"
        )
    rate_per_s = min(found.rate_max_per_s, given.rate or found.rate_max_per_s)
    try:
        queries = (
            [query.text for query in choose_shop(given.products, given.seed).queries]
            if given.queries is None
            else read_queries(given.queries)
        )
    except LoadError as error:
        raise Inconclusive(str(error)) from error
    return argparse.Namespace(
        **{
            **vars(given),
            "harmed": count if everyone else min(count, found.blast_radius_replicas),
            "rate_per_s": rate_per_s,
            # At least half of what may be added is for the fault.
            "reads": min(getattr(given, "reads", rate_per_s), rate_per_s / 2),
            "queries": queries,
        }
    )
