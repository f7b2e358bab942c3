"""Real replicas that ask who calls: TLS, client certificates, tokens, certificates that change."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from muster import audit
from muster.client import AsyncClient, Credentials, MusterError, NotAllowed, Overloaded
from muster.v1 import admin_pb2, admin_pb2_grpc, ranking_pb2, ranking_pb2_grpc
from tests.server.guarded import DAY_S, Guarded, authority, running, signed
from tests.server.replica import upsert, wait_until


@pytest.fixture(scope="module")
def guarded(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with running(bundle, tmp_path_factory.mktemp("guarded")) as found:
        yield found


def test_health_needs_no_token_and_plain_text_is_not_spoken(guarded: Guarded) -> None:
    assert guarded.replica.health("muster.v1.RankingService") == health_pb2.HealthCheckResponse.SERVING
    with grpc.insecure_channel(guarded.replica.address) as plain:
        stub = health_pb2_grpc.HealthStub(plain)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_an_old_version_of_tls_and_a_strange_authority_are_refused(guarded: Guarded, tmp_path: Path) -> None:
    host, _, port = guarded.replica.address.rpartition(":")
    context = ssl.create_default_context(cafile=str(guarded.authority.path))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((host, int(port)), timeout=10) as plain, pytest.raises(OSError):
        context.wrap_socket(plain, server_hostname="muster")
    other = Credentials(tls_ca=authority(tmp_path, "other").path)
    with guarded.client(other) as client, pytest.raises(MusterError):
        client.search("shoe", deadline_ms=1_000)


def test_a_token_opens_what_its_scopes_say(guarded: Guarded) -> None:
    with guarded.client(guarded.with_token("ui", "read")) as reader:
        reader.search("shoe", deadline_ms=5_000)
        with pytest.raises(NotAllowed) as caught:
            reader.apply(upsert("1", "shoe"), deadline_ms=5_000)
        assert (caught.value.reason, caught.value.outcome) == ("SCOPE_MISSING", "not_written")
        assert next(iter(reader.status())).status is not None
        with pytest.raises(NotAllowed):
            reader.transfer_lease()
    with guarded.client(guarded.with_token("loader", "write", "read")) as writer:
        sequence = writer.apply(upsert("1", "red shoe"), deadline_ms=5_000).sequence
        assert writer.get("1", min_sequence=sequence, deadline_ms=5_000).product.title == "red shoe"
    with guarded.client(Credentials(tls_ca=guarded.authority.path)) as nobody, pytest.raises(NotAllowed):
        nobody.search("shoe", deadline_ms=5_000)


def test_the_asyncio_client_sends_its_token_with_every_kind_of_call(guarded: Guarded) -> None:
    async def calls() -> int:
        credentials = guarded.with_token("loader", "write", "read")
        async with AsyncClient(guarded.replica.address, credentials=credentials) as client:
            await client.search("shoe", deadline_ms=5_000)
            sequence = (await client.apply(upsert("2", "blue shoe"), deadline_ms=5_000)).sequence
            async for event in client.watch(sequence):
                return int(event.sequence) - int(sequence)
        return -1

    assert asyncio.run(calls()) == 0


def test_a_client_certificate_opens_what_the_settings_say(guarded: Guarded) -> None:
    certificate, key = signed(guarded.authority, "loader", "loader.shop.example")
    shown = Credentials(tls_ca=guarded.authority.path, tls_cert=certificate, tls_key=key)
    with guarded.client(shown) as client:
        client.apply(upsert("3", "green shoe"), deadline_ms=5_000)
        with pytest.raises(NotAllowed):
            client.transfer_lease()
    certificate, key = signed(guarded.authority, "stranger", "stranger.example")
    unknown = Credentials(tls_ca=guarded.authority.path, tls_cert=certificate, tls_key=key)
    with guarded.client(unknown) as client, pytest.raises(NotAllowed):
        client.search("shoe", deadline_ms=5_000)


def test_the_authority_of_clients_is_exchanged_while_calls_go_on(guarded: Guarded, tmp_path: Path) -> None:
    """Both are believed for a while, then the new one alone: no standing connection is asked again."""
    mine = guarded.authority.path.read_text(encoding="ascii")
    coming = authority(tmp_path, "coming")
    certificate, key = signed(coming, "loader", "loader.shop.example")
    shown = Credentials(tls_ca=guarded.authority.path, tls_cert=certificate, tls_key=key)
    believed = guarded.folder / "clients.pem"

    def let_in() -> bool:
        with guarded.client(shown) as loader:
            try:
                loader.search("shoe", deadline_ms=2_000)
            except MusterError:
                return False
            return True

    with guarded.client(guarded.with_token("ui", "read")) as standing:
        standing.search("shoe", deadline_ms=5_000)
        assert not let_in()
        for content, expected in ((mine + coming.path.read_text(encoding="ascii"), True), (mine, False)):
            draft = believed.with_suffix(".draft")
            draft.write_text(content, encoding="ascii")
            draft.replace(believed)
            wait_until(lambda expected=expected: let_in() is expected, f"believed: {expected}")  # type: ignore[misc]
            standing.search("shoe", deadline_ms=5_000)


def test_what_callers_say_of_themselves_is_not_believed(guarded: Guarded) -> None:
    credentials = guarded.with_token("ops", "admin")
    channel = credentials.channel(guarded.replica.address, [])
    stub = admin_pb2_grpc.AdminServiceStub(channel)
    stub.Rebuild(admin_pb2.RebuildRequest(), timeout=10, metadata=(("muster-caller", "root"),))
    channel.close()
    records = [one for _, _, one in audit.read(guarded.folder / "data" / "audit" / "a")]
    calls = [one for one in records if isinstance(one, audit.Record) and one.kind == "call"]
    assert calls[-1].subject == "ops" and calls[-1].detail["path"].endswith("/Rebuild")
    assert not audit.verify(guarded.folder / "data" / "audit" / "a").findings


def test_a_caller_above_its_rate_is_told_when_to_come_back(guarded: Guarded) -> None:
    with guarded.client(guarded.with_token("slow", "read")) as client:
        for _ in range(3):
            client.search("shoe", deadline_ms=5_000)
        with pytest.raises(Overloaded) as caught:
            client.search("shoe", deadline_ms=5_000)
    assert caught.value.reason == "QUOTA_EXCEEDED" and caught.value.retry_after_ms > 1_000


def test_a_revoked_token_is_refused_once_the_list_is_read(guarded: Guarded) -> None:
    with guarded.client(guarded.with_token("stolen", "read")) as client:
        client.search("shoe", deadline_ms=5_000)
        draft = guarded.folder / "draft"
        draft.write_text("subject stolen\n", encoding="utf-8")
        draft.replace(guarded.folder / "revoked")

        def refused() -> bool:
            try:
                client.search("shoe", deadline_ms=5_000)
            except NotAllowed:
                return True
            return False

        wait_until(refused, "the list is read")


def test_a_new_certificate_is_used_and_no_call_of_a_standing_connection_fails(guarded: Guarded) -> None:
    host, _, port = guarded.replica.address.rpartition(":")
    context = ssl.create_default_context(cafile=str(guarded.authority.path))

    def shown() -> bytes:
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="muster") as wrapped,
        ):
            found = wrapped.getpeercert(binary_form=True)
        assert found is not None
        return found

    before = shown()
    with guarded.client(guarded.with_token("ui", "read")) as client:
        client.search("shoe", deadline_ms=5_000)
        certificate, _ = signed(guarded.authority, "replica", "muster", life_s=2 * DAY_S)
        give_up_at = time.monotonic() + 60
        while shown() == before and time.monotonic() < give_up_at:
            client.search("shoe", deadline_ms=5_000)
        after = shown()
        assert after != before
        certificate.with_suffix(".draft").write_text("nothing", encoding="ascii")
        certificate.with_suffix(".draft").replace(certificate)
        wait_until(lambda: "those before stay in force" in guarded.replica.log(), "it is told")
        client.search("shoe", deadline_ms=5_000)
    assert shown() == after


def test_an_address_with_bad_tokens_is_refused_and_known_tokens_go_on(guarded: Guarded) -> None:
    """The last test of this replica: from here on new tokens must wait."""
    known = guarded.with_token("known", "read")
    channel = Credentials(tls_ca=guarded.authority.path).channel(guarded.replica.address, [])
    stub = ranking_pb2_grpc.RankingServiceStub(channel)
    request = ranking_pb2.SearchRequest(query="shoe")
    with guarded.client(known) as client:
        client.search("shoe", deadline_ms=5_000)
        codes = []
        for number in range(20):
            bad = f"{guarded.token(f'eve-{number}', 'admin')[:-4]}AAAA"
            with pytest.raises(grpc.RpcError) as caught:
                stub.Search(request, timeout=5, metadata=(("authorization", f"Bearer {bad}"),))
            codes.append(caught.value.code())
        assert set(codes) == {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert codes[-1] is grpc.StatusCode.RESOURCE_EXHAUSTED
        client.search("shoe", deadline_ms=5_000)
    channel.close()
    assert "Bearer" not in guarded.replica.log()


def test_a_signal_to_read_files_again_does_not_end_a_replica(guarded: Guarded) -> None:
    guarded.replica.process.send_signal(signal.SIGHUP)
    assert guarded.replica.health("muster.v1.RankingService") == health_pb2.HealthCheckResponse.SERVING
    assert guarded.replica.process.poll() is None
