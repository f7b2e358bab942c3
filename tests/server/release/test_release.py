"""Real replicas that change bundles under load: no request fails, bad bundles are left again."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import pytest

from muster.bundle import Gate, Rehearsed, SigningKey, make_key, write_gate
from muster.deploy.command import Wish, run
from muster.deploy.deployer import DeployImpossible
from muster.deploy.judge import Limits
from muster.deploy.steps import Options
from muster.v1 import admin_pb2 as pb
from muster.v1 import ranking_pb2
from muster.v1.deploy_pb2 import DeployPhase
from tests.fixtures import bundle_variants
from tests.server.replica import ROOT, START_S, Replica, patch, upsert, wait_until

SETTINGS = {"generation.rebuild": "true", "release.deployer_silent_ms": 1500, "ranking.workers": 1}
COLOURS = ("red", "blue", "green", "black", "white", "grey")
THINGS = ("running shoe", "leather boot", "cotton shirt", "wool hat", "phone case", "desk lamp", "steel pan")
# Products that differ, so that a turned order is another order.
PRODUCTS = tuple(f"{colour} {thing}" for colour in COLOURS for thing in THINGS)
QUERIES = ("red running shoe", "blue shirt", "steel pan", "black leather boot", "lamp for a desk")


@dataclass(frozen=True)
class Variants:
    folder: Path
    ids: dict[str, str]

    def path(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Variants:
    folder = tmp_path_factory.mktemp("variants")
    makers = {
        "plain": bundle_variants.plain,
        "retrained": bundle_variants.retrained,
        "wrong": bundle_variants.wrong,
        "slow": bundle_variants.slow,
    }
    return Variants(folder, {name: make(folder / name) for name, make in makers.items()})


@dataclass
class Shop:
    """A primary and a standby of one small catalogue."""

    primary: Replica
    standby: Replica
    stopped: list[Replica] = field(default_factory=list)

    @property
    def target(self) -> str:
        return f"{self.primary.address},{self.standby.address}"

    @property
    def replicas(self) -> tuple[Replica, Replica]:
        return self.primary, self.standby

    def bundles(self, replica: Replica) -> pb.ReplicaBundles:
        return replica.admin.BundleStatus(pb.BundleStatusRequest(), timeout=10).bundles

    def serving(self) -> set[str]:
        return {self.bundles(replica).serving.bundle_id for replica in self.replicas}


@contextmanager
def open_shop(
    variants: Variants, data_dir: Path, settings: Mapping[str, str | int] | None = None
) -> Iterator[Shop]:
    settings = {**SETTINGS, **(settings or {})}
    with Replica(variants.path("plain"), data_dir, "a", settings) as primary:
        primary.wait_primary()
        standby_settings = {**settings, "lease.eligible": "false"}
        with Replica(variants.path("plain"), data_dir, "b", standby_settings) as standby:
            standby.wait_serving()
            events = [upsert(f"p-{number}", title, stock=1) for number, title in enumerate(PRODUCTS)]
            sequence = primary.apply(*events).sequence
            wait_until(lambda: standby.status().applied_sequence >= sequence, "the standby has applied all")
            yield Shop(primary, standby)


@pytest.fixture
def shop(variants: Variants, tmp_path: Path) -> Iterator[Shop]:
    with open_shop(variants, tmp_path / "data") as opened:
        yield opened


@dataclass
class Seen:
    """What callers met. errors: status and text."""

    answered: int = 0
    bundles: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)


@contextmanager
def callers(shop: Shop) -> Iterator[Seen]:
    """Searches one after the other on each replica, until the end of the block."""
    seen, stop, lock = Seen(), threading.Event(), threading.Lock()

    def search(replica: Replica) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            request = ranking_pb2.SearchRequest(query=QUERIES[number % len(QUERIES)])
            try:
                # The key is another shopper's each time, so that shares are met.
                answer = replica.ranking.Search(
                    request, timeout=10, metadata=[("muster-shopper-key", f"{replica.name}-{number}")]
                )
            except grpc.RpcError as error:
                with lock:
                    seen.errors.append(f"{error.code().name}: {error.details()}")
                continue
            with lock:
                seen.answered += 1
                seen.bundles.add(answer.receipt.bundle_id)
                if not answer.results:
                    seen.errors.append(f"nothing was found for {request.query}")
            time.sleep(0.005)

    threads = [threading.Thread(target=search, args=(replica,)) for replica in shop.replicas]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wish(shop: Shop, bundle: Path | None, **changes: object) -> Wish:
    values: dict[str, object] = {
        "target": shop.target,
        "bundle": bundle,
        "options": Options(shadow_share=0.5, canary_share=0.5),
        "limits": Limits(min_requests=60, latency_slack_ms=15.0, tail_slack_ms=500.0),
        "patience_s": START_S,
    }
    return Wish(**{**values, **changes})  # type: ignore[arg-type]


def deploy(shop: Shop, bundle: Path | None, **changes: object) -> tuple[int, dict[str, object]]:
    shown: list[dict[str, object]] = []
    code = run(wish(shop, bundle, **changes), show=shown.append)
    return code, shown[0]


def phases(outcome: dict[str, object]) -> list[str]:
    passed = outcome["phases"]
    assert isinstance(passed, list)
    return [one["phase"] for one in passed]


def test_a_good_bundle_is_deployed_under_load_and_back_without_one_failed_request(
    shop: Shop, variants: Variants
) -> None:
    with callers(shop) as seen:
        code, outcome = deploy(shop, variants.path("retrained"))
        assert (code, phases(outcome)) == (
            0,
            ["started", "loaded", "shadowing", "canary", "promoting", "done"],
        ), outcome
        new, old = variants.ids["retrained"], variants.ids["plain"]
        assert shop.serving() == {new}
        assert seen.bundles == {old, new}
        # Writes go on being seen, also by the bundle that there is a way back to.
        sequence = shop.primary.apply(patch("p-1", price=5.0), upsert("new", "vintage silk curtain")).sequence
        for replica in shop.replicas:
            wait_until(
                lambda replica=replica: (  # type: ignore[misc]
                    shop.bundles(replica).previous.applied_sequence >= sequence
                    and shop.bundles(replica).serving.applied_sequence >= sequence
                ),
                "both bundles have applied the write",
            )
        code, outcome = deploy(shop, None, back=True)
        assert (code, phases(outcome)) == (0, ["started", "loaded", "promoting", "done"])
        assert shop.serving() == {old}
        found = shop.standby.ranking.Search(
            ranking_pb2.SearchRequest(query="vintage silk curtain"), timeout=10
        )
        assert found.results[0].product_id == "new"
    assert seen.errors == []
    assert seen.answered > 100
    windows = outcome["windows"]
    assert windows == {}


def test_vectors_are_computed_once_for_all_replicas_of_a_machine(shop: Shop, variants: Variants) -> None:
    with callers(shop):
        code, outcome = deploy(shop, variants.path("retrained"), options=Options(0.0, 0.0))
    assert code == 0, outcome
    built = [line for replica in shop.replicas for line in replica.log().splitlines() if " encoded, " in line]
    suffix = variants.ids["retrained"].rpartition("-")[2][:8]
    of_candidate = [line for line in built if f"generation gen-{suffix}" in line]
    assert len(of_candidate) == 1, built
    generations = {shop.bundles(replica).serving.generation_id for replica in shop.replicas}
    assert len(generations) == 1


# The useless work of the slow one takes little on a fast processor: so little slack that it shows there too.
@pytest.mark.parametrize(
    ("name", "word", "slack_ms"), [("wrong", "agreement", 15.0), ("slow", "latency", 3.0)]
)
def test_a_bad_bundle_is_rolled_back_by_itself_within_ten_seconds_of_requests(
    shop: Shop, variants: Variants, name: str, word: str, slack_ms: float
) -> None:
    limits = Limits(min_requests=60, latency_slack_ms=slack_ms, tail_slack_ms=500.0)
    with callers(shop) as seen:
        code, outcome = deploy(
            shop, variants.path(name), options=Options(shadow_share=0.0, canary_share=0.5), limits=limits
        )
        assert code == 10, outcome
        assert word in str(outcome["reason"]), outcome
        assert shop.serving() == {variants.ids["plain"]}
        for replica in shop.replicas:
            assert not shop.bundles(replica).HasField("candidate")
    assert seen.errors == []
    # Its callers were a share of one replica's, for a short while: far fewer than it takes to go on.
    windows = outcome["windows"]
    assert isinstance(windows, dict)
    assert windows["canary"]["canary"]["answered"] < 5000
    last = shop.bundles(shop.primary).deploy
    assert last.phase == DeployPhase.DEPLOY_PHASE_ROLLED_BACK
    assert shop.bundles(shop.primary).promoted_bundle_id == ""


def test_a_bundle_is_not_loaded_before_its_drills_have_held_or_were_overridden_for_a_reason(
    variants: Variants, tmp_path: Path
) -> None:
    key, other = make_key(tmp_path / "key.pem"), make_key(tmp_path / "other.pem")
    folder, bundle_id = tmp_path / "retrained", variants.ids["retrained"]
    shutil.copytree(variants.path("retrained"), folder)
    settings = {"release.gate": "release", "release.trusted_keys": key.public_key}
    bad = Gate(bundle_id, "release", 0, "0.1.0", (Rehearsed("deadline_storm", "deviated", "late"),), {})
    good = replace(bad, drills=(Rehearsed("deadline_storm", "held"),))
    with open_shop(variants, tmp_path / "data", settings) as shop, callers(shop) as seen:

        def outcome_of(gate: Gate | None, signer: SigningKey) -> tuple[int, str]:
            if gate is not None:
                write_gate(folder, gate, signer)
            code, outcome = deploy(shop, folder, options=Options(0.0, 0.0))
            return code, str(outcome["reason"])

        for gate, signer, reason in (
            (None, key, "have not been run"),
            (bad, key, "deadline_storm deviated"),
            (good, other, "who is not trusted"),
            (replace(good, bundle_id="another-000000000000"), key, "is of bundle another"),
        ):
            code, told = outcome_of(gate, signer)
            assert code == 10
            assert reason in told
            assert shop.serving() == {variants.ids["plain"]}
        overridden = replace(bad, override="the storm hit a busy machine")
        assert outcome_of(overridden, key) == (0, "")
        assert shop.serving() == {bundle_id}
        assert "the storm hit a busy machine" in shop.primary.log()
        code, _ = deploy(shop, None, back=True)
        assert code == 0
        assert outcome_of(good, key) == (0, "")
    assert seen.errors == []


def test_requests_that_their_callers_gave_up_are_counted_for_the_bundle_that_had_them(
    shop: Shop, variants: Variants
) -> None:
    admin, bundle_id = shop.standby.admin, variants.ids["slow"]
    folder = str(variants.path("slow"))
    admin.LoadBundle(pb.LoadBundleRequest(folder=folder, bundle_id=bundle_id), timeout=10)
    ready = pb.BUNDLE_STATE_READY
    wait_until(lambda: shop.bundles(shop.standby).candidate.state == ready, "the candidate is ready")
    admin.CanaryBundle(pb.CanaryBundleRequest(bundle_id=bundle_id, share=1.0), timeout=10)

    def given_up() -> int:
        asked = shop.standby.ranking.Search.future(ranking_pb2.SearchRequest(query=QUERIES[0]), timeout=10)
        # Long enough to be read, not to be answered by this bundle.
        time.sleep(0.003)
        asked.cancel()
        return shop.bundles(shop.standby).trial.canary.given_up

    wait_until(lambda: given_up() >= 3, "callers that left are counted")
    assert shop.bundles(shop.standby).trial.serving.given_up == 0


def test_a_damaged_bundle_is_refused_and_the_one_before_serves_on(
    shop: Shop, variants: Variants, tmp_path: Path
) -> None:
    bundle_id = variants.ids["retrained"]
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for source in variants.path("retrained").rglob("*"):
        target = damaged / source.relative_to(variants.path("retrained"))
        target.mkdir() if source.is_dir() else target.write_bytes(source.read_bytes())
    model = damaged / "encoder/model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    shop.standby.admin.LoadBundle(pb.LoadBundleRequest(folder=str(damaged), bundle_id=bundle_id), timeout=10)
    wait_until(lambda: shop.bundles(shop.standby).candidate.state == pb.BUNDLE_STATE_REFUSED, "it is refused")
    held = shop.bundles(shop.standby)
    assert "encoder/model.onnx" in held.candidate.detail
    assert held.serving.bundle_id == variants.ids["plain"]
    with pytest.raises(grpc.RpcError) as caught:
        shop.standby.admin.PromoteBundle(pb.PromoteBundleRequest(bundle_id=bundle_id), timeout=10)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "encoder/model.onnx" in caught.value.details()
    # A whole one may follow.
    request = pb.LoadBundleRequest(folder=str(variants.path("retrained")), bundle_id=bundle_id)
    shop.standby.admin.LoadBundle(request, timeout=10)
    wait_until(lambda: shop.bundles(shop.standby).candidate.state == pb.BUNDLE_STATE_READY, "it is ready")
    shop.standby.admin.RollBackBundle(pb.RollBackBundleRequest(bundle_id=bundle_id), timeout=10)
    assert not shop.bundles(shop.standby).HasField("candidate")


def cli(shop: Shop, *arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "muster.cli", "deploy", "--target", shop.target, *arguments]
    return subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def phase(shop: Shop) -> int:
    return int(shop.bundles(shop.primary).deploy.phase)


def test_a_deployer_that_is_killed_is_followed_by_another_that_goes_on(
    shop: Shop, variants: Variants
) -> None:
    # Without callers the trial waits for requests; there the deployer is killed.
    first = cli(shop, str(variants.path("retrained")), "--min-requests", "60")
    try:
        wait_until(lambda: phase(shop) == DeployPhase.DEPLOY_PHASE_SHADOWING, "the trial has begun")
        wait_until(lambda: shop.bundles(shop.standby).shadow_share > 0, "requests are compared")
        with pytest.raises(DeployImpossible, match="only one deploy runs at a time"):
            deploy(shop, variants.path("retrained"))
        with pytest.raises(DeployImpossible, match="under way"):
            deploy(shop, variants.path("wrong"))
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    deploy_id = shop.bundles(shop.primary).deploy.deploy_id
    with callers(shop) as seen:
        code, outcome = deploy(shop, variants.path("retrained"))
    assert (code, outcome["deploy_id"]) == (0, deploy_id), outcome
    assert phases(outcome)[0] == "shadowing"
    assert shop.serving() == {variants.ids["retrained"]}
    assert seen.errors == []


def test_an_operator_ends_a_deploy_whose_deployer_is_gone(shop: Shop, variants: Variants) -> None:
    first = cli(shop, str(variants.path("retrained")))
    try:
        wait_until(lambda: phase(shop) == DeployPhase.DEPLOY_PHASE_SHADOWING, "the trial has begun")
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    aborting = cli(shop, "--abort")
    told = aborting.communicate(timeout=START_S)[0]
    assert aborting.returncode == 0, told
    assert "aborted by the operator" in told
    assert phase(shop) == DeployPhase.DEPLOY_PHASE_ROLLED_BACK
    assert shop.serving() == {variants.ids["plain"]}
    again = cli(shop, "--abort")
    told = again.communicate(timeout=START_S)[0]
    assert (again.returncode, "nothing to abort" in told) == (2, True), told


def test_a_replica_that_starts_later_serves_what_the_log_names_or_the_last_good_one(
    variants: Variants, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    new, old = variants.ids["retrained"], variants.ids["plain"]
    with open_shop(variants, data_dir) as shop:
        code, outcome = deploy(shop, variants.path("retrained"), options=Options(0.0, 0.0))
        assert code == 0, outcome
        settings = {**SETTINGS, "lease.eligible": "false"}
        with Replica(variants.path("plain"), data_dir, "c", settings) as late:
            late.wait_serving()
            assert late.status().bundle_id == new
        pinned = {**settings, "release.start_with": "settings"}
        with Replica(variants.path("plain"), data_dir, "d", pinned) as late:
            late.wait_serving()
            assert late.status().bundle_id == old
        (data_dir / "bundles" / new / "manifest.json").unlink()
        with Replica(variants.path("plain"), data_dir, "e", settings) as late:
            late.wait_serving()
            assert late.status().bundle_id == old
            assert f"the log says to serve bundle {new}, which is neither in" in late.log()


def test_a_standby_that_restarts_in_the_middle_is_brought_along(variants: Variants, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with open_shop(variants, data_dir) as shop:
        first = cli(shop, str(variants.path("retrained")), "--min-requests", "40", "--patience", "120s")
        try:
            wait_until(lambda: phase(shop) == DeployPhase.DEPLOY_PHASE_SHADOWING, "the trial has begun")
            shop.standby.kill()
            port = int(shop.standby.address.rpartition(":")[2])
            settings = {**SETTINGS, "lease.eligible": "false"}
            with Replica(variants.path("plain"), data_dir, "b", settings, port=port) as again:
                again.wait_serving()
                shop.standby = again
                with callers(shop) as seen:
                    told = first.communicate(timeout=2 * START_S)[0]
                assert first.returncode == 0, told
                assert shop.serving() == {variants.ids["retrained"]}
                assert seen.errors == []
        finally:
            if first.poll() is None:
                first.kill()
                first.communicate()


@pytest.mark.parametrize(
    ("call", "request_", "fields"),
    [
        ("LoadBundle", pb.LoadBundleRequest(folder="relative", bundle_id=""), ["bundle_id", "folder"]),
        ("ShadowBundle", pb.ShadowBundleRequest(bundle_id="x", share=1.5), ["share"]),
        ("CanaryBundle", pb.CanaryBundleRequest(bundle_id="x" * 129, share=-1), ["bundle_id", "share"]),
        ("PromoteBundle", pb.PromoteBundleRequest(), ["bundle_id"]),
        ("RollBackBundle", pb.RollBackBundleRequest(), ["bundle_id"]),
    ],
)
def test_requests_out_of_their_limits_are_refused_by_field(
    shop: Shop, call: str, request_: object, fields: list[str]
) -> None:
    from muster.client.errors import InvalidRequest, translate

    with pytest.raises(grpc.RpcError) as caught:
        getattr(shop.primary.admin, call)(request_, timeout=10)
    error = translate(caught.value)
    assert isinstance(error, InvalidRequest)
    assert [name for name, _ in error.violations] == fields


def test_what_is_not_held_cannot_be_tried_out_promoted_or_left(shop: Shop, variants: Variants) -> None:
    admin = shop.primary.admin
    for call, request in [
        ("ShadowBundle", pb.ShadowBundleRequest(bundle_id="x-1", share=0.5)),
        ("PromoteBundle", pb.PromoteBundleRequest(bundle_id="x-1")),
        ("RollBackBundle", pb.RollBackBundleRequest(bundle_id=variants.ids["plain"])),
    ]:
        with pytest.raises(grpc.RpcError) as caught:
            getattr(admin, call)(request, timeout=10)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    # What is so already may be asked for again.
    admin.PromoteBundle(pb.PromoteBundleRequest(bundle_id=variants.ids["plain"]), timeout=10)
    admin.RollBackBundle(pb.RollBackBundleRequest(bundle_id="x-1"), timeout=10)
    admin.UnloadBundle(pb.UnloadBundleRequest(), timeout=10)
    assert shop.serving() == {variants.ids["plain"]}
