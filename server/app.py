"""Wiring: the parts of one replica, each given its own small configuration.

    bundle -> engine -> generation -> Held <- Bundles <- Tailer <- Store <- LogWriter <- Apply
                 ^                                          |        ^
                 |                                       Deploys  LeaseKeeper -> Health
               Front <- Search, Rerank        Recommend: Keeping.histories -> engine

``Replica`` answers status and health from its first moment; ``load`` makes the parts, in the order of the
drawing; ``lifecycle`` says when.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

from muster.v1 import admin_pb2
from server import health, observation
from server.admission import Budget
from server.audit import Audit, audited
from server.catalogue.errors import StoreError
from server.catalogue.log import LogWriter, LogWriterConfig
from server.catalogue.opening import open_store
from server.catalogue.retention import Retention, RetentionPolicy, RetentionStats
from server.catalogue.store import Store
from server.catalogue.tail import Tailer, TailerConfig
from server.config import Settings
from server.drift import Drift
from server.drills import Drills
from server.errors import NotThePrimary, ReplicaNotReady
from server.generation.belonging import keep_to_one_catalogue
from server.generation.catch_up import load_snapshot
from server.generation.open import open_newest
from server.generation.swap import LogReader
from server.health import Health
from server.metrics import Metrics
from server.privacy.keeping import Keeping
from server.protection import audit_folder
from server.release.bundles import Bundles
from server.release.deploys import PREFIX, Deploys, read_state
from server.release.held import Models, hold
from server.rpc import RpcServer
from server.scaling import WorkerScaling, scale_workers
from server.services.admin import AdminService
from server.services.bundles import BundleService
from server.services.catalogue import CatalogueLimits, CatalogueService
from server.services.drills import DrillService
from server.services.feedback import FeedbackService
from server.services.privacy import PrivacyService
from server.services.recommend import RecommendService
from server.standby.handover import Handover
from server.standby.lease import LeaseConfig, LeaseKeeper
from server.standby.role import keep_role

logger = logging.getLogger(__name__)

_HEALTH_CHECK_S = 0.05
_FOLLOWING_CHECK_S = 0.05
# A takeover of the store, or a long commit by somebody else, ends well before.
_REFUSED_MAX_S = 0.5
_PRIMARY_NAME_S = 0.1
_CATCH_UP_WAIT_S = 0.2
# Newest events of the log that are looked through for what shoppers did.
_RECALLED_EVENTS = 20_000


class Lag:
    """How long this replica has been known to be behind the log. One thread calls it.

    A head seen at some time must be applied within the bound after it; under a steady stream of events a
    replica is always a few behind, and that is no lag.
    """

    def __init__(self) -> None:
        self._heads: deque[tuple[float, int]] = deque()

    def behind_s(self, now_s: float, head_sequence: int, applied_sequence: int) -> float:
        """Note what is known now; seconds since the oldest head was seen that is still not applied."""
        if not self._heads or self._heads[-1][1] < head_sequence:
            self._heads.append((now_s, head_sequence))
        while self._heads and self._heads[0][1] <= applied_sequence:
            self._heads.popleft()
        return now_s - self._heads[0][0] if self._heads else 0.0


def fit_to_read(*, served: bool, behind_s: float, unseen_s: float, caught_up: bool, bound_s: float) -> bool:
    """Whether a replica serves reads from now on.

    served: it did until now. behind_s: it is known to be behind the log for so long, or does not follow it.
    unseen_s: since it last saw all of the log. One that has left comes back only once it has seen the end of
    the log again, and holds it.
    """
    if behind_s > bound_s:
        return False
    return served or (caught_up and unseen_s <= bound_s)


def wait_applied(tailer: Tailer, sequence: int, timeout_s: float, *, stalled_max_s: float) -> bool:
    """Wait until everything up to `sequence` is applied here; False if it was not in time, or cannot be soon
    (`out_of_sight`). Callers are better off elsewhere then."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        left_s = give_up_at - time.monotonic()
        if tailer.wait_applied(sequence, min(_FOLLOWING_CHECK_S, left_s)):
            return True
        if left_s <= 0 or out_of_sight(tailer, stalled_max_s=stalled_max_s):
            return False


def out_of_sight(tailer: Tailer, *, stalled_max_s: float) -> bool:
    """Whether nothing new of the log will be applied here soon: the store does not answer, or the tailer has
    not moved for longer than `stalled_max_s`."""
    return tailer.refused_s() > _REFUSED_MAX_S or tailer.stalled_s() > stalled_max_s


class TailerStalled(Exception):
    """The thread that follows the log has stopped moving."""


@dataclass(frozen=True)
class Parts:
    """What a replica consists of once it is loaded."""

    store: Store
    bundles: Bundles
    deploys: Deploys
    tailer: Tailer
    writer: LogWriter
    keeper: LeaseKeeper
    retention: Retention
    catalogue: CatalogueService
    feedback: FeedbackService
    keeping: Keeping
    recommend: RecommendService


class Replica:
    """One replica. Raises: ConfigurationError where the address cannot be taken.

    request_drain: asks the process to drain. fail: called, from any thread, with what it cannot go on after.
    """

    def __init__(
        self, settings: Settings, *, request_drain: Callable[[], None], fail: Callable[[BaseException], None]
    ) -> None:
        self.settings = settings
        self.health = Health()
        self.rpc = RpcServer(settings, denied=lambda *told: self.audit.refused(*told))
        self.metrics = Metrics(self._numbers, front=self.rpc.front.counted, guarded=self._guarded)
        self.name = settings.replica_name(self.rpc.port)
        self.audit = Audit(audit_folder(settings.data_dir, settings.audit, self.name), self.name)
        self.parts: Parts | None = None
        self._request_drain = request_drain
        self._fail = fail
        self._started_at = time.monotonic()
        self._stopping = threading.Event()
        self._warm = False
        self._writable = False
        self._lag = Lag()
        self._lag_s = 0.0
        self._lease_extended_s: float | None = None
        self._drift = Drift(settings.data_dir / "drift", settings.metrics.drift_policy)
        self._primary = ("", 0, 0.0)
        self._asking_for_primary = threading.Lock()
        self._scaling: WorkerScaling | None = None
        self._monitor = threading.Thread(target=self._watch_health, name="health", daemon=True)
        admin = AdminService(
            status=self.status, drain=self._drain, transfer=self._transfer, rebuild=self._rebuild
        )
        self.rpc.methods.add(audited(admin.methods(self.metrics), self.audit))
        drilled = Drills(
            settings.drills.allowed, settings.drills.blast_radius_replicas, settings.drills.rate_max_per_s
        )
        self.rpc.methods.add(audited(DrillService(drilled).methods(self.metrics), self.audit))

    # --- start -------------------------------------------------------------------------------------------

    def load(self, models: Models, opened: Store | None = None) -> Parts:
        """Open store and generation and make every part; nothing follows, writes or answers yet.

        models, opened: from here on the replica's to close. opened: the store; None: it was not opened
        before. Raises: StoreError.
        """
        settings = self.settings
        store = (
            opened
            if opened is not None
            else open_store(settings.store_location, settings.store_config(self.name))
        )
        keep_to_one_catalogue(settings.generations_dir, store.cluster_id)
        keeping = Keeping.open(settings, store)
        log = LogReader(
            lambda first_sequence, events_max: store.read_range(first_sequence, events_max=events_max),
            lambda generation: load_snapshot(store, generation),
        )
        first = hold(
            settings,
            models,
            lambda engine, open_dense: open_newest(engine, settings.generations_dir, open_dense),
            log,
            primary=lambda: self._reigns() and bundles.serving is first,
        )
        bundles = Bundles(
            settings,
            first,
            self.rpc.front,
            log,
            replica=self.name,
            primary=self._reigns,
            keep=lambda: deploys.state.named,
            gated=self.audit.gate,
        )

        def deliver(events: list[bytes]) -> int:
            sequence = bundles.apply(events)
            deploys.follow(events)
            keeping.histories.follow(events)
            return sequence

        def reload() -> int:
            sequence = bundles.reload()
            deploys.follow(store.read_named(PREFIX))
            return sequence

        tailer = Tailer(
            store,
            deliver,
            applied_sequence=first.served.generation.applied_sequence(),
            observe=bundles.observe,
            on_failed=self._fail,
            reload=reload,
            config=TailerConfig(poll_ms=settings.catalogue.poll_ms),
        )
        keeper = keep_role(
            store,
            replica=self.name,
            on_primary=self._became_primary,
            on_standby=self._became_standby,
            config=LeaseConfig(settings.lease.ttl_ms, settings.lease.check_every_ms),
            eligible=lambda: (
                self._warm
                and not self._stopping.is_set()
                and tailer.caught_up()
                # What was the end of the log when it last moved may not be by now.
                and tailer.stalled_s() * 1000 <= settings.lease.ttl_ms
            ),
        )
        writer = LogWriter(
            store,
            keeper,
            config=LogWriterConfig(
                group_events_max=settings.catalogue.group_events_max,
                queue_events_max=settings.catalogue.queue_events_max,
            ),
            on_commit=tailer.wake,
        )
        deploys = Deploys(
            # The generation is newer than the steps that the log began with.
            read_state(store.read_named(PREFIX)),
            writer=writer,
            writable=self._reigns,
            primary=self._primary_name,
            silent_s=settings.release.deployer_silent_ms / 1000,
        )
        retention = Retention(
            store,
            RetentionPolicy(
                events_max=settings.catalogue.retention_events_max,
                hours=settings.catalogue.retention_hours,
                ids_max=settings.catalogue.event_ids_max,
                id_hours=settings.catalogue.event_id_hours,
                feedback_events_max=settings.privacy.feedback_events_max,
                feedback_days=settings.privacy.retention_days,
            ),
            keeper.writing_epoch,
            may_fold=lambda row: deploys.may_fold(row.sequence),
        )
        budget = Budget(
            default_us=settings.ranking.default_deadline_ms * 1000,
            max_us=settings.ranking.deadline_max_ms * 1000,
        )

        def applied(sequence: int, timeout_s: float) -> bool:
            stalled_max_s = settings.catalogue.staleness_max_ms / 1000
            return wait_applied(tailer, sequence, timeout_s, stalled_max_s=stalled_max_s)

        catalogue = CatalogueService(
            writer=writer,
            products=lambda: bundles.serving.served.generation,
            applied_sequence=lambda: bundles.serving.served.generation.applied_sequence(),
            wait_applied=applied,
            read_events=log.read_events,
            in_log=store.sequences,
            writable=lambda: self._writable and keeper.is_primary(),
            primary=self._primary_name,
            wrote=self.audit.wrote,
            budget=budget,
            limits=CatalogueLimits(
                watch_streams_max=settings.rpc.watch_streams_max,
                apply_deadline_us=settings.catalogue.apply_deadline_ms * 1000,
            ),
        )
        feedback = FeedbackService(
            writer=writer,
            recorder=keeping.recorder,
            writable=lambda: self._writable and keeper.is_primary(),
            primary=self._primary_name,
            counted=keeping.count,
            wrote=self.audit.wrote,
            budget=budget,
            default_us=settings.catalogue.apply_deadline_ms * 1000,
        )
        recommend = RecommendService(
            engine=lambda: bundles.serving.engine,
            histories=keeping.histories,
            names=keeping.names,
            receipt_id=keeping.receipts.issued,
            at_once=settings.rpc.threads // 2,
            wait_applied=applied,
            applied_sequence=lambda: bundles.serving.served.generation.applied_sequence(),
            budget=budget,
        )
        privacy = PrivacyService(lambda shopper_id: keeping.erase(shopper_id, keeper.writing_epoch))
        self.rpc.front.sign_receipts(keeping.receipt_key)
        self.parts = Parts(
            store,
            bundles,
            deploys,
            tailer,
            writer,
            keeper,
            retention,
            catalogue,
            feedback,
            keeping,
            recommend,
        )
        self.rpc.methods.add(recommend.methods(self.metrics))
        self.rpc.methods.add(feedback.methods(self.metrics))
        # Its requests are bytes here, so the audit tells that somebody was erased, not who.
        self.rpc.methods.add(audited(privacy.methods(self.metrics), self.audit))
        release = BundleService(
            bundles=bundles, deploys=deploys, describe=self.describe_bundles, budget=budget
        )
        self.rpc.methods.add(catalogue.methods(self.metrics))
        self.rpc.methods.add(audited(release.methods(self.metrics), self.audit))
        return self.parts

    def follow(self, give_up: Callable[[], bool]) -> None:
        """Serve the generation inside, replay the log to its end, and warm up. ``give_up`` ends the wait."""
        parts = self._loaded()
        parts.bundles.start()
        self._recall(parts)
        parts.tailer.start()
        while not give_up():
            try:
                if parts.tailer.wait_caught_up(_CATCH_UP_WAIT_S):
                    break
            except StoreError as error:
                logger.warning("the end of the log cannot be read, trying again: %s", error)
                time.sleep(_CATCH_UP_WAIT_S)
        parts.bundles.serving.warm_up()

    def _recall(self, parts: Parts) -> None:
        """Remember what shoppers did before this replica began to follow, as far as the log holds it."""
        applied = parts.bundles.serving.served.generation.applied_sequence()
        try:
            parts.keeping.histories.recall(
                parts.store.read_range, max(1, applied + 1 - _RECALLED_EVENTS), applied
            )
        except StoreError as error:
            # What is not remembered is only known less; the tailer waits for the store by itself.
            logger.warning("what shoppers did before cannot be read: %s", error)

    def serve(self) -> None:
        """Tell clients, compete for the lease where eligible, and keep the generation fresh."""
        parts = self._loaded()
        self._warm = True
        self.health.readable(True)
        self._monitor.start()
        parts.writer.start()
        if self.settings.lease.eligible:
            parts.keeper.start()
            parts.retention.start()
        parts.bundles.serving.renewal.start()
        self._scaling = scale_workers(
            self.settings.ranking.workers_min, lambda: parts.bundles.serving.engine, self.status
        )

    # --- end ---------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Tell clients that this replica goes, and give the lease away; reads are still answered."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self.health.leave()
        # Not at the end: for as long as this replica takes to leave, nobody could write.
        if self.parts is not None and self.parts.keeper.is_primary():
            self._handover().give_away()

    def close(self, grace_s: float) -> None:
        """Finish what runs, write what waits, give the lease back, let go of everything."""
        if self.parts is not None:
            self.parts.catalogue.close()
        self.rpc.stop(grace_s)
        self.audit.close()
        if self.parts is None:
            return
        if self._scaling is not None:
            self._scaling.stop()
        self.parts.retention.stop()
        self.parts.writer.close()
        self.parts.keeper.stop()
        self.parts.tailer.stop()
        self.parts.bundles.close()
        self.parts.store.close()

    # --- what the replica says of itself -----------------------------------------------------------------

    def status(self) -> admin_pb2.StatusResponse:
        """The state now; while the replica loads, only what is known then."""
        uptime_ms = int((time.monotonic() - self._started_at) * 1000)
        response = admin_pb2.StatusResponse(
            replica=self.name,
            role=admin_pb2.ROLE_STANDBY,
            serving=self.health.serving(health.RANKING),
            uptime_ms=uptime_ms,
            version=_version(),
            pid=os.getpid(),
        )
        parts = self.parts
        if parts is None:
            return response
        serving = parts.bundles.serving
        engine = serving.engine.status()
        generation = serving.served.generation
        applied_sequence = generation.applied_sequence()
        response.role = admin_pb2.ROLE_PRIMARY if self._reigns() else admin_pb2.ROLE_STANDBY
        response.primary = self._primary_name()
        response.epoch = max(parts.tailer.epoch, self._primary[1])
        response.applied_sequence = applied_sequence
        response.head_sequence = max(parts.tailer.head_sequence, applied_sequence)
        response.staleness_ms = self._staleness_ms(parts)
        response.products = generation.products()
        response.delta_products = generation.delta_products()
        response.bundle_id = serving.bundle_id
        response.generation_id = generation.generation_id
        if (dense_index := generation.dense_index) is not None:
            response.dense_index.kind = dense_index["kind"]
            response.dense_index.probes = dense_index["probes"]
            response.dense_index.recall_at_100 = dense_index["recall_at_100"]
            if dense_index["median_ms"] is not None:
                response.dense_index.median_ms = dense_index["median_ms"]
        response.in_flight = int(engine["in_flight"])
        response.price = float(engine["price"])
        response.building = serving.renewal.building()
        held = admin_pb2.ReplicaBundles()
        parts.bundles.describe(held)
        response.candidate_bundle_id = held.candidate.bundle_id
        response.previous_bundle_id = held.previous.bundle_id
        if parts.deploys.state.last is not None:
            response.deploy.CopyFrom(parts.deploys.state.last)
        _describe_folding(response, parts.retention.stats())
        for plan in engine["plans"]:
            response.plans.add(
                tier=str(plan["tier"]),
                depth=int(plan["depth"]),
                expected_ndcg=float(plan["expected_ndcg"]),
                cost_ms=float(plan["cost_ms"]),
            )
        return response

    def describe_bundles(self) -> admin_pb2.ReplicaBundles:
        """The bundles held here, and what the log says of deploys. Raises: ReplicaNotReady."""
        parts = self._loaded()
        described = admin_pb2.ReplicaBundles(
            replica=self.name,
            role=admin_pb2.ROLE_PRIMARY if self._reigns() else admin_pb2.ROLE_STANDBY,
            memory_bytes=psutil.Process().memory_info().rss,
        )
        parts.bundles.describe(described)
        state = parts.deploys.state
        if state.last is not None:
            described.deploy.CopyFrom(state.last)
        heard_ms_ago = parts.deploys.heard_ms_ago()
        if heard_ms_ago is not None:
            described.heard_ms_ago = heard_ms_ago
        described.promoted_bundle_id = state.promoted[0] if state.promoted else ""
        return described

    def _guarded(self) -> Mapping[str, Any]:
        return {**self.rpc.front.guarded(), "audit_damaged": self.audit.damaged}

    def _numbers(self) -> Mapping[str, Any]:
        status = self.status()
        numbers = {**observation.of_status(status), **observation.of_disk(self.settings.data_dir)}
        if self.parts is not None:
            numbers.update(self.parts.keeping.counters())
            numbers.update(self.parts.recommend.counters())
            serving = self.parts.bundles.serving
            engine = serving.engine.status()
            numbers |= observation.of_engine(engine)
            numbers |= observation.of_drift(self._drift, serving.bundle_id, engine)
            numbers |= observation.of_writer(self.parts.writer.stats())
            numbers |= observation.of_generation(self.settings.generations_dir, status.generation_id)
            numbers["generation_failures"] = serving.renewal.failures
            numbers["lag_s"] = self._lag_s
            if self._lease_extended_s is not None:
                numbers["lease_age_s"] = time.monotonic() - self._lease_extended_s
        return numbers

    def _staleness_ms(self, parts: Parts) -> int:
        staleness_s = parts.tailer.staleness_s()
        if staleness_s is None:
            return int((time.monotonic() - self._started_at) * 1000)
        return int(1000 * max(staleness_s, self._lag_s))

    # --- role --------------------------------------------------------------------------------------------

    def _reigns(self) -> bool:
        return self.parts is not None and self._writable and self.parts.keeper.is_primary()

    def _became_primary(self, epoch: int) -> None:
        parts = self._loaded()
        # Patches are checked against the products here, so the whole log must be in before the first write.
        # Whether it may write at this moment is not asked: a renewal that is just late ends no reign.
        while parts.keeper.reigns(epoch) and not self._stopping.is_set():
            if parts.tailer.stalled_s() * 1000 > self.settings.catalogue.staleness_max_ms:
                raise TailerStalled("the log is no longer followed here")
            if parts.tailer.wait_caught_up(_CATCH_UP_WAIT_S):
                parts.deploys.reign()
                self._writable = True
                self.health.writable(True)
                logger.info("primary of epoch %d", epoch)
                return

    def _became_standby(self) -> None:
        self._writable = False
        self.health.writable(False)
        logger.info("standby")

    def _primary_name(self) -> str:
        """Name of the primary by the lease, read from the store at most ten times a second."""
        name, epoch, read_at = self._primary
        if self.parts is None or time.monotonic() - read_at <= _PRIMARY_NAME_S:
            return name
        # A store that does not answer holds up one caller, not all.
        if not self._asking_for_primary.acquire(blocking=False):
            return name
        try:
            lease = self.parts.keeper.lease()
            name = lease.holder.replica if lease and lease.expires_monotonic_ns > time.monotonic_ns() else ""
            epoch = max(epoch, lease.epoch if lease else 0)
            if lease and lease.expires_monotonic_ns:
                self._lease_extended_s = lease.expires_monotonic_ns / 1e9 - self.settings.lease.ttl_ms / 1000
        except StoreError:
            name = ""
        finally:
            self._primary = (name, epoch, time.monotonic())
            self._asking_for_primary.release()
        return name

    def _drain(self) -> int:
        self._request_drain()
        return int(self.parts.bundles.serving.engine.status()["in_flight"]) if self.parts is not None else 0

    def _transfer(self, wait_s: float) -> tuple[str, int]:
        parts = self._loaded()
        epoch = parts.keeper.writing_epoch()
        if epoch is None or not self._writable:
            raise NotThePrimary(self._primary_name())
        handover = self._handover()
        began = time.monotonic()
        handover.give_away()
        return handover.successor(epoch, wait_s - (time.monotonic() - began))

    def _handover(self) -> Handover:
        parts = self._loaded()
        return Handover(
            tell=lambda: self.health.writable(False),
            refuse=self._refuse_writes,
            under_way=lambda: parts.catalogue.applying() + parts.feedback.recording(),
            step_down=parts.keeper.step_down,
            lease=parts.keeper.lease,
        )

    def _refuse_writes(self) -> None:
        self._writable = False

    def _rebuild(self) -> bool:
        return self._loaded().bundles.serving.renewal.start_build()

    def _watch_health(self) -> None:
        parts = self._loaded()
        bound_s = self.settings.catalogue.staleness_max_ms / 1000
        while not self._stopping.wait(_HEALTH_CHECK_S):
            tailer = parts.tailer
            self._lag_s = self._lag.behind_s(
                time.monotonic(),
                tailer.head_sequence,
                parts.bundles.serving.served.generation.applied_sequence(),
            )
            if out_of_sight(tailer, stalled_max_s=bound_s):
                parts.bundles.lose_log()
            stalled_s = tailer.stalled_s()
            served = self.health.serving(health.RANKING)
            serving = tailer.failure is None and fit_to_read(
                served=served,
                behind_s=max(self._lag_s, stalled_s),
                unseen_s=tailer.staleness_s() or 0.0,
                caught_up=tailer.caught_up(),
                bound_s=bound_s,
            )
            if serving != served:
                logger.warning(
                    "behind the log for %.1f s, its tailer not moving for %.1f s, serving reads: %s",
                    self._lag_s,
                    stalled_s,
                    serving,
                )
            self.health.readable(serving)
            if stalled_s > bound_s and self._reigns():
                # What it writes is durable, and never seen here: whoever still follows the log does better.
                logger.error("this primary no longer follows the log, and gives the lease away")
                self._handover().give_away()

    def _loaded(self) -> Parts:
        if self.parts is None:
            raise ReplicaNotReady("this replica is still starting")
        return self.parts


def _describe_folding(response: admin_pb2.StatusResponse, stats: RetentionStats) -> None:
    """How the log is kept within its bounds; nothing where nobody has looked yet."""
    if stats.extent is None and not stats.failures:
        return
    folding = response.folding
    folding.folded_events = stats.folded_events
    folding.held_ms_max = stats.held_ms_max
    folding.failures = stats.failures
    folding.problem = stats.problem
    if stats.last_fold_unix_us is not None:
        folding.last_fold_unix_us = stats.last_fold_unix_us
        folding.last_fold_events = stats.last_fold_events
        folding.last_fold_ms = stats.last_fold_ms
    if stats.extent is not None:
        folding.store_bytes = stats.extent.size_bytes
        folding.first_sequence = stats.extent.first_sequence
        if stats.extent.first_sequence:
            folding.first_committed_unix_us = stats.extent.first_committed_unix_us


def _version() -> str:
    try:
        return version("muster")
    except PackageNotFoundError:
        return "0.1.0"
