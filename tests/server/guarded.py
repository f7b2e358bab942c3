"""A real replica that encrypts and asks who calls, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from grpc_health.v1 import health_pb2_grpc

from drills.rig.certificates import Authority
from muster import tokens
from muster.client import Client, Credentials
from tests.server.replica import Replica

DAY_S = 86_400.0


def authority(folder: Path, name: str = "authority") -> Authority:
    """One whose certificate is written."""
    made = Authority(folder, name)
    made.publish()
    return made


def signed(by: Authority, name: str, dns: str, life_s: float = DAY_S) -> tuple[Path, Path]:
    """Files of a certificate, for servers and clients, and of its key."""
    by.sign(name, life_s, dns=dns, client=True)
    return by.paths(name)


@dataclass
class Guarded:
    """A replica that encrypts and asks who calls, and what its callers hold."""

    replica: Replica
    authority: Authority
    folder: Path

    def token(self, subject: str, *scopes: str, lifetime_s: float = 600) -> str:
        return tokens.issue(self.folder / "key.pem", tokens.Wanted(subject, scopes, lifetime_s))

    def with_token(self, subject: str, *scopes: str) -> Credentials:
        return Credentials(tls_ca=self.authority.path, token=self.token(subject, *scopes))

    def client(self, credentials: Credentials) -> Client:
        return Client(self.replica.address, credentials=credentials)


@contextmanager
def running(bundle: Path, folder: Path) -> Iterator[Guarded]:
    """Such a replica, primary and serving."""
    own = authority(folder)
    certificate, key = signed(own, "replica", "muster")
    tokens.make_key(folder / "key.pem", folder / "keys.json")
    (folder / "revoked").write_text("# nothing yet\n", encoding="utf-8")
    # A file of its own: who is believed when calling changes apart from whom callers believe.
    believed = folder / "clients.pem"
    believed.write_bytes(own.path.read_bytes())
    settings: dict[str, object] = {
        "generation.rebuild": "false",
        "metrics.listen": "127.0.0.1:0",
        "tls.certificate": certificate,
        "tls.key": key,
        "tls.client_ca": believed,
        "tls.client_auth": "optional",
        "auth.mode": "required",
        "auth.keys": folder / "keys.json",
        "auth.revoked": folder / "revoked",
        "auth.certificates": "dns:loader.shop.example=read+write",
        "auth.failures_burst": 5,
        "auth.failures_per_s": 0.001,
        "quota.callers": "slow=0.001/3",
    }
    with Replica(bundle, folder / "data", "a", settings) as replica:
        found = Guarded(replica, own, folder)
        channel = Credentials(tls_ca=own.path).channel(replica.address, [])
        replica.health_stub = health_pb2_grpc.HealthStub(channel)
        replica.wait_serving().wait_primary()
        yield found
        channel.close()
