"""What a replica counts, and the optional Prometheus endpoint.

The gRPC series follow the convention of go-grpc-prometheus. What the ranking core and the front count is read
from them when someone looks.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

import rankcore
from server import config, health


@dataclass(frozen=True)
class Ended:
    """A call that has ended, for whoever traces. metadata: of the caller."""

    service: str
    method: str
    code: grpc.StatusCode
    took_s: float
    request_id: str
    metadata: Sequence[tuple[str, Any]]


class Call:
    """The series of one method, looked up once."""

    def __init__(self, metrics: Metrics, kind: str, service: str, method: str) -> None:
        self._metrics = metrics
        self._service, self._method = service, method
        self._labels = (kind, service, method)
        self._started = metrics.started.labels(*self._labels)
        self._seconds = metrics.seconds.labels(*self._labels)
        self._handled = {
            code: metrics.handled.labels(*self._labels, _code_name(code)) for code in grpc.StatusCode
        }

    def start(self) -> float:
        """Count a call; returns its start for ``finish``."""
        self._started.inc()
        return time.perf_counter()

    def finish(
        self,
        started: float,
        code: grpc.StatusCode,
        *,
        request_id: str = "",
        metadata: Sequence[tuple[str, Any]] = (),
    ) -> None:
        """Count the end of a call, and tell whoever traces."""
        took_s = time.perf_counter() - started
        self._seconds.observe(took_s)
        self._handled[code].inc()
        if self._metrics.on_end is not None:
            self._metrics.on_end(Ended(self._service, self._method, code, took_s, request_id, metadata))


class Metrics:
    """The registry of one replica.

    status: what the replica says of itself by name, as ``server.observation`` reads it: numbers (``_GAUGES``,
    ``_COUNTERS``), numbers by label (``_LABELLED``), histograms (``_HISTOGRAMS``). front, guarded: what
    ``rankcore.Front.counted`` and ``guarded`` return, the latter with `audit_damaged`. All are called at each
    scrape.
    """

    def __init__(
        self,
        status: Callable[[], Mapping[str, Any]],
        *,
        front: Callable[[], Mapping[str, Mapping[str, Any]]] = dict,
        guarded: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.registry = CollectorRegistry()
        self.on_end: Callable[[Ended], None] | None = None
        labels = ("grpc_type", "grpc_service", "grpc_method")
        # Not registered: each is exposed as one family together with the front's.
        self.started = Counter("grpc_server_started", "Calls begun.", labels, registry=None)
        self.handled = Counter(
            "grpc_server_handled", "Calls ended, by status.", (*labels, "grpc_code"), registry=None
        )
        self.seconds = Histogram(
            "grpc_server_handling_seconds",
            "Time from the handler's start to its end.",
            labels,
            buckets=rankcore.front_bounds_s(),
            registry=None,
        )
        self.registry.register(_CallCollector(self, front))
        self.registry.register(_ReplicaCollector(status))
        self.registry.register(_GuardCollector(guarded))
        ProcessCollector(registry=self.registry)

    def call(self, kind: str, service: str, method: str) -> Call:
        """The series of one method. kind: "unary" or "server_stream"."""
        return Call(self, kind, service, method)


_GAUGES = {
    "primary": ("muster_primary", "1 on the primary, 0 on a standby."),
    "primary_known": ("muster_primary_known", "1 while the lease, as seen here, has a holder."),
    "lease_age_s": ("muster_lease_age_seconds", "Time since the lease, as seen here, was last extended."),
    "serving": ("muster_serving", "1 while the read services report SERVING."),
    "epoch": ("muster_epoch", "Highest epoch seen."),
    "head_sequence": ("muster_head_sequence", "Highest sequence known to be in the log."),
    "applied_sequence": ("muster_applied_sequence", "Highest sequence applied here."),
    "lag_events": ("muster_lag_events", "Events known to be in the log that are not applied here."),
    "lag_s": ("muster_lag_seconds", "How long this replica has been known to be behind the log."),
    "staleness_s": ("muster_staleness_seconds", "Time since the whole log was last known to be applied."),
    "products": ("muster_products", "Products that can be found."),
    "delta_products": ("muster_delta_products", "Products whose text is newer than the generation."),
    "generation_age_s": ("muster_generation_age_seconds", "Time since the generation was built."),
    "generation_recall": (
        "muster_generation_recall",
        "Recall at 100 of the dense index against an exact scan, as the build measured it.",
    ),
    "generation_failures": ("muster_generation_failures", "Builds in a row that failed."),
    "building": ("muster_building", "1 while a generation is being built on this machine."),
    "deploy_rolled_back": (
        "muster_deploy_rolled_back",
        "1 while the last deploy is rolled back, or being so.",
    ),
    "in_flight": ("muster_in_flight", "Requests waiting or running in the ranking core."),
    "queued": ("muster_queued", "Requests waiting in the ranking core."),
    "workers": ("muster_workers", "Worker threads of the ranking core."),
    "price": ("muster_price", "Price of a core millisecond now, nDCG per millisecond; 0 when idle."),
    "fold_failures": ("muster_fold_failures", "Attempts in a row to fold old events that failed."),
    "store_bytes": ("muster_store_bytes", "Bytes that the store takes on its disk."),
    "queued_events": ("muster_queued_events", "Events that wait to be appended."),
    "commit_s": ("muster_commit_seconds", "Smoothed duration of a commit of the log, fsync included."),
    "disk_free_bytes": ("muster_disk_free_bytes", "Free room where the data folder is."),
    "disk_size_bytes": ("muster_disk_size_bytes", "Size of the disk where the data folder is."),
    "drift_reference": (
        "muster_drift_reference_answers",
        "Searches in the reference of drift; 0 while it is collected.",
    ),
}
_COUNTERS = {
    "folded_events": ("muster_folded_events", "Events folded into the snapshot by this process."),
    "commits": ("muster_commits", "Commits of the log by this process."),
    "appended_events": ("muster_appended_events", "Events appended by this process."),
    "shed_events": ("muster_shed_events", "Events refused because too many waited to be appended."),
    "answered": ("muster_answered", "Requests answered by the ranking core."),
    "answered_in_time": ("muster_answered_in_time", "Answers that were ready before their deadline."),
    "answered_late": ("muster_answered_late", "Answers that were ready after their deadline."),
    "planned_quality": (
        "muster_planned_quality",
        "Sum over answers of the expected nDCG of the plan as chosen, as a share of the best plan's.",
    ),
    "served_quality": (
        "muster_served_quality",
        "Sum over answers of the expected nDCG of what was executed, as a share of the best plan's.",
    ),
    "served_quality_in_time": (
        "muster_served_quality_in_time",
        "The same, over the answers that were ready before their deadline.",
    ),
    "refused": ("muster_refused", "Requests refused at once for load."),
    "expired": ("muster_expired", "Requests whose budget was spent before an answer existed."),
    "cancelled": ("muster_cancelled", "Requests whose caller left."),
    "invalid": ("muster_invalid", "Requests that break the contract."),
    "failed": ("muster_failed", "Requests that failed for a reason of ours."),
    "part_failures": (
        "muster_part_failures",
        "Parts that failed while a request ran, which was answered without them.",
    ),
    "helped_chunks": (
        "muster_helped_chunks",
        "Chunks of cross-encoders read by workers that were idle, for requests of others.",
    ),
}
# Counters by one label each, but for drift.
_LABELLED = {
    "feedback_by_kind": ("muster_feedback", "Events of feedback recorded by this process, by kind.", "kind"),
    "feedback_by_receipt": (
        "muster_feedback_receipts",
        "Events of feedback recorded, by what is known of the answer.",
        "receipt",
    ),
    "scrubbed_by_kind": (
        "muster_scrubbed",
        "Finds of personal data taken out of texts, by kind.",
        "kind",
    ),
    "recommended_by_tier": ("muster_recommended", "Recommendations given, by tier.", "tier"),
    "recommended_by_reason": (
        "muster_recommended_by_reason",
        "Recommendations given, by why this tier.",
        "reason",
    ),
    "answered_by_tier": ("muster_answered_by_tier", "Requests answered, by tier.", "tier"),
    "answered_by_reason": ("muster_answered_by_reason", "Requests answered, by why this plan.", "reason"),
    "answered_by_taste": (
        "muster_answered_by_taste",
        "Searches of a shopper answered, by what became of the history.",
        "taste",
    ),
    "answered_by_priority": ("muster_answered_by_priority", "Requests answered, by priority.", "priority"),
    "refused_by_priority": (
        "muster_refused_by_priority",
        "Requests refused at once for load, by priority.",
        "priority",
    ),
}
_DRIFT = (
    "muster_drift",
    "Population stability index of the last searches against the reference; above 0.25: moved.",
)
_INFO = ("muster_info", "1; what this replica serves.")
# One histogram each, and one by label.
_DEPTH = ("muster_depth", "Candidates re-ranked for an answer.")
_STAGES = ("muster_stage_seconds", "Time of a stage in an answer, where it ran.")


class _CallCollector(Collector):
    """The gRPC series: those of the services in Python, and those that the front counts."""

    def __init__(self, metrics: Metrics, front: Callable[[], Mapping[str, Mapping[str, Any]]]) -> None:
        self._metrics = metrics
        self._front = front

    def collect(self) -> Iterator[Metric]:
        started, handled, seconds = (
            next(iter(counted.collect()))
            for counted in (self._metrics.started, self._metrics.handled, self._metrics.seconds)
        )
        bounds = [*(str(bound) for bound in rankcore.front_bounds_s()), "+Inf"]
        for method, counts in self._front().items():
            labels = {"grpc_type": "unary", "grpc_service": health.RANKING, "grpc_method": method}
            started.add_sample(f"{started.name}_total", labels, float(counts["started"]))
            for code in grpc.StatusCode:
                count = counts["handled"].get(code.value[0], 0)
                coded = {**labels, "grpc_code": _code_name(code)}
                handled.add_sample(f"{handled.name}_total", coded, float(count))
            # Prometheus counts the calls up to each bound.
            up_to = list(itertools.accumulate(counts["buckets"]))
            for bound, count in zip(bounds, up_to, strict=True):
                seconds.add_sample(f"{seconds.name}_bucket", {**labels, "le": bound}, float(count))
            seconds.add_sample(f"{seconds.name}_count", labels, float(up_to[-1]))
            seconds.add_sample(f"{seconds.name}_sum", labels, float(counts["total_s"]))
        yield from (started, handled, seconds)

    def describe(self) -> Iterator[Metric]:
        """As for the replica's numbers."""
        return iter(())


class _ReplicaCollector(Collector):
    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        values = self._status()
        for key, (name, text) in _GAUGES.items():
            if key in values:
                yield GaugeMetricFamily(name, text, value=float(values[key]))
        for key, (name, text) in _COUNTERS.items():
            if key in values:
                yield CounterMetricFamily(name, text, value=float(values[key]))
        for key, (name, text, label) in _LABELLED.items():
            yield _by_label(CounterMetricFamily(name, text, labels=[label]), values.get(key, {}))
        yield _by_label(GaugeMetricFamily(*_DRIFT, labels=["distribution"]), values.get("drift", {}))
        if "info" in values:
            info = dict(values["info"])
            yield _by_label(GaugeMetricFamily(*_INFO, labels=list(info)), {tuple(info.values()): 1})
        if "depth" in values:
            yield _histogram(HistogramMetricFamily(*_DEPTH, labels=()), {(): values["depth"]})
        stages = {(stage,): counted for stage, counted in values.get("stage_s", {}).items()}
        yield _histogram(HistogramMetricFamily(*_STAGES, labels=["stage"]), stages)

    def describe(self) -> Iterator[Metric]:
        """Names are known without asking a replica that is not wired yet."""
        return iter(())


class _GuardCollector(Collector):
    """What is counted of callers, of encryption and of the audit, where the settings ask for them."""

    def __init__(self, guarded: Callable[[], Mapping[str, Any]]) -> None:
        self._guarded = guarded

    def collect(self) -> Iterator[Metric]:
        counted = self._guarded()
        if "refused" in counted:
            refused = CounterMetricFamily(
                "muster_auth_refused", "Calls refused for who made them, by reason.", labels=["reason"]
            )
            for reason, count in counted["refused"].items():
                refused.add_metric([reason], float(count))
            yield refused
            yield CounterMetricFamily(
                "muster_auth_verified", "Signatures of tokens looked at.", value=float(counted["verified"])
            )
        if "not_after_s" in counted:
            yield GaugeMetricFamily(
                "muster_certificate_not_after_seconds",
                "When the certificate in force ends, Unix seconds.",
                value=float(counted["not_after_s"]),
            )
            yield CounterMetricFamily(
                "muster_tls_handshakes_failed",
                "Connections that ended before they were encrypted.",
                value=float(counted["handshakes_failed"]),
            )
        if counted.get("audit_damaged") is not None:
            yield GaugeMetricFamily(
                "muster_audit_broken",
                "1 where the newest records of the audit were damaged when the replica started.",
                value=float(counted["audit_damaged"]),
            )
        if counted.get("files"):
            labels = ["files"]
            taken = CounterMetricFamily("muster_reloads", "Changed files taken into force.", labels=labels)
            kept = CounterMetricFamily(
                "muster_reload_failures", "Changed files that could not be used.", labels=labels
            )
            for name, reloads, failures in counted["files"]:
                taken.add_metric([name], float(reloads))
                kept.add_metric([name], float(failures))
            yield from (taken, kept)

    def describe(self) -> Iterator[Metric]:
        """As for the replica's numbers."""
        return iter(())


_F = TypeVar("_F", CounterMetricFamily, GaugeMetricFamily)


def _by_label(family: _F, values: Mapping[Any, float]) -> _F:
    """The family with a sample for each value, by the value of its label or labels."""
    for key, value in values.items():
        family.add_metric(key if isinstance(key, tuple) else (str(key),), float(value))
    return family


def _histogram(
    family: HistogramMetricFamily, counted: Mapping[Any, Mapping[str, Any]]
) -> HistogramMetricFamily:
    """The family with a histogram for each value of its labels. counted: "bounds", "buckets" (one more),
    "total"."""
    for labels, one in counted.items():
        bounds = [*(f"{bound:g}" for bound in one["bounds"]), "+Inf"]
        # Prometheus counts what is up to each bound.
        up_to = itertools.accumulate(one["buckets"])
        family.add_metric(labels, list(zip(bounds, up_to, strict=True)), float(one["total"]))
    return family


class Endpoint:
    """The HTTP endpoint ``/metrics``. Raises OSError where the address cannot be taken."""

    def __init__(self, metrics: Metrics, listen: str) -> None:
        host, port = config.split_address(listen)
        self._server, self._thread = start_http_server(port, addr=host, registry=metrics.registry)
        self.port = int(self._server.server_address[1])

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5.0)


def _code_name(code: grpc.StatusCode) -> str:
    return "OK" if code is grpc.StatusCode.OK else "".join(part.title() for part in code.name.split("_"))
