"""Where the console listens, what it shows, and who may use it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from muster.client.settings import parse_endpoints

DEFAULT_LISTEN = "127.0.0.1:8461"
TOKEN_VARIABLE = "MUSTER_CONSOLE_TOKEN"
TOKEN_CHARACTERS_MIN = 16


class SettingsError(ValueError):
    """The console cannot be started so; the text says why and what to do."""


@dataclass(frozen=True)
class ConsoleSettings:
    """All that a console is started with; see `make_settings`.

    host, port: where it listens; port 0: any free one. names: further names by which browsers may reach it.
    endpoints: replicas. metrics: host:port of their metrics endpoints; empty: none.
    bundles: folder whose subfolders are bundles. token: empty: none is asked for.
    """

    host: str
    port: int
    endpoints: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    bundles: Path = Path("models")
    names: tuple[str, ...] = ()
    token: str = ""

    @property
    def target(self) -> str:
        """The replicas as the commands of `muster` take them."""
        return ",".join(self.endpoints)


def make_settings(
    *,
    listen: str,
    target: str,
    metrics: str = "",
    bundles: Path = Path("models"),
    names: Sequence[str] = (),
    token: str = "",
    allow_remote: bool = False,
) -> ConsoleSettings:
    """Settings from what was given. Raises: SettingsError; InvalidRequest of the endpoints."""
    host, port = split_address(listen)
    if token and len(token) < TOKEN_CHARACTERS_MIN:
        raise SettingsError(
            f"{TOKEN_VARIABLE} has {len(token)} characters; give it {TOKEN_CHARACTERS_MIN} or more, for"
            " example from `openssl rand -hex 16`"
        )
    if not is_loopback(host):
        if not allow_remote:
            raise SettingsError(
                f"{host} can be reached from other machines, and the console can deploy and run drills:"
                " listen on 127.0.0.1, or give --allow-remote and a token"
            )
        if not token:
            raise SettingsError(f"off loopback the console asks for a token: set {TOKEN_VARIABLE}")
        if not names:
            raise SettingsError(
                "off loopback the console must know by which name it is reached: give --name HOST[:PORT]"
            )
    return ConsoleSettings(
        host=host,
        port=port,
        endpoints=tuple(parse_endpoints(target)),
        metrics=tuple(parse_endpoints(metrics)) if metrics.strip() else (),
        bundles=bundles,
        names=tuple(name.lower() for name in names),
        token=token,
    )


def split_address(listen: str) -> tuple[str, int]:
    """Host and port of "host:port"; IPv6 in brackets. Raises: SettingsError."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+)):(\d{1,5})", listen)
    if match is None or int(match[3]) > 65_535:
        raise SettingsError(f"--listen takes host:port, such as {DEFAULT_LISTEN}, not {listen!r}")
    return match[1] or match[2], int(match[3])


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
