"""Settings of one replica: typed, checked as a whole, read in one order.

The order is default < file (TOML) < environment (``MUSTER_*``) < flag. Nested settings take two underscores
in the environment: ``MUSTER_LEASE__TTL_MS=800``. ``load`` is the only door; it either returns a frozen
``Settings`` or raises ``ConfigurationError`` with one sentence for each thing that is wrong. Run
``python -m server.config`` to print the reference page (``docs/configuration.md``).
"""

from __future__ import annotations

import logging
import os
import re
import socket
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from muster.bundle import is_public_key
from server import affinity
from server.catalogue.location import check_address, without_passwords
from server.catalogue.store import StoreConfig
from server.drift import DriftPolicy
from server.privacy import erasure, secrets
from server.protection import PATHS, AuditSettings, AuthSettings, QuotaSettings, TlsSettings
from server.protection import problems as protection_problems
from server.sections import Section, setting, texts

logger = logging.getLogger(__name__)

PREFIX = "MUSTER_"
NESTED = "__"


class ConfigurationError(Exception):
    """The settings cannot be served. ``problems``: one sentence for each, naming the setting and its
    source.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


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


class CatalogueSettings(Section):
    """The log of the catalogue and its followers."""

    store: str = setting(
        "",
        "address",
        "Where the log is. Empty: the file `catalogue.sqlite3` in `data_dir`, for replicas of one machine."
        " `postgresql+psycopg://ROLE@HOST:PORT/DATABASE`: a PostgreSQL server, for replicas of several; needs"
        " the extra `postgresql`. Parameters of libpq may follow, such as `?sslmode=verify-full`; a"
        " password may not.",
        max_length=2048,
    )
    store_password_file: Path | None = setting(
        None,
        "file",
        "Holds the password of the role, read at each connection. Absent: libpq's own ways, such as the"
        " environment `PGPASSWORD` and `~/.pgpass`. Relative to the settings file, if it is set there.",
    )
    encryption_keys: str = setting(
        "",
        "file, or env:NAME",
        "Key-encryption keys of the log (`muster privacy new-key`): what is written is encrypted, and what"
        " was written before is by and by. A file of mode 600, relative to the settings file if set there,"
        " looked at every second; or `env:NAME`. Each replica needs the same keys. Empty: nothing is"
        " encrypted, and a replica refuses a catalogue that is.",
        max_length=4096,
    )
    cluster_id: str = setting(
        "",
        "name",
        "Name of the catalogue that the store must hold, as `muster catalogue verify` tells it. A replica"
        " that finds another one, as when two clusters were pointed at one store by mistake, refuses to"
        " start. Empty: whichever is there, and a new one where there is none.",
        max_length=64,
    )
    poll_ms: int = setting(
        5, "milliseconds", "How often a replica looks for new events in the log.", ge=1, le=1000
    )
    busy_ms: int = setting(
        2000,
        "milliseconds",
        "How long a statement waits for a lock of the store before it fails.",
        ge=10,
        le=60_000,
    )
    group_events_max: int = setting(
        128,
        "events",
        "Events committed together by the one writer thread (group commit); a larger batch goes alone.",
        ge=1,
        le=10_000,
    )
    queue_events_max: int = setting(
        8192,
        "events",
        "Events that may wait for the writer; above it Apply is answered RESOURCE_EXHAUSTED.",
        ge=1,
        le=1_000_000,
    )
    apply_deadline_ms: int = setting(
        5000, "milliseconds", "Time budget of an Apply call that brings no deadline.", ge=10, le=600_000
    )
    retention_events_max: int = setting(
        1_000_000,
        "events",
        "Events that the log keeps; the primary folds older ones into the snapshot. A Watch can begin, and a"
        " replica can follow, only from what the log keeps or from the snapshot. 0: any number.",
        ge=0,
        le=1_000_000_000,
    )
    retention_hours: int = setting(
        168,
        "hours",
        "Age from which an event is folded, however few there are, by the wall clock. 0: any age.",
        ge=0,
        le=87_600,
    )
    event_ids_max: int = setting(
        10_000_000,
        "ids",
        "Ids of folded events that are known at most. An event sent again after that is a new event.",
        ge=0,
        le=1_000_000_000,
    )
    event_id_hours: int = setting(
        168,
        "hours",
        "How long after it was written the id of a folded event is known; at least as long as any caller"
        " may send an event again.",
        ge=0,
        le=87_600,
    )
    staleness_max_ms: int = setting(
        2000,
        "milliseconds",
        "A replica that is known to be behind the log, or whose tailer has stopped moving, for longer than"
        " this leaves health until it has caught up. A store that cannot be reached does not count: then"
        " every replica is equally stale, and stale answers marked as such beat none.",
        ge=50,
        le=3_600_000,
    )

    @field_validator("store")
    @classmethod
    def _address(cls, value: str) -> str:
        return check_address(value) if value else value


class LeaseSettings(Section):
    """The right to write."""

    ttl_ms: int = setting(
        500,
        "milliseconds",
        "Life of the lease. A primary that hangs is replaced after at most this. It is renewed every third of"
        " it; it should be at least twice the longest harmless pause.",
        ge=100,
        le=60_000,
    )
    check_every_ms: int = setting(
        0,
        "milliseconds",
        "How often a standby looks whether the primary is gone: what a dead primary costs before its"
        " successor knows. Each look asks for the kernel lock and reads the lease. 0: every eighth of"
        " `lease.ttl_ms`; at most a quarter of it.",
        ge=0,
        le=15_000,
    )
    eligible: bool = setting(
        True, "-", "Whether this replica may become primary. False: it only ever follows and serves reads."
    )

    @property
    def renew_ms(self) -> float:
        """Interval between renewals, milliseconds."""
        return self.ttl_ms / 3

    @property
    def check_ms(self) -> float:
        """Interval between looks at the lease of another, milliseconds."""
        return self.check_every_ms or self.ttl_ms / 8


class GenerationSettings(Section):
    """When and how index generations are built."""

    rebuild: bool = setting(
        True,
        "-",
        "Whether this replica starts background builds by itself. AdminService.Rebuild works either way.",
    )
    delta_products_min: int = setting(
        500,
        "products",
        "A build starts only when more products than this have text newer than the generation...",
        ge=1,
        le=10_000_000,
    )
    delta_share_min: float = setting(
        0.05, "share", "...and more than this share of the products of the generation.", ge=0.0, le=1.0
    )
    quiet_ms: int = setting(
        1500,
        "milliseconds",
        "A build waits until no product text has changed for this long, so that a load in progress is built"
        " once rather than many times.",
        ge=0,
        le=600_000,
    )
    delta_products_max: int = setting(
        50_000,
        "products",
        "Above this many products newer than the generation a build starts without waiting for quiet.",
        ge=100,
        le=100_000_000,
    )
    threads: int = setting(
        0,
        "threads",
        "Threads that encode products during a build (at low priority). 0: one for each core.",
        ge=0,
        le=256,
    )
    niceness: int = setting(
        10,
        "nice",
        "Scheduling priority of building and warming up a generation, 0 (as the server) to 19 (idle).",
        ge=0,
        le=19,
    )
    keep: int = setting(
        2,
        "generations",
        "Valid generations kept on disk. The one before the newest is what a replica falls back to when the"
        " newest turns out to be damaged.",
        ge=2,
        le=100,
    )
    poll_ms: int = setting(
        250, "milliseconds", "How often a replica looks for a newer generation.", ge=10, le=60_000
    )
    recall_min: float = setting(
        0.98,
        "recall@100",
        "Recall of the dense index against an exact scan that the build tunes the index for. The measured"
        " value is written in the manifest.",
        ge=0.5,
        le=1.0,
    )
    dense_index: Literal["auto", "scan", "lists", "faiss"] = setting(
        "auto",
        "-",
        "How the products nearest to a query are found. `auto`: whichever of `scan` and `lists` is measured"
        " to be faster at the wanted recall while building. `scan`: look at all vectors. `lists`: look at"
        " those of the nearest lists. `faiss`: an index of FAISS's own, which takes as much memory again.",
    )


class ReleaseSettings(Section):
    """Which bundles may be served, and deploys."""

    trusted_keys: tuple[str, ...] = setting(
        (),
        "keys",
        "Public keys of those whose signature makes a bundle good, each as 64 hex digits; `muster bundle key`"
        " prints one.",
    )
    allow_unsigned: bool = setting(
        True,
        "-",
        "Whether a bundle may be served that is not signed, or signed by somebody who is not trusted. The"
        " bundle of the project is not signed, for whoever runs a service decides whom to trust: name your"
        " key in `release.trusted_keys` and turn this off. A signature that does not fit is refused always.",
    )
    gate: str = setting(
        "",
        "-",
        "The profile of drills that a bundle must have held before a deploy may bring it here, such as"
        " `release`: its verdict must lie beside the bundle, signed by one of `release.trusted_keys`"
        " (`muster drill gate`). Empty: none is asked for.",
    )
    start_with: Literal["log", "settings"] = setting(
        "log",
        "-",
        "The bundle a replica starts with: the one that the last deploy in the log has put in service, or"
        " always that of the setting `bundle`. Without a deploy in the log both are the same.",
    )
    deployer_silent_ms: int = setting(
        5000,
        "milliseconds",
        "A deployer that the primary has not heard of for so long counts as dead, and another one may go on.",
        ge=500,
        le=600_000,
    )

    @field_validator("trusted_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: Any) -> Any:
        return texts(value)

    @field_validator("trusted_keys")
    @classmethod
    def _keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for key in value:
            if not is_public_key(key):
                raise ValueError(f"a public key has 64 digits of lower-case hex, unlike {key[:80]!r}")
        return value

    @model_validator(mode="after")
    def _gate_keys(self) -> Self:
        if self.gate and not self.trusted_keys:
            raise ValueError("release.gate needs release.trusted_keys: name those whose verdict counts")
        return self


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


class PrivacySettings(Section):
    """Feedback, and what protects the shoppers in it."""

    secrets_file: Path | None = setting(
        None,
        "file",
        "Holds the secrets that pseudonyms and receipts are made with; only its owner may read it. Absent:"
        " the file `privacy.secrets` in `data_dir`, made where there is none. Replicas of several machines"
        " must each have a copy of one file. Keep it apart from backups of the log: who has both can try"
        " names. Relative to the settings file, if it is set there.",
    )
    erased_file: Path | None = setting(
        None,
        "file",
        "Remembers who was erased, by marks that do not say who that was, so that a restored backup brings"
        " nobody back. Absent: `erased.jsonl` in `data_dir`. Relative to the settings file, if it is set"
        " there.",
    )
    pseudonym_days: int = setting(
        90,
        "days",
        "How long a shopper keeps one pseudonym; without the secrets nobody can join what a shopper did in"
        " two periods.",
        ge=1,
        le=3650,
    )
    retention_days: int = setting(
        395,
        "days",
        "How long feedback is kept, by the wall clock; then it is deleted, or emptied where it is still in"
        " the log.",
        ge=1,
        le=3650,
    )
    feedback_events_max: int = setting(
        10_000_000,
        "events",
        "Folded feedback that is kept at most; the oldest goes first.",
        ge=0,
        le=1_000_000_000,
    )
    receipt_hours: int = setting(
        168,
        "hours",
        "Feedback on an answer that was given longer ago is marked as expired; exports leave it out.",
        ge=1,
        le=87_600,
    )
    history_products_max: int = setting(
        50,
        "products",
        "The newest products of a shopper that feedback has told, kept in memory for recommendations"
        " and searches that name the shopper. 0:"
        " nothing is remembered, and a request's own history is all there is.",
        ge=0,
        le=1_000,
    )
    history_shoppers_max: int = setting(
        100_000,
        "shoppers",
        "Shoppers, and visits, of whom something is remembered at a time; who did nothing for longest is"
        " forgotten first.",
        ge=1,
        le=10_000_000,
    )
    history_hours: int = setting(
        24,
        "hours",
        "What a shopper did longer ago is not told any more, unless the request tells of it.",
        ge=1,
        le=8_760,
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


class Settings(BaseSettings):
    """Every setting of one replica. Frozen; made by ``load``."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter=NESTED, allow_inf_nan=False
    )

    replica: str = setting(
        "",
        "name",
        "Name of this replica in receipts, status, metrics and the lease; unique among replicas. Empty: the"
        " host's name and the port it listens on.",
        max_length=64,
        pattern=r"^[A-Za-z0-9._:\-]*$",
    )
    listen: str = setting(
        "127.0.0.1:7461",
        "host:port",
        "Address of the gRPC services; port 0 takes a free one (see `port_file`). Beyond loopback the replica"
        " must be told how calls are encrypted (`tls`) and who may call (`auth`), or that nobody cares.",
    )
    bundle: Path = setting(
        ...,
        "folder",
        "Folder of the model bundle. Required. Relative to the settings file, if it is set there.",
    )
    data_dir: Path = setting(
        ...,
        "folder",
        "Folder of the log, the primary's lock and the generations; made if it is missing. Replicas of one"
        " machine share it. Required. Relative to the settings file, if it is set there.",
    )
    port_file: Path | None = setting(
        None, "file", "File that receives `host:port` and a line feed once the replica listens. Absent: none."
    )
    cores: str = setting(
        "",
        "list",
        "Cores the process runs on, such as `0-3,8`, or `node:0` for those of a NUMA node; its memory then"
        " lies on that node too. On a machine of several nodes run a replica for each. Empty: all that it is"
        " given.",
        max_length=256,
    )
    tls: TlsSettings = Field(default_factory=TlsSettings, description="Encryption of the calls.")
    auth: AuthSettings = Field(default_factory=AuthSettings, description="Who may call.")
    quota: QuotaSettings = Field(default_factory=QuotaSettings, description="How often callers may call.")
    audit: AuditSettings = Field(default_factory=AuditSettings, description="The account of who did what.")
    rpc: RpcSettings = Field(default_factory=RpcSettings, description="The gRPC server.")
    ranking: RankingSettings = Field(
        default_factory=RankingSettings, description="Admission and the ranking core."
    )
    catalogue: CatalogueSettings = Field(
        default_factory=CatalogueSettings, description="The log of the catalogue and its followers."
    )
    lease: LeaseSettings = Field(default_factory=LeaseSettings, description="The right to write.")
    generation: GenerationSettings = Field(
        default_factory=GenerationSettings, description="When and how index generations are built."
    )
    lifecycle: LifecycleSettings = Field(
        default_factory=LifecycleSettings, description="Start and end of the process."
    )
    release: ReleaseSettings = Field(
        default_factory=ReleaseSettings, description="Which bundles may be served, and deploys."
    )
    privacy: PrivacySettings = Field(
        default_factory=PrivacySettings, description="Feedback, and what protects the shoppers in it."
    )
    drills: DrillSettings = Field(
        default_factory=DrillSettings,
        description="What drills may do to this replica while it serves.",
    )
    metrics: MetricsSettings = Field(default_factory=MetricsSettings, description="The Prometheus endpoint.")
    tracing: TracingSettings = Field(
        default_factory=TracingSettings, description="Spans of calls, by OpenTelemetry."
    )
    log: LogSettings = Field(
        default_factory=LogSettings, description="What the process writes to standard error."
    )

    @field_validator("cores")
    @classmethod
    def _cores(cls, value: str) -> str:
        if value:
            affinity.parse_cores(value)
        return value

    @field_validator("listen")
    @classmethod
    def _address(cls, value: str) -> str:
        split_address(value)
        return value

    @model_validator(mode="after")
    def _relations(self) -> Settings:
        problems = list(self._broken_relations())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _broken_relations(self) -> Iterator[str]:
        """What must hold between settings of different sections."""
        yield from protection_problems(split_address(self.listen)[0], self.tls, self.auth)
        if not self.lease.renew_ms * 2 < self.lease.ttl_ms:
            yield "lease.ttl_ms must leave room for two renewals"
        if not self.lease.check_ms * 4 <= self.lease.ttl_ms:
            yield (
                f"lease.check_every_ms ({self.lease.check_every_ms}) must be at most a quarter of"
                f" lease.ttl_ms ({self.lease.ttl_ms}), or a failed renewal could not be tried again in time"
            )
        if not self.catalogue.poll_ms * 4 <= self.lease.ttl_ms:
            yield (
                f"catalogue.poll_ms ({self.catalogue.poll_ms}) must be at most a quarter of lease.ttl_ms"
                f" ({self.lease.ttl_ms}), or a new primary could serve before it has read the log to its end"
            )
        if self.ranking.workers and not self.ranking.workers_min <= self.ranking.workers:
            yield (
                f"ranking.workers_min ({self.ranking.workers_min}) must not be above ranking.workers"
                f" ({self.ranking.workers})"
            )
        if not self.ranking.reserve_ms * 2 <= self.ranking.default_deadline_ms:
            yield (
                f"ranking.reserve_ms ({self.ranking.reserve_ms:g}) must be at most half of"
                f" ranking.default_deadline_ms ({self.ranking.default_deadline_ms}), or no plan could fit"
            )
        if not self.ranking.default_deadline_ms <= self.ranking.deadline_max_ms:
            yield (
                f"ranking.default_deadline_ms ({self.ranking.default_deadline_ms}) must not be above"
                f" ranking.deadline_max_ms ({self.ranking.deadline_max_ms})"
            )
        if not self.catalogue.staleness_max_ms >= 10 * self.catalogue.poll_ms:
            yield (
                f"catalogue.staleness_max_ms ({self.catalogue.staleness_max_ms}) must be at least ten times"
                f" catalogue.poll_ms ({self.catalogue.poll_ms}), or a healthy replica would leave health"
            )
        if not (self.release.allow_unsigned or self.release.trusted_keys):
            yield "release.allow_unsigned is off, so release.trusted_keys must name a key: no bundle is good"
        if not self.generation.delta_products_max > self.generation.delta_products_min:
            yield (
                f"generation.delta_products_max ({self.generation.delta_products_max}) must be above"
                f" generation.delta_products_min ({self.generation.delta_products_min})"
            )
        if not self.rpc.requests_in_flight_max >= self.rpc.threads + self.rpc.watch_streams_max:
            yield (
                f"rpc.requests_in_flight_max ({self.rpc.requests_in_flight_max}) must be at least rpc.threads"
                f" + rpc.watch_streams_max ({self.rpc.threads + self.rpc.watch_streams_max})"
            )

    @property
    def store_location(self) -> str:
        """Where the log is: a file, or the address of a server, without a password."""
        return self.catalogue.store or str(self.data_dir / "catalogue.sqlite3")

    def store_config(self, replica: str) -> StoreConfig:
        """How the store is opened by the replica of this name."""
        return StoreConfig(
            busy_timeout_ms=self.catalogue.busy_ms,
            password_file=self.catalogue.store_password_file,
            client=replica,
            cluster_id=self.catalogue.cluster_id,
            encryption_keys=self.catalogue.encryption_keys,
        )

    @property
    def secrets_file(self) -> Path:
        """File of the secrets of pseudonyms."""
        return self.privacy.secrets_file or self.data_dir / secrets.FILE_NAME

    @property
    def erased_file(self) -> Path:
        """File that remembers who was erased."""
        return self.privacy.erased_file or self.data_dir / erasure.FILE_NAME

    @property
    def bundles_dir(self) -> Path:
        """Folder of the bundles that were deployed."""
        return self.data_dir / "bundles"

    @property
    def generations_dir(self) -> Path:
        """Folder of the generations and of ``CURRENT``."""
        return self.data_dir / "generations"

    def replica_name(self, port: int) -> str:
        """The configured name, else the host's name and ``port``."""
        return self.replica or f"{socket.gethostname()}:{port}"

    def describe(self) -> str:
        """Every setting on one line; logged once at the start. A ``SecretStr`` would show as asterisks."""
        return " ".join(f"{name}={value!r}" for name, value in _flatten(self.model_dump(mode="json")))


def split_address(value: str) -> tuple[str, int]:
    """``host:port`` (``[::1]:port`` for IPv6) as a pair. Raises: ValueError with the reason."""
    host, colon, port = value.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"must be host:port with a port from 0 to 65535, not {value!r}")
    return host, int(port)


def load(config_path: Path | str | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read, merge and check every setting.

    config_path: TOML file; None: no file. overrides: flags, keys dotted ("lease.ttl_ms") or nested; a value
    of None counts as not given.
    Raises: ConfigurationError, with every problem found, each naming the setting and where it was set.
    """
    layers: list[tuple[str, dict[str, Any]]] = []
    if config_path is not None:
        layers.append((f"file {config_path}", _read_file(Path(config_path))))
    try:
        layers.append(("environment", dict(EnvSettingsSource(Settings)())))
    except SettingsError as error:
        raise ConfigurationError([f"environment: {error}"]) from error
    layers.append(("flag", _nested(overrides or {})))

    merged: dict[str, Any] = {}
    source: dict[str, str] = {}
    for name, layer in layers:
        _merge(merged, layer)
        for key, _ in _flatten(layer):
            source[key] = (
                f"environment {PREFIX}{key.upper().replace('.', NESTED)}" if name == "environment" else name
            )
    try:
        return _Merged(**merged)
    except ValidationError as error:
        raise ConfigurationError([_problem(detail, source) for detail in error.errors()]) from error


class _Merged(Settings):
    """Settings from the layers ``load`` has merged already: no source but the arguments is read again."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError([f"file {path}: no such file"]) from error
    except OSError as error:
        raise ConfigurationError([f"file {path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"file {path}: not UTF-8 at byte {error.start}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([f"file {path}: not TOML: {error}"]) from error
    _resolve(path.parent, values, ("bundle", "data_dir", "port_file"))
    named = {"catalogue": ("store_password_file",), "privacy": ("secrets_file", "erased_file"), **PATHS}
    for section, names in named.items():
        if isinstance(values.get(section), dict):
            _resolve(path.parent, values[section], names)
    catalogue = values.get("catalogue")
    if isinstance(catalogue, dict) and not str(catalogue.get("encryption_keys") or "env:").startswith("env:"):
        _resolve(path.parent, catalogue, ("encryption_keys",))
    return values


def _resolve(folder: Path, values: dict[str, Any], names: Iterable[str]) -> None:
    """Paths of a settings file are relative to its folder."""
    for name in names:
        if isinstance(values.get(name), str):
            values[name] = str(folder / Path(values[name]).expanduser())


def _nested(flags: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in flags.items():
        if value is None:
            continue
        *outer, last = key.split(".")
        place = result
        for part in outer:
            place = place.setdefault(part, {})
        if isinstance(value, Mapping):
            _merge(place.setdefault(last, {}), dict(value))
        else:
            place[last] = value
    return result


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _problem(detail: Any, source: Mapping[str, str]) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "missing":
        return f"{name}: required"
    if detail["type"] == "extra_forbidden":
        message = "no such setting"
    if not name:
        return message
    where = source.get(name) or next((text for key, text in source.items() if key.startswith(f"{name}.")), "")
    given = "" if detail["type"] == "extra_forbidden" else f" = {without_passwords(repr(detail['input']))}"
    return f"{name}{given}{f' (from {where})' if where else ''}: {message}"


def reference() -> str:
    """The reference page of all settings, Markdown."""
    lines = [
        "# Configuration",
        "",
        "Every setting of a replica. Values are read in the order default < file < environment < flag,",
        "checked as a whole before anything is opened, and logged once at the start with secrets hidden.",
        "A problem stops the start with exit code 2 and one line for each setting that is wrong, naming",
        "where it was set.",
        "",
        "- file: TOML, given with `--config FILE`; `deploy/replica-1.toml` is a commented example.",
        "- environment: `MUSTER_` and the name in upper case, sections joined by two underscores:",
        "  `MUSTER_LEASE__TTL_MS=800`.",
        "- flag: `--listen`, `--replica`, `--bundle`, `--data-dir`, `--port-file`, and",
        "  `--set lease.ttl_ms=800` for any other.",
        "",
        "This page is generated: `python -m server.config > docs/configuration.md`.",
        "",
    ]
    for section, title, fields in _sections():
        lines += [f"## {title}", ""]
        for name, field in fields.items():
            full = f"{section}.{name}" if section else name
            limits = _limits(field)
            lines += [
                f"### `{full}`",
                "",
                f"{_type(field)}, {_unit(field)}; default {_default(field)}{f'; {limits}' if limits else ''}."
                f" Environment: `{PREFIX}{full.upper().replace('.', NESTED)}`.",
                "",
                str(field.description),
                "",
            ]
    return "\n".join(lines).rstrip() + "\n"


def _sections() -> Iterator[tuple[str, str, dict[str, FieldInfo]]]:
    top = {name: field for name, field in Settings.model_fields.items() if not _is_section(field)}
    yield "", "The replica", top
    for name, field in Settings.model_fields.items():
        if _is_section(field):
            assert isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
            yield name, f"`[{name}]` {str(field.description).rstrip('.')}", field.annotation.model_fields


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, Section)


def _unit(field: FieldInfo) -> str:
    assert isinstance(field.json_schema_extra, dict)
    unit = str(field.json_schema_extra["unit"])
    return "no unit" if unit == "-" else unit


def _type(field: FieldInfo) -> str:
    names = {int: "integer", float: "number", bool: "true or false", str: "text", Path: "path"}
    annotation = field.annotation
    if annotation == tuple[str, ...]:
        return "List of texts"
    if annotation in names:
        return names[annotation].capitalize()
    arguments = getattr(annotation, "__args__", ())
    if Path in arguments:
        return "Path"
    return "One of " + ", ".join(f"`{value}`" for value in arguments)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "none (required)"
    value = field.default
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value == ():
        return "empty"
    return f"`{value}`" if value != "" else "empty"


def _limits(field: FieldInfo) -> str:
    low = next((item.ge for item in field.metadata if hasattr(item, "ge")), None)
    high = next((item.le for item in field.metadata if hasattr(item, "le")), None)
    return f"from {low} to {high}" if low is not None and high is not None else ""


def prepare_data_dir(settings: Settings) -> None:
    """Make the data folders and prove that they can be written. Raises: ConfigurationError."""
    for folder in (settings.data_dir, settings.generations_dir):
        probe = folder / f".write-probe-{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise ConfigurationError(
                [f"data_dir = {str(settings.data_dir)!r}: {folder} cannot be written: {error.strerror}"]
            ) from error


if __name__ == "__main__":
    print(reference(), end="")
