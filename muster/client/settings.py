"""Settings of the client. The defaults were measured with killed and with hung replicas."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from muster.client.errors import InvalidRequest, Unavailable

RANKING_SERVICE = "muster.v1.RankingService"
CATALOGUE_SERVICE = "muster.v1.CatalogueService"
DEFAULT_TARGET = "127.0.0.1:50051"

ChannelOption = tuple[str, int | str]


@dataclass(frozen=True)
class ClientSettings:
    """How a client behaves. Milliseconds throughout.

    deadline_ms: budget of a read that names none.
    write_deadline_ms: budget of a write that names none; it covers a takeover with room to spare.
    hedge_after_ms: a read that is silent for this long is sent to a second replica too, unless the slowest
        twentieth of recent answers under the same budget took longer: then after that time.
    hedge_share: second sendings allowed, as a share of all reads, on the long run.
    hedge_burst: second sendings allowed at once.
    attempts_max: sendings of one read, hedges included.
    reserve_share: of the time left, what an attempt leaves to the next one where another replica could still
        be asked: it is told to answer so much before the caller's deadline. 0: it may use all of the time.
    reserve_min_ms: a share smaller than this would not do for an answer, so it is not kept back.
    retry_backoff_min_ms, retry_backoff_max_ms: wait before a replica is asked again.
    retry_tokens_max, retry_token_ratio: the retry budget, as in gRPC's retryThrottling: a failure takes a
        token, a success brings `ratio` back, and below half of the tokens nothing is retried.
    keepalive_ms, keepalive_timeout_ms: a replica whose connection does not answer a ping in time is given up.
    reconnect_min_ms, reconnect_attempt_ms, reconnect_max_ms: first wait, least time for an attempt, longest
    wait.
    """

    deadline_ms: float = 200.0
    write_deadline_ms: float = 10_000.0
    hedge_after_ms: float = 20.0
    hedge_share: float = 0.1
    hedge_burst: int = 20
    attempts_max: int = 4
    reserve_share: float = 0.1
    reserve_min_ms: float = 3.0
    retry_backoff_min_ms: float = 5.0
    retry_backoff_max_ms: float = 50.0
    retry_tokens_max: int = 100
    retry_token_ratio: float = 0.2
    keepalive_ms: int = 200
    keepalive_timeout_ms: int = 150
    reconnect_min_ms: int = 50
    reconnect_attempt_ms: int = 100
    reconnect_max_ms: int = 500

    def __post_init__(self) -> None:
        for name in ("deadline_ms", "write_deadline_ms", "hedge_after_ms", "retry_backoff_min_ms"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.retry_backoff_max_ms < self.retry_backoff_min_ms:
            raise ValueError("retry_backoff_max_ms must not be below retry_backoff_min_ms")
        if not 0 <= self.hedge_share <= 1:
            raise ValueError(f"hedge_share must be from 0 to 1, not {self.hedge_share}")
        if not 0 <= self.reserve_share <= 0.5:
            raise ValueError(f"reserve_share must be from 0 to 0.5, not {self.reserve_share}")
        if not 1 <= self.attempts_max <= 5:  # more would feed the storm that they answer
            raise ValueError(f"attempts_max must be from 1 to 5, not {self.attempts_max}")

    @classmethod
    def from_toml(cls, path: Path) -> ClientSettings:
        """The settings in a file that names some of them, as `muster drill tune` writes it; the others are
        the defaults.

        Raises: ValueError naming the file, for one that cannot be read and for each setting that is wrong.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"{path} cannot be read as the client's settings: {error}") from error
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"{path}: no such setting of the client: {', '.join(unknown)}")
        wrong = [name for name, value in values.items() if type(value) not in (int, float)]
        if wrong:
            raise ValueError(f"{path}: not a number: {', '.join(sorted(wrong))}")
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def read_options(self) -> list[ChannelOption]:
        """Options of the channel to one replica, which is READY only while that replica serves reads.

        Retries are left to the caller, who sends them to another replica; hence no retry policy here.
        """
        config = {
            "loadBalancingConfig": [{"round_robin": {}}],  # the default policy, pick_first, ignores health
            "healthCheckConfig": {"serviceName": RANKING_SERVICE},
        }
        return [*self._connection_options(), ("grpc.service_config", json.dumps(config))]

    def write_options(self, endpoints: Sequence[str]) -> list[ChannelOption]:
        """Options of the channel over all replicas that finds the primary by health.

        No retry policy here either: gRPC would tell of the last attempt only, and an earlier one whose
        outcome is unknown would be forgotten; `Write` sends again and remembers.

        Its calls name the first endpoint as the host that they are for: by itself gRPC names the whole list,
        which is no host by the rules of HTTP (RFC 9113, 8.3.1) and which a strict server refuses.
        """
        config = {
            "loadBalancingConfig": [{"round_robin": {}}],
            "healthCheckConfig": {"serviceName": CATALOGUE_SERVICE},
            "methodConfig": [
                {
                    "name": [{"service": CATALOGUE_SERVICE}],
                    "waitForReady": True,
                }
            ],
        }
        return [
            *self._connection_options(),
            ("grpc.default_authority", endpoints[0]),
            ("grpc.service_config", json.dumps(config)),
        ]

    def status_options(self) -> list[ChannelOption]:
        """Options of the channel to one replica that asks it for its status whatever its health says."""
        return self._connection_options()

    def _connection_options(self) -> list[ChannelOption]:
        return [
            ("grpc.keepalive_time_ms", self.keepalive_ms),
            ("grpc.keepalive_timeout_ms", self.keepalive_timeout_ms),
            # C-core lets this one (default: a minute) override the keepalive time-out, so it is set as well.
            ("grpc.http2.ping_timeout_ms", self.keepalive_timeout_ms),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.initial_reconnect_backoff_ms", self.reconnect_min_ms),
            ("grpc.min_reconnect_backoff_ms", self.reconnect_attempt_ms),
            ("grpc.max_reconnect_backoff_ms", self.reconnect_max_ms),
            # Channels of one process would otherwise share connections, and with them each other's hangs.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.max_receive_message_length", 64 * 1024 * 1024),
        ]


def parse_endpoints(endpoints: str | Sequence[str]) -> list[str]:
    """A list of "host:port", from such a list or a text that joins them by commas. Order kept, doubles
    dropped.

    Raises: InvalidRequest naming the entry at fault.
    """
    entries = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
    found = list(dict.fromkeys(entry.strip() for entry in entries if entry.strip()))
    if not found:
        raise InvalidRequest("no endpoint is given; name at least one replica as host:port")
    for entry in found:
        _split(entry)
    return found


def _split(endpoint: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:/\[\]]+)):(\d{1,5})", endpoint)
    if match is None or not 0 < int(match[3]) < 65_536:
        raise InvalidRequest(
            f"{endpoint!r} is not an endpoint; write host:port, for example {DEFAULT_TARGET}"
        )
    return match[1] or match[2], int(match[3])


def write_target(endpoints: Sequence[str]) -> str:
    """The gRPC target of one channel over all endpoints.

    Several names are looked up now, as gRPC's own resolver takes one name only; addresses are used as they
    are.
    Raises: Unavailable if a name has no address; InvalidRequest if the endpoints mix IPv4 and IPv6.
    """
    pairs = [_split(endpoint) for endpoint in endpoints]
    if len(pairs) == 1:
        return endpoints[0]
    addresses: list[tuple[str, int]] = []
    for host, port in pairs:
        try:
            addresses.append((str(ipaddress.ip_address(host)), port))
            continue
        except ValueError:
            pass
        try:
            known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Unavailable(f"the name {host!r} has no address ({error.strerror or error})") from error
        known.sort(key=lambda entry: entry[0] != socket.AF_INET)
        addresses.append((str(known[0][4][0]), port))
    versions = {ipaddress.ip_address(host).version for host, _ in addresses}
    if len(versions) > 1:
        raise InvalidRequest("the endpoints mix IPv4 and IPv6; give all replicas addresses of one kind")
    if versions == {4}:
        return "ipv4:" + ",".join(f"{host}:{port}" for host, port in addresses)
    return "ipv6:" + ",".join(f"[{host}]:{port}" for host, port in addresses)
