"""The life of the process: check, bind, verify, load, follow, serve; and on a signal: tell, wait, finish,
leave.

Start: settings, folders and address are checked first, then the checksums and golden requests of the bundle
(the one that the log names, where a deploy has put one in service); only then are log and generation opened.
Whatever fails up to there ends the process with one line for each problem
and exit code 2, nothing changed. Health says NOT_SERVING until the log is replayed and every plan has run.

End (SIGTERM, SIGINT, ``AdminService.Drain``): health says NOT_SERVING while calls are still answered, so that
clients move on; then new calls are refused and running ones finish; the lease is given back; exit code 0. A
second signal ends the process at once.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import queue
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from muster.bundle import BundleError, read_manifest
from server import affinity, config
from server.app import Replica
from server.catalogue.errors import StoreError
from server.catalogue.location import may_exist
from server.catalogue.opening import open_store
from server.catalogue.store import Store
from server.logs import set_up_logging
from server.metrics import Endpoint
from server.privacy.secrets import SecretsRefused
from server.release.deploys import PREFIX, read_state
from server.release.held import BundleRefused, Models, open_models, verified_bundle
from server.release.shelf import Shelf
from server.tracing import Tracing, TracingUnavailable

logger = logging.getLogger(__name__)

EXIT_DRAINED = 0
EXIT_FAILED = 1
EXIT_REFUSED = 2

# A thread that comes back from the ranking core waits at most this long for the interpreter lock, not 5 ms.
# Shorter ones cost more in turns taken than they save: at 0.5 ms a call took a fifth more processor time.
_SWITCH_INTERVAL_S = 0.002
_LOOK_UP_S = 0.2


class Refused(Exception):
    """The replica cannot be started as configured. ``problems``: one sentence for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def serve(config_path: Path | str | None, overrides: Mapping[str, Any] | None = None) -> int:
    """Run one replica until it is drained; the body of ``muster serve``. Call it from the main thread.

    overrides: flags; keys dotted, as in ``config.load``. Returns the exit code: 0 drained, 1 failed, 2
    refused.
    """
    try:
        settings = config.load(config_path, overrides)
        set_up_logging(settings.log)
        config.prepare_data_dir(settings)
        return Life(settings).run()
    except (config.ConfigurationError, Refused) as error:
        for problem in error.problems:
            print(f"muster serve: {problem}", file=sys.stderr)
        return EXIT_REFUSED


class End:
    """The end of a run: asked for by a signal, an operator or a part that failed; awaited by the main thread.

    A signal's handler runs in the middle of whatever the main thread does. It must not take a lock that the
    main thread may just hold, as ``threading.Event`` does while it begins to wait: that end would never come.
    """

    def __init__(self) -> None:
        self._asked = False
        # Its put may interrupt its own get.
        self._wishes: queue.SimpleQueue[None] = queue.SimpleQueue()

    def ask(self) -> None:
        """Safe from any thread and from a signal's handler; idempotent."""
        self._asked = True
        self._wishes.put(None)

    def asked(self) -> bool:
        """Whether the end was asked for."""
        return self._asked

    def wait(self) -> None:
        """Return once the end was asked for."""
        while not self._asked:
            # A signal that comes right before the wait does not interrupt it, so it looks up now and then.
            with contextlib.suppress(queue.Empty):
                self._wishes.get(timeout=_LOOK_UP_S)


class Life:
    """One run of a replica."""

    def __init__(self, settings: config.Settings) -> None:
        self._settings = settings
        self._end = End()
        self._failure: BaseException | None = None

    def run(self) -> int:
        """Start, wait for the end, drain. Raises: Refused, ConfigurationError."""
        started = time.monotonic()
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        try:
            affinity.settle(self._settings.cores)
        except ValueError as error:
            raise config.ConfigurationError([str(error)]) from error
        if self._settings.rpc.home_core:
            affinity.stay(affinity.home_core(self._settings.replica or self._settings.listen))
        replica = Replica(self._settings, request_drain=self._end.ask, fail=self._fail)
        logger.info("settings: %s", self._settings.describe())
        before = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)
        }
        # What supervisors send to have files read again, which is done every second: no reason to end.
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        endpoint: Endpoint | None = None
        tracing: Tracing | None = None
        try:
            endpoint = self._metrics_endpoint(replica)
            tracing = self._tracing(replica)
            replica.rpc.start(replica.health)
            logger.info("replica %s listens on %s", replica.name, replica.rpc.address)
            self._write_port_file(replica.rpc.address)
            store = existing_store(self._settings, replica.name)
            try:
                with affinity.roaming():
                    models = first_models(self._settings, replica.name, store)
            except BaseException:
                if store is not None:
                    store.close()
                raise
            replica.load(models, store)
            replica.follow(self._end.asked)
            if not self._end.asked():
                replica.serve()
                # What was made so far stays; looking through it again and again would stop all threads.
                gc.collect()
                gc.freeze()
                logger.info("serving after %.0f ms", (time.monotonic() - started) * 1000)
            self._end.wait()
            self._leave(replica)
        except StoreError as error:
            raise Refused([f"{self._settings.store_location}: {error}"]) from error
        except SecretsRefused as error:
            raise Refused([str(error)]) from error
        finally:
            replica.leave()
            replica.close(self._settings.lifecycle.drain_grace_ms / 1000)
            if endpoint is not None:
                endpoint.close()
            if tracing is not None:
                tracing.stop()
            if self._settings.port_file is not None:
                self._settings.port_file.unlink(missing_ok=True)
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._failure is not None:
            logger.critical("ended: %s", self._failure)
            return EXIT_FAILED
        logger.info("drained")
        return EXIT_DRAINED

    def _leave(self, replica: Replica) -> None:
        logger.info("leaving")
        replica.leave()
        if self._failure is None:
            # A second signal ends the process in the middle of this.
            time.sleep(self._settings.lifecycle.drain_notice_ms / 1000)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._end.asked():
            os._exit(128 + number)
        self._end.ask()

    def _fail(self, error: BaseException) -> None:
        """Whatever a part cannot go on after: stop taking work and end, with an exit code that says so."""
        self._failure = error
        self._end.ask()

    def _metrics_endpoint(self, replica: Replica) -> Endpoint | None:
        listen = self._settings.metrics.listen
        if not listen:
            return None
        try:
            endpoint = Endpoint(replica.metrics, listen)
        except OSError as error:
            raise Refused(
                [f"metrics.listen = {listen!r}: the address cannot be taken: {error.strerror}"]
            ) from error
        logger.info("metrics on port %d", endpoint.port)
        return endpoint

    def _tracing(self, replica: Replica) -> Tracing | None:
        if not self._settings.tracing.endpoint:
            return None
        try:
            tracing = Tracing(self._settings.tracing, replica.name, replica.rpc.front)
        except TracingUnavailable as error:
            raise Refused([str(error)]) from error
        replica.metrics.on_end = tracing.ended
        tracing.start()
        return tracing

    def _write_port_file(self, address: str) -> None:
        path = self._settings.port_file
        if path is None:
            return
        draft = path.with_name(f".{path.name}-{os.getpid()}")
        try:
            draft.write_text(address + "\n", encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            raise Refused([f"port_file = {str(path)!r}: cannot be written: {error.strerror}"]) from error


def existing_store(settings: config.Settings, replica: str) -> Store | None:
    """The store, opened before the models are; None where it says nothing of them, or is not there yet: a
    replica that is refused its bundle leaves no file behind. Raises: StoreError.
    """
    if settings.release.start_with == "settings" or not may_exist(settings.store_location):
        return None
    return open_store(settings.store_location, settings.store_config(replica))


def first_models(settings: config.Settings, replica: str, store: Store | None) -> Models:
    """The models that a replica starts with: of the bundle that the log names, else of those that served
    before it, else of the one of the settings.

    store: from `existing_store`. Raises: Refused, where that one cannot be served either; StoreError.
    """
    promoted = read_state(store.read_named(PREFIX)).promoted if store is not None else ()
    for bundle_id in promoted:
        folder = Shelf(settings.bundles_dir).find(bundle_id)
        if folder is None and _named_in_settings(settings, bundle_id):
            folder = settings.bundle
        if folder is None:
            logger.error(
                "the log says to serve bundle %s, which is neither in %s nor the one of the settings;"
                " deploy it again, or copy its folder there",
                bundle_id,
                settings.bundles_dir,
            )
            continue
        try:
            return open_models(settings, verified_bundle(folder, settings), replica)
        except BundleRefused as refused:
            logger.error("%s; trying the one that served before", refused)
    try:
        return open_models(settings, verified_bundle(settings.bundle, settings), replica)
    except BundleRefused as refused:
        raise Refused(refused.problems) from refused


def _named_in_settings(settings: config.Settings, bundle_id: str) -> bool:
    try:
        return read_manifest(settings.bundle).bundle_id == bundle_id
    except BundleError:
        return False
