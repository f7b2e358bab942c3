"""What the console knows of the replicas: the newest status of each, and the last minutes of what they count.

One task looks, whoever has a page open; pages read what it found.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import urllib.request
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from muster.client import AsyncClient
from muster.client.operation import ReplicaStatus

LOOK_EVERY_S = 2.0
KEPT_S = 300.0
PAGE_BYTES_MAX = 8 << 20
_STATUS_MS = 1_500.0
_PAGE_S = 1.5

ANSWERED = "muster_answered_total"
BY_TIER = "muster_answered_by_tier_total"
LATE = ("muster_refused_total", "muster_expired_total", "muster_answered_late_total")
PRICE = "muster_price"


@dataclass(frozen=True)
class Counts:
    """What one scrape of one replica counted so far: names to values; tiers: answers by tier."""

    values: Mapping[str, float]
    tiers: Mapping[str, float]

    @classmethod
    def read(cls, page: str) -> Counts:
        """From a metrics page. Raises: ValueError where it is none."""
        values: dict[str, float] = {}
        tiers: dict[str, float] = {}
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name == BY_TIER:
                    tiers[sample.labels.get("tier", "")] = sample.value
                elif sample.name == PRICE or sample.name == ANSWERED or sample.name in LATE:
                    values[sample.name] = sample.value
        return cls(values, tiers)


@dataclass(frozen=True)
class Moment:
    """One look. at_s: seconds since 1970. lag: events that are not applied yet, by replica. in_flight:
    requests, all replicas together. The others are None where no metrics are read, or nothing was asked for.

    per_s: answers a second. in_time: share of the requests that were answered in time. tiers: answers a
    second by tier. price: the highest of all replicas, nDCG per millisecond.
    """

    at_s: float
    lag: Mapping[str, int]
    in_flight: int
    per_s: float | None = None
    in_time: float | None = None
    tiers: Mapping[str, float] = field(default_factory=dict)
    price: float | None = None


def rates(
    before: Mapping[str, Counts], after: Mapping[str, Counts], elapsed_s: float
) -> tuple[float | None, float | None, dict[str, float], float | None]:
    """Answers a second, share in time, answers a second by tier, price: from two scrapes of the same
    replicas.

    A counter that fell began anew with its replica, and is left out for once.
    """
    both = [name for name in after if name in before]
    if not both or elapsed_s <= 0:
        return None, None, {}, None

    def grown(old: float, new: float) -> float:
        return new - old if new >= old else 0.0

    def total(name: str) -> float:
        return sum(grown(before[at].values.get(name, 0.0), after[at].values.get(name, 0.0)) for at in both)

    answered, lost = total(ANSWERED), sum(total(name) for name in LATE[:2])
    late = total(LATE[2])
    asked = answered + lost
    tiers: dict[str, float] = {}
    for at in both:
        for tier, count in after[at].tiers.items():
            more = grown(before[at].tiers.get(tier, 0.0), count)
            tiers[tier] = tiers.get(tier, 0.0) + more / elapsed_s
    prices = [counts.values[PRICE] for counts in after.values() if PRICE in counts.values]
    in_time = (answered - late) / asked if asked else None
    return answered / elapsed_s, in_time, tiers, max(prices, default=None)


class Watching:
    """Looks at the replicas every LOOK_EVERY_S.

    found: the newest answers. pages: the newest metrics pages, None of those that do not answer.
    """

    def __init__(self, client: AsyncClient, metrics: Sequence[str]) -> None:
        self._client = client
        self._metrics = tuple(metrics)
        self.found: list[ReplicaStatus] = []
        self.pages: dict[str, str | None] = {}
        self.looked_s = 0.0
        self.moments: deque[Moment] = deque(maxlen=int(KEPT_S / LOOK_EVERY_S))
        self.price_seen: float | None = None
        self._counts: dict[str, Counts] = {}
        self._counted_s = 0.0

    @property
    def reads_metrics(self) -> bool:
        """Whether there are metrics to read."""
        return bool(self._metrics)

    async def run(self) -> None:
        """Look until it is cancelled."""
        while True:
            begun_s = time.monotonic()
            # What a look meets must not end the watch: the next one may find all well.
            with contextlib.suppress(OSError, ValueError):
                await self.look()
            await asyncio.sleep(max(0.1, LOOK_EVERY_S - (time.monotonic() - begun_s)))

    async def look(self) -> Moment:
        """One look at all replicas."""
        pages = [asyncio.to_thread(fetch_page, address) for address in self._metrics]
        asked = asyncio.create_task(self._client.status(deadline_ms=_STATUS_MS))
        read = await asyncio.gather(*pages)
        found = await asked
        now_s, mono_s = time.time(), time.monotonic()
        self.found, self.looked_s = found, now_s
        self.pages = dict(zip(self._metrics, read, strict=True))
        counts: dict[str, Counts] = {}
        for address, page in self.pages.items():
            if page is not None:
                with contextlib.suppress(ValueError):
                    counts[address] = Counts.read(page)
        per_s, in_time, tiers, price = rates(self._counts, counts, mono_s - self._counted_s)
        self._counts, self._counted_s = counts, mono_s
        moment = Moment(
            at_s=now_s,
            lag=_lag(found),
            in_flight=sum(entry.status.in_flight for entry in found if entry.status is not None),
            per_s=per_s,
            in_time=in_time,
            tiers=tiers,
            # Without a metric of it, the price that the last search on this console was told.
            price=self.price_seen if price is None else price,
        )
        self.moments.append(moment)
        return moment


def _lag(found: Iterable[ReplicaStatus]) -> dict[str, int]:
    statuses = [entry.status for entry in found if entry.status is not None]
    head = max((status.head_sequence for status in statuses), default=0)
    return {status.replica: max(0, head - status.applied_sequence) for status in statuses}


def fetch_page(address: str) -> str | None:
    """The metrics page of host:port; None where it does not answer in time."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=_PAGE_S) as response:
            return str(response.read(PAGE_BYTES_MAX).decode("utf-8", "replace"))
    except (OSError, HTTPException, ValueError):
        return None


def rows(found: Iterable[ReplicaStatus]) -> list[dict[str, Any]]:
    """One row for each replica, for a table."""
    from muster.commands.output import plain

    made = []
    for entry in found:
        if entry.status is None:
            made.append(
                {"endpoint": entry.endpoint, "replica": "-", "role": "no answer", "problem": str(entry.error)}
            )
            continue
        state = plain(entry.status)
        best = max(state["plans"], key=lambda plan: plan["expected_ndcg"], default=None)
        made.append(
            {
                "endpoint": entry.endpoint,
                "replica": state["replica"],
                "role": state["role"],
                "serving": "serving" if state["serving"] else "not serving",
                "epoch": state["epoch"],
                "sequence": f"{state['applied_sequence']:,} of {state['head_sequence']:,}",
                "staleness": f"{state['staleness_ms']:,} ms",
                "products": f"{state['products']:,}",
                "bundle": state["bundle_id"],
                "generation": state["generation_id"] + (", building" if state["building"] else ""),
                "in_flight": state["in_flight"],
                "best": "-" if best is None else f"{best['tier']}@{best['depth']}, {best['cost_ms']:.1f} ms",
                "problem": "",
            }
        )
    return made
