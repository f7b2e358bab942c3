"""The generation that this replica serves: events go into it, requests read it, a newer one replaces it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import rankcore
from server.catalogue.errors import EventsFolded

_CATCH_UP_EVENTS = 1000

ReadEvents = Callable[[int, int], Sequence[bytes]]
"""First sequence, most events -> committed events from there, ascending, as serialised SequencedEvent."""


LoadSnapshot = Callable[[rankcore.Generation], None]
"""Brings a generation to the log's snapshot, once events that it lacks are folded."""


@dataclass(frozen=True)
class LogReader:
    """What a generation is brought up to date from."""

    read_events: ReadEvents
    load_snapshot: LoadSnapshot = lambda generation: None


class Server(Protocol):
    """The part of ``rankcore.Engine`` that serves a generation."""

    def serve(self, generation: rankcore.Generation) -> None:
        """Requests from here on use ``generation``; running ones finish on the one before."""


class Served:
    """Owns the served generation. Thread-safe.

    Events are applied, and generations exchanged, under one lock, so a replica's applied sequence never
    falls: a new generation is served only once it has applied all that the one before it had.
    """

    def __init__(
        self,
        engine: Server,
        generation: rankcore.Generation,
        log: LogReader,
    ) -> None:
        self._engine = engine
        self._log = log
        self._generation = generation
        self._lock = threading.Lock()
        self._changed_at = time.monotonic()
        self._delta_products = generation.delta_products()

    @property
    def generation(self) -> rankcore.Generation:
        """The one being served."""
        return self._generation

    def quiet_s(self) -> float:
        """Seconds since the text of any product last changed."""
        return time.monotonic() - self._changed_at

    def apply(self, events: Sequence[bytes]) -> int:
        """Apply committed events, ascending; those applied before are skipped. Returns the applied
        sequence.
        """
        with self._lock:
            sequence = self._generation.apply(list(events))
            delta_products = self._generation.delta_products()
            if delta_products != self._delta_products:
                self._delta_products = delta_products
                self._changed_at = time.monotonic()
        return sequence

    def replace(self, generation: rankcore.Generation) -> None:
        """Bring ``generation`` up to the served one's sequence, then serve it instead."""
        while generation.applied_sequence() + _CATCH_UP_EVENTS < self._generation.applied_sequence():
            self._catch_up(generation)
        with self._lock:
            while generation.applied_sequence() < self._generation.applied_sequence():
                self._catch_up(generation)
            self._engine.serve(generation)
            self._generation = generation
            self._delta_products = generation.delta_products()

    def reload(self, opened: rankcore.Generation) -> int:
        """Serve ``opened`` in place of a generation that can follow the log no more, as events that it lacks
        are folded. It is brought to the snapshot first. Returns the applied sequence.
        """
        self._log.load_snapshot(opened)
        self.replace(opened)
        return self._generation.applied_sequence()

    def catch_up(self, sequence: int) -> None:
        """Apply what the log holds up to ``sequence``, a batch at a time."""
        while self._generation.applied_sequence() < sequence:
            with self._lock:
                if self._generation.applied_sequence() < sequence:
                    self._catch_up(self._generation)

    def start(self) -> None:
        """Serve the first generation."""
        with self._lock:
            self._engine.serve(self._generation)

    def _catch_up(self, generation: rankcore.Generation) -> None:
        try:
            events = self._log.read_events(generation.applied_sequence() + 1, _CATCH_UP_EVENTS)
        except EventsFolded:
            self._log.load_snapshot(generation)
            return
        if not events:
            raise AssertionError("the log ends before events that were applied from it")
        generation.apply(list(events))
