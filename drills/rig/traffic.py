"""What an application sends, through the client it would use: searches of real queries, price and stock
changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drills.journal import Journal
from drills.rig.load import OK, OpenLoop, Sample, receipt_fields
from muster.client import AsyncClient, MusterError, Session, patch

SESSION = "shopper"
"""How the history names the session that reads and writes share."""

_SESSION_EVERY = 5


class ClientReads:
    """Searches in turn over the queries, hedged and retried as the client does by default.

    deadline_ms: counts from the moment of sending; the history measures from the intended one. session: what
    every fifth search reads in, so that it must see what was written in it.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        queries: Sequence[str],
        *,
        deadline_ms: float,
        session: Session | None = None,
    ) -> None:
        self._session = session
        self._addresses = list(addresses)
        self._queries = tuple(queries)
        self._deadline_ms = deadline_ms
        self._client: AsyncClient | None = None

    async def open(self) -> None:
        """Makes the client; it connects with the first call."""
        self._client = AsyncClient(self._addresses)

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        """One search; the status of a failure is the name of the client's error."""
        assert self._client is not None
        query = self._queries[index % len(self._queries)]
        session = self._session if index % _SESSION_EVERY == 0 else None
        told = {} if session is None else {"session": SESSION}
        try:
            answer = await self._client.search(query, deadline_ms=self._deadline_ms, session=session)
        except MusterError as error:
            return type(error).__name__, {"detail": str(error), **told}
        return OK, {**receipt_fields(answer.receipt), **told}

    async def close(self) -> None:
        """Closes the client."""
        assert self._client is not None
        await self._client.close()


class ClientWrites:
    """Changes price and stock of the products in turn, one event a call, each with an event id of its own.

    prefix: of the event ids; unique to a run, so that the log tells its runs apart. session: what all of them
    write in.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        product_ids: Sequence[str],
        *,
        deadline_ms: float,
        prefix: str,
        session: Session | None = None,
    ) -> None:
        self._session = session
        self._addresses = list(addresses)
        self._product_ids = tuple(product_ids)
        self._deadline_ms = deadline_ms
        self._prefix = prefix
        self._client: AsyncClient | None = None

    async def open(self) -> None:
        """Makes the client; it connects with the first call."""
        self._client = AsyncClient(self._addresses)

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        """One write. Where the `outcome` of a failure is unknown, the event may be in the log or not."""
        assert self._client is not None
        event_id = f"{self._prefix}-{index}"
        product_id = self._product_ids[index % len(self._product_ids)]
        event = patch(product_id, price=1.0 + index / 100, stock=index, event_id=event_id)
        told = {"event_id": event_id} if self._session is None else {"event_id": event_id, "session": SESSION}
        try:
            answer = await self._client.apply(event, deadline_ms=self._deadline_ms, session=self._session)
        except MusterError as error:
            return type(error).__name__, {
                **told,
                "outcome": error.outcome,
                "reason": error.reason,
                "detail": str(error),
            }
        return OK, {
            **told,
            "sequence": answer.sequence,
            "epoch": answer.epoch,
            "duplicates": answer.duplicates,
        }

    async def close(self) -> None:
        """Closes the client."""
        assert self._client is not None
        await self._client.close()


class RecordedLoad:
    """An open-loop load whose requests are written into the history once it has ended."""

    def __init__(self, loop: OpenLoop, journal: Journal) -> None:
        self._loop = loop
        self._journal = journal
        self._stopped = False

    def start(self) -> None:
        """Connects and begins."""
        self._loop.start()

    @property
    def samples(self) -> list[Sample]:
        """What has ended so far."""
        return self._loop.samples

    def stop(self) -> None:
        """Ends the load and writes every request into the history."""
        if self._stopped:
            return
        self._stopped = True
        self._journal.extend(sample.record(self._journal.start_s) for sample in self._loop.stop())
