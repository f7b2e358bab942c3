"""New encrypted connections, to a server that speaks TLS and then says nothing of HTTP/2."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

from drills.rig.certificates import SERVER_NAME, Authority, ends_unix_s
from drills.rig.direct import UNREACHED
from drills.rig.handshakes import Handshakes


def authority(folder: Path) -> Authority:
    folder.mkdir()
    made = Authority(folder)
    made.publish()
    return made


def asked(signed_by: Authority, believed: Authority, life_s: float) -> str:
    """What a handshake ends with."""
    certificate, key = signed_by.paths("a")
    signed_by.sign("a", life_s)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def drive() -> str:
        async with await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context) as server:
            port = server.sockets[0].getsockname()[1]
            calls = Handshakes({"a": f"127.0.0.1:{port}"}, believed.believed(), deadline_ms=3_000.0)
            status, told = await calls.call(0, time.monotonic())
            assert told["asked"] == "a" and told["detail"]
            return status

    return asyncio.run(drive())


def test_an_expired_certificate_and_a_strange_authority_are_told_from_silence(tmp_path: Path) -> None:
    ours, other = authority(tmp_path / "ours"), authority(tmp_path / "other")
    assert asked(ours, ours, -5.0) == "CERTIFICATE"
    assert asked(other, ours, 60.0) == "CERTIFICATE"
    assert asked(ours, ours, 60.0) == UNREACHED


def test_a_certificate_ends_when_it_was_said_to(tmp_path: Path) -> None:
    ours = authority(tmp_path / "ours")
    ends = ours.sign("a", 60.0)
    pem = ours.paths("a")[0].read_text(encoding="ascii")
    assert ends == ends_unix_s(ssl.PEM_cert_to_DER_cert(pem))
    assert abs(ends - time.time() - 60.0) < 30.0
    assert SERVER_NAME == "muster"
