"""Sections that say what a replica keeps, and who may change it: log, lease, indexes, bundles, feedback."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from muster.bundle import is_public_key
from server.catalogue.location import check_address
from server.sections import Section, setting, texts


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
