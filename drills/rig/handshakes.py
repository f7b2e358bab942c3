"""A new encrypted connection for each search, to each replica in turn: who is shown which certificate.

They enter the history as `connection_made`: asked (the replica), ends_unix_s (of the certificate shown).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from typing import Any

from drills.rig.certificates import SERVER_NAME, ends_unix_s
from drills.rig.direct import UNREACHED
from drills.rig.forged import BODIES
from drills.rig.hostile import SEARCH
from drills.rig.load import OK
from drills.rig.wire import Connection, WireError, header, request_headers

KIND = "connection_made"


class Handshakes:
    """addresses: by the replicas' names. security: whom to believe. deadline_ms: of connection and search
    together."""

    def __init__(self, addresses: Mapping[str, str], security: ssl.SSLContext, *, deadline_ms: float) -> None:
        self._addresses = tuple(addresses.items())
        self._security = security
        self._deadline_s = deadline_ms / 1000.0

    async def open(self) -> None:
        """There is nothing to keep open."""

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        """One connection and one search over it."""
        name, address = self._addresses[index % len(self._addresses)]
        told: dict[str, Any] = {"asked": name}
        deadline_s = time.monotonic() + self._deadline_s
        try:
            connection = await Connection.connect(
                address,
                timeout_s=self._deadline_s,
                security=self._security,
                server_name=SERVER_NAME,
            )
        except ssl.SSLCertVerificationError as error:
            return "CERTIFICATE", {**told, "detail": error.verify_message}
        except (OSError, TimeoutError) as error:
            return UNREACHED, {**told, "detail": f"{type(error).__name__}: {error}"}
        try:
            told["ends_unix_s"] = ends_unix_s(connection.certificate)
            left_us = max(1, int((deadline_s - time.monotonic()) * 1e6))
            headers = request_headers(SEARCH, address) + header("grpc-timeout", f"{left_us}u")
            answer = await connection.call(headers, BODIES[SEARCH], deadline_s)
        except WireError as error:
            return UNREACHED, {**told, "detail": str(error)}
        finally:
            connection.close()
        return answer.status, told if answer.status == OK else {**told, "detail": answer.message}

    async def close(self) -> None:
        """There is nothing to close."""
