"""Sections that say how calls are answered, watched and told of."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from server.config.address import split_address
from server.drift import DriftPolicy
from server.sections import Section, setting


class RpcSettings(Section):
    """The gRPC server."""

    message_threads: int = setting(
        1,
        "threads",
        "Threads of the front, which reads and writes every message and takes ranking calls to the ranking"
        " core and back; a connection stays on one of them. One reads more calls a second than several cores"
        " can rank.",
        ge=1,
        le=64,
    )
    threads: int = setting(
        32,
        "threads",
        "Handler threads for all calls but those of RankingService. One waits for each Apply until its events"
        " are durable, so there should be one for each caller that writes at the same time.",
        ge=4,
        le=1024,
    )
    watch_streams_max: int = setting(
        64,
        "streams",
        "Catalogue Watch streams served at once. Each holds a thread (counted apart from `threads`) until its"
        " caller leaves; one more is answered RESOURCE_EXHAUSTED.",
        ge=1,
        le=1024,
    )
    requests_in_flight_max: int = setting(
        2048,
        "requests",
        "Calls of all kinds accepted at once; one more is answered RESOURCE_EXHAUSTED. A backstop for memory:"
        " the planner sheds long before.",
        ge=16,
        le=65536,
    )
    connections_max: int = setting(
        1024,
        "connections",
        "Connections of clients at once; one more is closed as soon as it is accepted, which clients read as"
        " UNAVAILABLE. Each that calls more than Search and Rerank needs three file descriptors, so the"
        " process's limit (`ulimit -n`) should be above three times as many.",
        ge=1,
        le=65536,
    )
    request_bytes_max: int = setting(
        8 * 2**20,
        "bytes",
        "Largest request message. A larger one is refused with RESOURCE_EXHAUSTED before it is read.",
        ge=64 * 1024,
        le=64 * 2**20,
    )
    response_bytes_max: int = setting(
        16 * 2**20, "bytes", "Largest response message.", ge=64 * 1024, le=64 * 2**20
    )
    home_core: bool = setting(
        True,
        "-",
        "Keep the threads that read and write messages on one core, chosen by the replica's name. They take"
        " turns anyway (the interpreter lock), and turns on one core cost less than half.",
    )
    reflection: bool = setting(
        True,
        "-",
        "Serve the gRPC reflection service, so that tools such as grpcurl work without the proto files.",
    )


class RankingSettings(Section):
    """Admission and the ranking core."""

    workers: int = setting(
        0, "threads", "Worker threads of the ranking core. 0: one for each core of the machine.", ge=0, le=256
    )
    workers_min: int = setting(
        0,
        "threads",
        "Workers that take work while ranking time is cheap; with the price they come, up to `workers`,"
        " within tenths of a second, and after ten cheap seconds they go again (docs/scaling.md). The others"
        " sleep, and leave their cores to what else the machine does. 0: always all.",
        ge=0,
        le=256,
    )
    device: Literal["cpu", "auto", "cuda"] = setting(
        "cpu",
        "-",
        "Where cross-encoders and dense search run. `auto`: on a GPU where one can be used, else on the"
        " processor. `cuda`: the same, with a warning where there is none. Whatever cannot run there"
        " stays on the processor, and the log says what and why (docs/gpu.md). The GPU path needs the extra"
        " `gpu`, and has not been measured yet: that is why it must be asked for.",
    )
    default_deadline_ms: int = setting(
        200, "milliseconds", "Time budget of a call that brings no deadline of its own.", ge=5, le=60_000
    )
    deadline_max_ms: int = setting(
        10_000,
        "milliseconds",
        "Longest budget the planner is given, whatever the caller allows; bounds how long a call may wait.",
        ge=10,
        le=600_000,
    )
    reserve_ms: float = setting(
        0.5,
        "milliseconds",
        "Part of each budget kept for what the replica cannot see: the network and the caller's own reading."
        " What its own way back takes is measured and kept on top.",
        ge=0.0,
        le=100.0,
    )
    chunk_pairs: int = setting(
        4,
        "pairs",
        "Query-product pairs a cross-encoder scores before a request with a nearer deadline may go first;"
        " also what an idle worker takes at a time from another's request (docs/performance.md has the"
        " times).",
        ge=1,
        le=256,
    )
    queue_max: int = setting(
        1024,
        "requests",
        "Requests that may wait or run in the ranking core; one more is answered RESOURCE_EXHAUSTED. Default"
        " requests leave the last eighth to critical ones, sheddable requests the second half to both.",
        ge=1,
        le=65536,
    )
    backlog_ms: float = setting(
        0.0,
        "milliseconds",
        "Work that may wait for each worker before the planner charges for time, so that requests fall back"
        " to cheaper plans. Longer: more quality in a short burst, and more answers that come close to their"
        " deadline. 0: as long as the best plan takes.",
        ge=0.0,
        le=60_000.0,
    )
    price_gain: float = setting(
        1.0,
        "times",
        "How strongly the price of time follows the backlog, as a multiple of the pace that was measured to"
        " be stable. More falls back sooner and sways more.",
        ge=0.01,
        le=100.0,
    )
    kernels: Literal["auto", "own", "onnxruntime"] = setting(
        "auto",
        "-",
        "What computes the bundle's models: the core's own int8 kernels (`own`), ONNX Runtime"
        " (`onnxruntime`), or the first where they can and the second where they cannot (`auto`): a model"
        " that the exporter did not write, or a processor without AVX2. The log says which, and why.",
    )
    taste_weight: float = setting(
        0.25,
        "share",
        "How far what a shopper lately did moves the results of a search that names the shopper: at most this"
        " share of the distance between the scores of the first and the tenth result. 0: not at all"
        " (docs/recommend.md).",
        ge=0.0,
        le=1.0,
    )


class LifecycleSettings(Section):
    """Start and end of the process."""

    drain_notice_ms: int = setting(
        150,
        "milliseconds",
        "Time between telling clients through health that the replica leaves and refusing new calls.",
        ge=0,
        le=60_000,
    )
    drain_grace_ms: int = setting(
        3000,
        "milliseconds",
        "Time that running calls have to finish during a drain; then they are cancelled.",
        ge=0,
        le=600_000,
    )
    warm_up_queries: int = setting(
        8, "queries", "Golden queries run through every plan before the replica serves.", ge=1, le=1000
    )
    verify_golden: bool = setting(
        True,
        "-",
        "Refuse a bundle whose golden requests do not reproduce on this machine. Turn off only to look into"
        " such a bundle.",
    )


class DrillSettings(Section):
    """What drills may do to this replica while it serves."""

    allowed: tuple[Literal["flood", "latency", "malformed", "transfer"], ...] = setting(
        (),
        "faults",
        "Faults that `muster drill run NAME --target` may cause here: `flood` (more searches than there is"
        " time for), `latency` (a slow way between the drill's own clients and the replicas), `malformed`"
        " (requests over every limit, or strange), `transfer` (the lease changes hands). Set it alike on all"
        " replicas. Empty: none; drills then refuse to begin.",
    )
    blast_radius_replicas: int = setting(
        1, "replicas", "Most replicas that one drill may harm; the others are spared.", ge=1, le=64
    )
    rate_max_per_s: float = setting(
        100.0,
        "requests a second",
        "Most requests that one drill may add, over all replicas together.",
        ge=1,
        le=1_000_000,
    )

    @field_validator("allowed", mode="before")
    @classmethod
    def _split_faults(cls, value: Any) -> Any:
        # A flag can only hold a text.
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value


class MetricsSettings(Section):
    """The Prometheus endpoint."""

    listen: str = setting(
        "",
        "host:port",
        "Address of the HTTP endpoint `/metrics`, for example `127.0.0.1:9461`; port 0 takes a free one. It"
        " has no authentication: keep it on loopback or a private network. Empty: no endpoint.",
    )

    drift_reference_answers: int = setting(
        5000,
        "searches",
        "The first searches that a bundle answers on this machine, which later ones are compared with; kept"
        " in the folder `drift` of `data_dir`, a file for each bundle. Remove the file to take what is asked"
        " from then on as normal.",
        ge=100,
        le=10_000_000,
    )
    drift_window_s: float = setting(
        600.0, "seconds", "How far back the searches go that are compared.", ge=1.0, le=86_400.0
    )
    drift_window_answers: int = setting(
        500, "searches", "Fewer searches than this in the window tell nothing of drift.", ge=50, le=1_000_000
    )

    @property
    def drift_policy(self) -> DriftPolicy:
        """How drift is measured."""
        return DriftPolicy(
            reference_answers=self.drift_reference_answers,
            window_s=self.drift_window_s,
            window_answers=self.drift_window_answers,
        )

    @field_validator("listen")
    @classmethod
    def _address(cls, value: str) -> str:
        if value:
            split_address(value)
        return value


class TracingSettings(Section):
    """Spans of calls, by OpenTelemetry; needs the extra `otel`."""

    endpoint: str = setting(
        "",
        "URL",
        "Where spans go by OTLP over gRPC, for example `http://127.0.0.1:4317`. Empty: nowhere, and no call"
        " is traced.",
    )
    share: float = setting(
        0.01,
        "share",
        "Share of the calls without a `traceparent` that are traced. A call with one is traced if its caller"
        " is.",
        ge=0.0,
        le=1.0,
    )

    @field_validator("endpoint")
    @classmethod
    def _url(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError(f"must be a URL such as http://127.0.0.1:4317, not {value[:80]!r}")
        return value


class LogSettings(Section):
    """What the process writes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "-", "Least severe level that is written."
    )
    format: Literal["text", "json"] = setting(
        "text", "-", "One line of text, or one JSON object, per record."
    )
