"""What one caller has seen of the log, carried from call to call, so that its reads never go behind it."""

from __future__ import annotations

import threading
from typing import Any


class Session:
    """Read your writes, over any replicas: pass one session to every call of one shopper or one job.

    A read with a session is answered only by a replica that has applied what the session has seen: the
    writes made with it and, where `monotonic_reads` is set, whatever an earlier read saw. Thread-safe, for
    `Client` and `AsyncClient` alike. `sequence` may be kept (in a cookie, say) and given to a session in
    another process.

    sequence: what was seen before. monotonic_reads: also never read what is older than an earlier read; costs
    a standby that is some milliseconds behind a short wait.
    """

    def __init__(self, sequence: int = 0, *, monotonic_reads: bool = False) -> None:
        if sequence < 0:
            raise ValueError(f"a sequence is not below 0, like {sequence}")
        self._sequence = sequence
        self._monotonic_reads = monotonic_reads
        self._lock = threading.Lock()

    @property
    def sequence(self) -> int:
        """The least sequence that its next read must have seen."""
        with self._lock:
            return self._sequence

    def wrote(self, sequence: int) -> None:
        """A write of this session is in the log at this sequence."""
        with self._lock:
            self._sequence = max(self._sequence, sequence)

    def read(self, applied_sequence: int) -> None:
        """A read of this session was answered by a replica that had applied this sequence."""
        if self._monotonic_reads:
            self.wrote(applied_sequence)


def min_sequence_for(session: Session | None, min_sequence: int) -> int:
    """What a read asks for: the greater of what its caller names and what its session has seen."""
    return min_sequence if session is None else max(min_sequence, session.sequence)


def shown_sequence(response: Any) -> int:
    """The sequence up to which an answer shows the log; 0: it does not say."""
    told = getattr(response, "receipt", response)
    return int(getattr(told, "applied_sequence", 0))
