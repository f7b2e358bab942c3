"""Looks at the replicas' ``/metrics`` again and again and tells of the alerts that change."""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

from muster.alerts.evaluator import Alert, Evaluator
from muster.alerts.sinks import Sink, SinkError

PAGE_BYTES_MAX = 8 << 20
_LATE_INTERVALS = 3

Fetch = Callable[[str, float], str | None]


def fetch_page(target: str, timeout_s: float) -> str | None:
    """The ``/metrics`` page of host:port; None where it does not answer in time."""
    try:
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=timeout_s) as response:
            return str(response.read(PAGE_BYTES_MAX).decode("utf-8", "replace"))
    except (OSError, HTTPException, ValueError):
        return None


class Watch:
    """One evaluator over some targets.

    targets: host:port of metrics endpoints; may change between looks (``targets`` is asked each time).
    report: told, as a sentence, of what kept a sink or a page from being used.
    """

    def __init__(
        self,
        targets: Callable[[], Sequence[str]],
        evaluator: Evaluator,
        sinks: Sequence[Sink],
        *,
        interval_s: float,
        timeout_s: float,
        report: Callable[[str], None],
        fetch: Fetch = fetch_page,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._targets = targets
        self._evaluator = evaluator
        self._sinks = sinks
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._report = report
        self._fetch = fetch
        self._clock = clock
        self._stopped = threading.Event()

    def look(self) -> list[Alert]:
        """Scrape all targets at once, evaluate, tell the sinks; returns what changed."""
        targets = list(dict.fromkeys(self._targets()))
        with ThreadPoolExecutor(max_workers=max(1, len(targets)), thread_name_prefix="scrape") as pool:
            pages = list(pool.map(lambda target: self._fetch(target, self._timeout_s), targets))
        now_s = self._clock()
        for target, page in zip(targets, pages, strict=True):
            try:
                self._evaluator.scraped(now_s, target, page)
            except ValueError as error:
                self._report(f"{target} answers with something that is no metrics page: {error}")
                self._evaluator.scraped(now_s, target, None)
        changed = self._evaluator.evaluate(now_s)
        if changed:
            for sink in self._sinks:
                try:
                    sink.tell(changed)
                except SinkError as error:
                    self._report(str(error))
        return changed

    def run(self) -> None:
        """Look until ``stop``."""
        due_s = looked_s = time.monotonic()
        while not self._stopped.is_set():
            since_s, looked_s = time.monotonic() - looked_s, time.monotonic()
            if since_s > _LATE_INTERVALS * self._interval_s:
                self._report(f"late: {since_s:.1f} s between two looks, short alerts may be missed")
            self.look()
            # A look that took longer than the interval is followed by the next one at once, not by several.
            due_s = max(due_s + self._interval_s, time.monotonic())
            self._stopped.wait(due_s - time.monotonic())

    def stop(self) -> None:
        """End ``run`` after the look under way; from any thread, or a signal's handler."""
        with contextlib.suppress(RuntimeError):
            self._stopped.set()
