"""Tools of others, as docs/security.md shows them, against a replica with TLS and tokens.

Each is skipped where it is not installed: `go install` as the page says, GOBIN in PATH or MUSTER_GO_TOOLS.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.guarded import Guarded, running
from tests.server.replica import upsert

LIMIT_S = 60
RANKING = "muster.v1.RankingService"


@pytest.fixture(scope="module")
def guarded(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    if not any(map(found, ("grpcurl", "grpc-health-probe", "ghz"))):
        pytest.skip("none of grpcurl, grpc-health-probe and ghz is installed (docs/security.md)")
    with running(bundle, tmp_path_factory.mktemp("tools")) as replica:
        with replica.client(replica.with_token("loader", "read", "write")) as client:
            client.apply(upsert("1", "red cable"), deadline_ms=10_000)
        yield replica


def found(name: str) -> str | None:
    """Where a tool is. Other names of its package: as some distributions call it."""
    places = os.pathsep.join(filter(None, [os.environ.get("MUSTER_GO_TOOLS"), os.environ.get("PATH")]))
    return shutil.which(name, path=places) or shutil.which(name.replace("-", "_"), path=places)


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Skips the test where the tool is not there."""
    tool = found(name)
    if tool is None:
        pytest.skip(f"{name} is not installed (docs/security.md)")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=LIMIT_S, check=False)


def shown(guarded: Guarded, *scopes: str) -> str:
    return f"Bearer {guarded.token('ui', *scopes)}"


def grpcurl(guarded: Guarded, *arguments: str, token: bool = True) -> subprocess.CompletedProcess[str]:
    header = ["-H", f"authorization: {shown(guarded, 'read')}"] if token else []
    return run("grpcurl", "-cacert", str(guarded.authority.path), *header, *arguments)


def test_grpcurl_lists_and_describes_what_reflection_tells(guarded: Guarded) -> None:
    listed = grpcurl(guarded, guarded.replica.address, "list")
    assert listed.returncode == 0, listed.stderr
    assert {RANKING, "muster.v1.CatalogueService", "grpc.health.v1.Health"} <= set(listed.stdout.split())
    described = grpcurl(guarded, guarded.replica.address, "describe", "muster.v1.SearchRequest")
    assert "string query = 1;" in described.stdout


def test_grpcurl_searches_within_its_deadline(guarded: Guarded) -> None:
    call = ["-max-time", "5", "-d", '{"query": "cable"}', guarded.replica.address, f"{RANKING}/Search"]
    done = grpcurl(guarded, *call)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["results"][0]["title"] == "red cable"
    assert 0 < int(answer["receipt"]["budget_us"]) <= 5_000_000


def test_grpcurl_without_a_token_or_without_the_scope_is_told_so(guarded: Guarded) -> None:
    done = grpcurl(guarded, "-d", "{}", guarded.replica.address, f"{RANKING}/Search", token=False)
    assert done.returncode != 0
    assert "Unauthenticated" in done.stderr
    write = ["-d", "{}", guarded.replica.address, "muster.v1.AdminService/Drain"]
    assert "PermissionDenied" in grpcurl(guarded, *write).stderr


def test_the_health_probe_needs_no_token(guarded: Guarded) -> None:
    tls = ["-addr", guarded.replica.address, "-tls", "-tls-ca-cert", str(guarded.authority.path)]
    for service in (RANKING, "muster.v1.CatalogueService", ""):
        done = run("grpc-health-probe", *tls, "-service", service)
        assert (done.returncode, "SERVING" in done.stdout + done.stderr) == (0, True)
    assert run("grpc-health-probe", *tls, "-service", "no.such.Service").returncode != 0


def test_ghz_calls_with_a_token_and_a_protoset(guarded: Guarded, tmp_path: Path) -> None:
    """Its own reader of .proto files and its reflection know no optional fields of proto3."""
    protoset = tmp_path / "muster.protoset"
    written = grpcurl(guarded, "-protoset-out", str(protoset), guarded.replica.address, "describe", RANKING)
    assert written.returncode == 0, written.stderr
    token = json.dumps({"authorization": shown(guarded, "read")})
    done = run(
        "ghz",
        *("--cacert", str(guarded.authority.path), "-m", token, "--protoset", str(protoset)),
        *("--call", f"{RANKING}.Search", "-d", '{"query": "cable"}', "-t", "10s"),
        *("-n", "50", "-c", "2", "-O", "json", guarded.replica.address),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["count"] == 50
    assert report["statusCodeDistribution"] == {"OK": 50}
