"""All settings of a replica, what must hold between them, and what follows from them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from server import affinity
from server.catalogue.store import StoreConfig
from server.config.address import split_address
from server.config.serving import (
    DrillSettings,
    LifecycleSettings,
    LogSettings,
    MetricsSettings,
    RankingSettings,
    RpcSettings,
    TracingSettings,
)
from server.config.state import (
    CatalogueSettings,
    GenerationSettings,
    LeaseSettings,
    PrivacySettings,
    ReleaseSettings,
)
from server.privacy import erasure, secrets
from server.protection import AuditSettings, AuthSettings, QuotaSettings, TlsSettings
from server.protection import problems as protection_problems
from server.sections import setting

PREFIX = "MUSTER_"
NESTED = "__"


class ConfigurationError(Exception):
    """The settings cannot be served. ``problems``: one sentence for each, naming the setting and its
    source.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


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
        return " ".join(f"{name}={value!r}" for name, value in flattened(self.model_dump(mode="json")))


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested ones."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


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
