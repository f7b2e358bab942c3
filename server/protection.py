"""Settings that say who may call a replica, how often, and how calls are encrypted.

The front (``rankcore.Front``) does all of it; here stand what may be set, what must not be set together, and
how the front is told. ``docs/security.md`` says what it defends against.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from server.sections import Section, setting, texts

PATHS = {
    "tls": ("certificate", "key", "client_ca"),
    "auth": ("keys", "revoked"),
}
"""Settings that name files, by section; in a settings file they are relative to it."""

_RATE = re.compile(r"([\x21-\x7e]{1,128})=([0-9]+(?:\.[0-9]+)?)(?:/([0-9]+))?")


class TlsSettings(Section):
    """Encryption of the calls."""

    certificate: Path | None = setting(
        None,
        "file",
        "The replica's certificate in PEM, followed by those that lead up to its authority. With it every"
        " connection is encrypted. The file is looked at every second: a new one is used for new connections,"
        " standing ones stay; one that cannot be used is left aside, with a line in the log. Absent: calls"
        " are not encrypted.",
    )
    key: Path | None = setting(
        None, "file", "The private key of `tls.certificate` in PEM, without a password."
    )
    client_ca: Path | None = setting(
        None, "file", "The authorities, in PEM, that sign the certificates of clients."
    )
    client_auth: Literal["none", "optional", "required"] = setting(
        "none",
        "-",
        "Whether clients must show a certificate signed by `tls.client_ca`: `required` of all, health checks"
        " included; `optional` of those that bring no token (see `auth.certificates`).",
    )
    min_version: Literal["1.2", "1.3"] = setting("1.3", "-", "Oldest version of TLS that is spoken.")
    allow_plaintext: bool = setting(
        False,
        "-",
        "Whether a replica may listen beyond loopback without encryption. Only where the network itself is"
        " private, or something in front of the replica encrypts.",
    )


class AuthSettings(Section):
    """Who may call."""

    mode: Literal["loopback", "off", "required"] = setting(
        "loopback",
        "-",
        "`required`: every call but health checks must bring a token or a client certificate, with a scope"
        " that its method asks for. `off`: nobody is asked. `loopback`: nobody is asked on loopback, and the"
        " replica refuses to listen beyond it: say `required` or `off` there.",
    )
    keys: Path | None = setting(
        None,
        "file",
        "The JSON Web Key set that tokens are verified with: Ed25519 (EdDSA), P-256 (ES256), RSA from 2048"
        " bits (RS256), shared secrets (HS256), 64 keys at most. Looked at every second, so keys are rotated"
        " by adding the new one, issuing with it, and taking the old one out. `muster token key` makes one.",
    )
    revoked: Path | None = setting(
        None,
        "file",
        "What is refused before its time is over, a line each: `token ID`, `subject NAME`, `certificate"
        " SHA256`. Looked at every second; a list with a line that is not understood leaves the one before"
        " in force.",
    )
    issuer: str = setting("", "name", "The `iss` that tokens must have. Empty: any.", max_length=256)
    audience: str = setting(
        "muster",
        "name",
        "The `aud` that tokens must have, alone or among others. A token that may be used once (`once`) must"
        " name this replica instead: `AUDIENCE/REPLICA`.",
        min_length=1,
        max_length=256,
    )
    skew_s: int = setting(
        30,
        "seconds",
        "How far the clocks of issuer and replica may be apart when `exp`, `nbf` and `iat` are judged.",
        ge=0,
        le=300,
    )
    lifetime_max_s: int = setting(
        2_678_400,
        "seconds",
        "A token whose end is further away than this is refused: one that never ends cannot be lost safely.",
        ge=60,
        le=315_360_000,
    )
    admin_once: bool = setting(
        False,
        "-",
        "Whether tokens of calls that ask for `admin` must be good for one call (`once`), so that one that"
        " was overheard is worth nothing. `muster deploy`, which makes many calls, then needs a client"
        " certificate.",
    )
    certificates: tuple[str, ...] = setting(
        (),
        "entries",
        "Callers by their certificate, as `KIND:NAME=SCOPE+SCOPE`: the kind is `dns` or `uri`, of its"
        " alternative names; the scopes are `read`, `write`, `feedback`, `admin`,"
        " `drill`. The first name of a certificate that stands here counts.",
    )
    failures_per_s: float = setting(
        0.2,
        "tokens a second",
        "Bad tokens of one address that are looked at on the long run...",
        ge=0.001,
        le=1000.0,
    )
    failures_burst: int = setting(
        20,
        "tokens",
        "...and at once. Beyond, tokens from there that are not known already are refused before their"
        " signature is looked at. Addresses of IPv6 count by their network (/64).",
        ge=1,
        le=1_000_000,
    )

    @field_validator("certificates", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return texts(value)


class QuotaSettings(Section):
    """How often callers may call."""

    calls_per_s: float = setting(
        0.0,
        "calls a second",
        "Calls of each caller on the long run, health checks apart; one more is answered RESOURCE_EXHAUSTED,"
        " with the time to wait. A caller is whom its token or certificate names; where nobody is asked, its"
        " address. Counted by each replica for itself. 0: any number.",
        ge=0.0,
        le=1_000_000.0,
    )
    burst: int = setting(
        0,
        "calls",
        "Calls of each caller at once, after it has been silent. 0: those of two seconds, at least one.",
        ge=0,
        le=1_000_000,
    )
    callers: tuple[str, ...] = setting(
        (),
        "entries",
        "Other rates of single callers, as `NAME=CALLS_PER_S` or `NAME=CALLS_PER_S/BURST`.",
    )

    @field_validator("callers", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return texts(value)

    @field_validator("callers")
    @classmethod
    def _rates(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            match = _RATE.fullmatch(entry)
            if match is None or not 0 < float(match[2]) <= 1_000_000 or match[3] == "0":
                raise ValueError(f"write NAME=CALLS_PER_S or NAME=CALLS_PER_S/BURST, not {entry[:200]!r}")
        return value

    def for_front(self) -> dict[str, Any]:
        """As ``rankcore.Front`` takes it."""
        named = []
        for entry in self.callers:
            match = _RATE.fullmatch(entry)
            assert match is not None
            named.append((match[1], float(match[2]), _burst(float(match[2]), int(match[3] or 0))))
        each = (self.calls_per_s, _burst(self.calls_per_s, self.burst)) if self.calls_per_s else None
        return {"each": each, "named": named}


class AuditSettings(Section):
    """The account of who did what."""

    enabled: bool = setting(
        True,
        "-",
        "Whether the replica keeps an audit in `DATA_DIR/audit/REPLICA`: operators' calls, those refused,"
        " drills that were overridden, and, summed up for a second, who wrote what to the catalogue. Records"
        " are chained by hashes; `muster audit verify` finds changes (docs/security.md). 16 MiB a file; old"
        " files are yours to archive.",
    )


def audit_folder(data_dir: Path, audit: AuditSettings, replica: str) -> Path | None:
    """Where the replica of this name keeps its audit; None: nowhere."""
    # A name may consist of dots, which would lead elsewhere.
    return data_dir / "audit" / replica.replace("..", "_") if audit.enabled else None


def _burst(per_s: float, burst: int) -> float:
    return float(burst) if burst else max(1.0, 2 * per_s)


def tls_for_front(tls: TlsSettings) -> dict[str, Any] | None:
    """As ``rankcore.Front`` takes it; None: nothing is encrypted."""
    if tls.certificate is None:
        return None
    return {
        "certificate": tls.certificate,
        "key": tls.key,
        "client_ca": tls.client_ca,
        "client_auth": tls.client_auth,
        "min_version": tls.min_version,
    }


def auth_for_front(auth: AuthSettings, replica: str) -> dict[str, Any] | None:
    """As ``rankcore.Front`` takes it; None: nobody is asked. replica: the replica's name."""
    if auth.mode != "required":
        return None
    return {
        "keys": auth.keys,
        "revoked": auth.revoked,
        "issuer": auth.issuer or None,
        "audience": auth.audience,
        "audience_once": f"{auth.audience}/{replica}",
        "skew_s": auth.skew_s,
        "lifetime_max_s": auth.lifetime_max_s,
        "certificates": list(auth.certificates),
        "admin_once": auth.admin_once,
        "failures_per_s": auth.failures_per_s,
        "failures_burst": float(auth.failures_burst),
    }


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def problems(host: str, tls: TlsSettings, auth: AuthSettings) -> Iterator[str]:
    """What must hold between these settings, and where the replica listens; a sentence for each breach."""
    if (tls.certificate is None) != (tls.key is None):
        yield "tls.certificate and tls.key belong together: set both, or neither"
    if tls.client_auth != "none" and (tls.certificate is None or tls.client_ca is None):
        yield f"tls.client_auth = {tls.client_auth!r} needs tls.certificate, tls.key and tls.client_ca"
    if auth.certificates and tls.client_auth == "none":
        yield "auth.certificates needs tls.client_auth = 'optional' or 'required': nobody is asked for one"
    if auth.mode == "required" and auth.keys is None and not auth.certificates:
        yield "auth.mode = 'required' needs auth.keys or auth.certificates, or nobody could call"
    if is_loopback(host):
        return
    if tls.certificate is None and not tls.allow_plaintext:
        yield (
            f"listen is beyond loopback ({host}), and calls would not be encrypted: set tls.certificate and"
            " tls.key, or tls.allow_plaintext = true where the network itself is private"
        )
    if auth.mode == "loopback":
        yield (
            f"listen is beyond loopback ({host}), and anybody there could call: set auth.mode = 'required',"
            " or 'off' where the network itself keeps others out"
        )
