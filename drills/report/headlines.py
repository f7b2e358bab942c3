"""Which figures of a drill people look at first, and the limits that its hypothesis sets by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drills.judges.alerts import Due


@dataclass(frozen=True)
class Headline:
    """figure: its dotted name in what the drill prints. target: an upper limit, or with at_least a lower one;
    None: there is none.
    """

    figure: str
    name: str
    unit: str = ""
    target: float | None = None
    at_least: bool = False


LOST = Headline("writes_lost", "acknowledged writes lost (RPO)", target=0)
DOUBLED = Headline("writes_doubled", "writes doubled", target=0)
READ_ERRORS = Headline("read_errors", "reads not answered", target=0)
_KEPT = (LOST, DOUBLED, READ_ERRORS)


def _rto(target_ms: float | None) -> tuple[Headline, Headline]:
    return (
        Headline("rto_ms.p50", "writes back after, median (RTO)", "ms", target_ms),
        Headline("rto_ms.max", "writes back after, slowest", "ms"),
    )


def alert_headlines(alerts: Sequence[Due]) -> tuple[Headline, ...]:
    """When the alerts of a drill fired, in drill's time, against what the book allows."""
    return tuple(
        Headline(
            f"alerts.{due.name}.fired_ms_max", f"{due.name} fired after, slowest", "ms", 1000 * due.within_s
        )
        for due in alerts
    )


_HOSTILE = (
    Headline("unexpected", "hostile requests answered otherwise than by a refusal", target=0),
    Headline("crashed", "replicas ended", target=0),
    Headline("refused_p99_ms", "refused after, p99", "ms"),
    Headline("growth_mib", "memory grown by", "MiB"),
    READ_ERRORS,
)

HEADLINES: Mapping[str, tuple[Headline, ...]] = {
    "failover": (*_rto(300.0), *_KEPT),
    "hang": (*_rto(700.0), *_KEPT),
    "hang_in_transaction": (*_rto(700.0), *_KEPT),
    "standby_hang": (
        Headline("read_p99_ms", "reads while it hangs, p99", "ms", 100.0),
        Headline("base_read_p99_ms", "reads before, p99", "ms"),
        *_KEPT,
    ),
    "double_fault": (*_rto(1500.0), *_KEPT),
    "rolling_restart": (
        READ_ERRORS,
        Headline("write_errors", "writes that failed", target=0),
        LOST,
        DOUBLED,
        Headline("slowest_read_ms", "slowest read", "ms"),
        Headline("slowest_write_ms", "slowest write", "ms"),
    ),
    "deadline_storm": (
        Headline("in_time_share", "answered within the deadline", target=0.95, at_least=True),
        Headline("quality_in_time", "quality kept, of all requests"),
        Headline("full_quality_share", "answered by the best plan in full"),
        Headline("load_factor", "load, times the capacity"),
        Headline("offered", "requests"),
    ),
    "bad_deploy": (
        Headline("canary_to_rolled_back_s.max", "rolled back after, slowest", "s", 10.0),
        READ_ERRORS,
        Headline("reads_by_bad_bundle", "reads that the bad bundle answered"),
    ),
    "partition": (
        Headline("detection_ms", "clients know of the cut after", "ms", 600.0),
        Headline("rto_ms", "writes back after (RTO)", "ms"),
        Headline("late_acknowledgements", "acknowledged by the one cut off", target=0),
        *_KEPT,
    ),
    "store_down": (
        Headline("slowest_write_ms", "slowest end of a write", "ms"),
        Headline("overdue_writes", "writes that ended after their deadline", target=0),
        Headline("back_ms", "writes back after", "ms"),
        *_KEPT,
    ),
    "standby_lag": (
        Headline("left_health_ms", "out of health after", "ms"),
        Headline("stale_session_reads", "session reads answered stale", target=0),
        Headline("back_ms", "back in health after", "ms"),
        *_KEPT,
    ),
    "latency": (
        Headline("in_time_share", "answered within the deadline", target=0.99, at_least=True),
        Headline("read_p99_ms", "reads on slow ways, p99", "ms"),
        Headline("best_share", "answered by the best plan"),
        Headline("untruthful", "receipts that did not tell", target=0),
    ),
    "loss": (
        READ_ERRORS,
        Headline("detection_ms", "clients know of it after", "ms", 600.0),
        Headline("read_p99_ms", "reads, p99", "ms"),
        LOST,
        DOUBLED,
    ),
    "data_leak": (
        Headline("leaks", "canaries found", target=0),
        Headline("recorded", "events of feedback recorded"),
        Headline("files", "files and answers looked through"),
        *_KEPT,
    ),
    "auth_attack": (
        Headline("accepted", "attacks let in", target=0),
        Headline("attacks", "attacks"),
        Headline("limited", "refused unseen"),
        Headline("verified", "tokens looked at"),
        Headline("fresh_errors", "newcomers refused", target=0),
        Headline("unaudited", "refusals missing in the audit", target=0),
        *_KEPT,
    ),
    "tls_expiry": (
        Headline("connection_errors", "new connections that failed", target=0),
        Headline("connections", "new connections"),
        Headline("exchanged_ms", "a new file in use after", "ms"),
        Headline("alert_before_end_s", "alert before the end", "s"),
        *_KEPT,
    ),
    "oversized_payload": _HOSTILE,
    "poison_request": _HOSTILE,
    "slow_disk": (
        Headline("reads_in_time_share", "reads in time", at_least=True),
        Headline("fault_writes_unanswered", "writes without an outcome in time", target=0),
        Headline("writes_back_ms", "writes back after", "ms"),
        *_KEPT,
    ),
    "disk_full": (
        Headline("fault_writes_other", "writes not refused as RESOURCE_EXHAUSTED", target=0),
        Headline("writes_back_ms", "writes back after there is room", "ms"),
        *_KEPT,
    ),
    "fsync_error": (
        Headline("acknowledged_undurable", "acknowledged though not durable", target=0),
        Headline("rto_ms", "writes back after (RTO)", "ms"),
        *_KEPT,
    ),
    "memory_pressure": (
        Headline("others_ended", "other replicas ended", target=0),
        Headline("rto_ms", "writes back after (RTO)", "ms"),
        *_KEPT,
    ),
    "cpu_starvation": (
        Headline("starved_in_time_share", "of the starved one's answers in time", target=0.98, at_least=True),
        Headline("callers_in_time_share", "of the callers' answers in time", target=0.99, at_least=True),
        Headline("starved_quality", "quality of the starved one"),
        READ_ERRORS,
    ),
    "corrupt_bundle": (
        Headline("taken", "damaged ones taken", target=0),
        Headline("candidates_refused", "bundles refused"),
        Headline("generations_refused", "generations refused"),
        Headline("starts_refused", "starts refused"),
        READ_ERRORS,
    ),
    "cold_start": (
        Headline("serving_after_s", "serving after", "s"),
        Headline("first_slowest_ms", "slowest of the first answers", "ms"),
        Headline("warm_p95_ms", "p95 once warm", "ms"),
        READ_ERRORS,
    ),
    "retry_storm": (
        Headline("recovered_ms", "answers in time again after the storm", "ms", 5000.0),
        Headline("amplification", "sendings of our client for each read"),
        READ_ERRORS,
    ),
    "hot_key": (
        Headline("others_in_time_share", "other queries in time"),
        Headline("base_in_time_share", "the same without the hot one"),
        Headline("hot_in_time_share", "the hot one in time"),
    ),
    "clock_jump": (
        Headline("skewed_errors", "reads that failed by a wrong clock", target=0),
        Headline("overrun_ms", "past the deadline by", "ms"),
        Headline("takeovers", "changes of the primary", target=0),
        *_KEPT,
    ),
    "noisy_data": (
        Headline("malformed_missed", "malformed rows not named", target=0),
        Headline("suspicious_missed", "suspicious rows not held back", target=0),
        Headline("good_lost", "good rows lost", target=0),
        Headline("ndcg_fall", "nDCG@10 fell by", target=0.01),
        READ_ERRORS,
    ),
    "traffic_surge": (
        Headline("in_time_share", "of what was not refused in time", target=0.99, at_least=True),
        Headline("joined_after_s", "first replica joined after", "s", 20.0),
        Headline("failed", "searches that failed", target=0),
        Headline("problems", "replicas that did not start or end well", target=0),
        Headline("quality_noon", "quality at noon"),
    ),
    "model_drift": (
        Headline("still_index", "drift index while nothing moved", target=0.25),
        Headline("noticed_fall", "nDCG@10 had fallen by, when noticed", target=0.3),
        Headline("noticed_share", "of the demand had moved, when noticed"),
        Headline("ndcg_mended", "nDCG@10 after the remedy"),
        READ_ERRORS,
    ),
}
