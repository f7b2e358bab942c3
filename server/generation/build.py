"""Build a generation from the log: ``python -m server.generation.build --config FILE``.

Runs as a process of its own, at low priority, so that a build never competes with requests for the
interpreter lock and a failure of it cannot touch the service. One build at a time on a machine: a kernel lock
on ``.building`` decides, and the kernel frees it however the process ends. Products whose text an earlier
generation of the same bundle holds keep their vectors. The folder is complete, checksummed and on disk before
it gets its name; ``CURRENT`` is moved last.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import rankcore
from muster.bundle import read_bundle
from muster.v1.catalogue_pb2 import Event, Patch
from server import config
from server.catalogue.opening import open_store
from server.catalogue.rows import changed_product, patch_product
from server.catalogue.store import Store, StoreConfig, View
from server.generation.open import (
    CURRENT,
    MANIFEST,
    DenseIndexReport,
    FileDigest,
    GenerationRefused,
    Manifest,
    candidates,
    check_sizes,
    current_names,
    name_prefix,
    newest_valid,
    read_manifest,
    sha256,
)

if TYPE_CHECKING:
    from server.generation.index import Choice

logger = logging.getLogger(__name__)

LOCK = ".building"
DENSE_VECTORS = "dense.f32"

EXIT_BUILT = 0
EXIT_FAILED = 1
EXIT_BUSY = 75

_ADD_PRODUCTS = 1_000

Progress = Callable[[str, int, int], None]
"""Stage, done, total."""


class BuildRunning(Exception):
    """Another process of this machine is building a generation."""


@dataclass(frozen=True)
class BuildJob:
    """What to build, from what, into where.

    store, store_password_file, store_encryption_keys: as the settings of the catalogue say. threads 0: one
    for each core.
    """

    bundle: str
    store: str
    generations: str
    threads: int
    recall_min: float
    keep: int
    niceness: int
    kernels: str = "auto"
    dense_index: Choice = "auto"
    store_password_file: str = ""
    store_encryption_keys: str = ""

    @classmethod
    def of(cls, settings: config.Settings) -> BuildJob:
        """The job that a replica with these settings starts."""
        return cls(
            bundle=str(settings.bundle),
            store=settings.store_location,
            generations=str(settings.generations_dir),
            threads=settings.generation.threads,
            recall_min=settings.generation.recall_min,
            keep=settings.generation.keep,
            niceness=settings.generation.niceness,
            kernels=settings.ranking.kernels,
            dense_index=settings.generation.dense_index,
            store_password_file=str(settings.catalogue.store_password_file or ""),
            store_encryption_keys=settings.catalogue.encryption_keys,
        )


def build(
    job: BuildJob, progress: Progress = lambda stage, done, total: None, *, draw: int = 0
) -> Path | None:
    """Build a generation up to the log's present end and make it current.

    progress: told of the stages ``read``, ``encode``, ``index``, ``sums`` and ``done`` as they go. draw:
    encode so many products alone and draw the vectors of all around theirs, to measure how searches grow
    with the catalogue; the generation says so, and no replica serves it. Returns: its folder; None where
    the catalogue is empty, or nothing has changed since the newest one. Raises: BuildRunning;
    BundleError; StoreError; rankcore.RankError; OSError (a full disk, for one). Nothing is left behind.
    """
    generations = Path(job.generations)
    generations.mkdir(parents=True, exist_ok=True)
    config = StoreConfig(
        client="build",
        password_file=Path(job.store_password_file) if job.store_password_file else None,
        encryption_keys=job.store_encryption_keys,
    )
    with building_lock(generations), closing(open_store(job.store, config)) as store:
        for leftover in generations.glob(f"{LOCK}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        bundle_id = read_bundle(job.bundle).bundle_id
        head = store.head()
        previous = newest_valid(generations, bundle_id)
        if previous and previous[1].drawn:
            previous = None
        if head.sequence == 0 or (
            previous
            and previous[1].sequence == head.sequence
            # The core refuses words that were made by other rules, but their vectors are good.
            and previous[1].analyser == rankcore.ANALYSER
        ):
            return None
        folder = generations / f"{LOCK}-{os.getpid()}"
        try:
            return _build_in(folder, job, store, bundle_id, previous[0] if previous else None, progress, draw)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _build_in(
    folder: Path,
    job: BuildJob,
    store: Store,
    bundle_id: str,
    previous: Path | None,
    progress: Progress,
    draw: int,
) -> Path | None:
    builder = rankcore.GenerationBuilder(
        job.bundle,
        str(folder),
        runtime_library=rankcore.runtime_library(),
        threads=job.threads,
        reuse=str(previous) if previous else None,
        kernels=job.kernels,
        draw=draw,
    )
    batch: list[bytes] = []
    with store.view() as view:
        head = view.head
        for done, product in enumerate(live_products(view)):
            batch.append(product)
            if len(batch) == _ADD_PRODUCTS:
                builder.add(batch)
                batch = []
                progress("read", done, head.sequence)
        builder.add(batch)
    built = builder.finish(lambda done, total: progress("encode", done, total))
    products, dimension = int(built["products"]), int(built["dimension"])
    if products == 0:
        return None

    # Replicas import this module to start builds; FAISS is for the process that builds alone.
    import faiss

    from server.generation.index import VectorFile, build_dense_index

    progress("index", 0, products)
    dense = folder / DENSE_VECTORS
    faiss.omp_set_num_threads(job.threads or os.cpu_count() or 1)
    report = build_dense_index(
        VectorFile(dense, products, dimension), folder, recall_min=job.recall_min, choice=job.dense_index
    )
    dense.unlink()
    progress("sums", 0, products)
    if report.recall_at_100 < job.recall_min:
        logger.warning(
            "the dense index finds %.3f of the exact 100, wanted %.3f", report.recall_at_100, job.recall_min
        )

    name = f"{name_prefix(bundle_id)}{head.sequence}-{secrets.token_hex(4)}"
    manifest = _manifest(folder, name, bundle_id, head.sequence, head.epoch, built, report)
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    _sync_tree(folder)
    target = Path(job.generations) / name
    folder.rename(target)
    make_current(Path(job.generations), name)
    remove_old(Path(job.generations), bundle_id, keep=job.keep)
    progress("done", products, products)
    logger.info(
        "generation %s: %d products, %s encoded, %s reused, dense %s, recall %.3f",
        name,
        products,
        built.get("encoded"),
        built.get("reused"),
        report.kind,
        report.recall_at_100,
    )
    return target


def live_products(view: View, last_sequence: int | None = None) -> Iterator[bytes]:
    """Every product that is live after ``last_sequence``, serialised, in the order of its last upsert.

    last_sequence: None: the last of the view; not before its snapshot. Reads snapshot and log twice. Of each
    event that writes or deletes a product it keeps 24 bytes, and of each product that was patched since the
    patch.
    """
    # 128 bits stand for a product's name, so that two of a million coincide in one of 10^26 catalogues.
    digests, sequences, written = bytearray(), array("Q"), bytearray()
    patches: dict[str, Patch] = {}
    for sequence, event in _events(view, last_sequence):
        product_id = changed_product(event)
        if event.HasField("patch"):
            patches.setdefault(product_id, Patch()).MergeFrom(event.patch)
        elif product_id:
            digests += hashlib.blake2b(product_id.encode(), digest_size=16).digest()
            sequences.append(sequence)
            written.append(event.HasField("upsert"))
            patches.pop(product_id, None)
    live = _last_written(digests, sequences, written)
    del digests, sequences, written
    at = 0
    for sequence, event in _events(view, last_sequence):
        if at == live.size:
            return
        if sequence != live[at]:
            continue
        at += 1
        product = event.upsert
        patch = patches.get(product.product_id)
        if patch is not None:
            patch_product(product, patch)
        yield product.SerializeToString()


def _last_written(digests: bytearray, sequences: array[int], written: bytearray) -> npt.NDArray[np.uint64]:
    """Sequences of the last event of each product, where that one wrote it; rising."""
    halves = np.frombuffer(digests, np.uint64).reshape(-1, 2)
    if not halves.size:
        return np.empty(0, np.uint64)
    # Stable, so that events of one product stay in the order of the log.
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    ordered = halves[order]
    last = np.append((ordered[1:] != ordered[:-1]).any(axis=1), True)
    events = order[last]
    events = events[np.frombuffer(written, np.bool_)[events]]
    return np.sort(np.frombuffer(sequences, np.uint64)[events])


def _events(view: View, last_sequence: int | None) -> Iterator[tuple[int, Event]]:
    """Sequence and event: the snapshot's upserts, then the log."""
    for product in view.snapshot_rows():
        yield product.sequence, Event.FromString(product.payload)
    for row in view.log_rows(last_sequence):
        yield row.sequence, Event.FromString(row.payload)


def _manifest(
    folder: Path,
    name: str,
    bundle_id: str,
    sequence: int,
    epoch: int,
    built: dict[str, Any],
    report: DenseIndexReport,
) -> Manifest:
    files = {
        path.relative_to(folder).as_posix(): FileDigest(sha256(path), path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return Manifest(
        generation_id=name,
        bundle_id=bundle_id,
        sequence=sequence,
        epoch=epoch,
        products=int(built["products"]),
        dimension=int(built["dimension"]),
        token_dimension=int(built.get("token_dimension", 0)),
        dense_index=report,
        files=files,
        analyser=rankcore.ANALYSER,
        drawn=int(built["encoded"]) if built["drawn"] else 0,
    )


def make_current(generations: Path, name: str) -> None:
    """Let CURRENT name this generation for its bundle, others as before, all or nothing."""
    bundle = name[: name.rindex("-", 0, name.rindex("-")) + 1]
    others = (
        other
        for other in current_names(generations)
        if not other.startswith(bundle) and (generations / other).is_dir()
    )
    draft = generations / f".{CURRENT}-{os.getpid()}"
    with draft.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in (name, *others))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(generations / CURRENT)
    _sync(generations)


def remove_old(generations: Path, bundle_id: str, *, keep: int) -> None:
    """Keep the newest ``keep`` whole generations of the bundle, and the newest of any other; remove the rest.

    A replica that still serves a removed one keeps its memory maps; the disk is freed when it lets go.
    """
    kept: dict[str, int] = {}
    for folder in candidates(generations):
        try:
            manifest = read_manifest(folder)
            check_sizes(folder, manifest)
        except GenerationRefused as refused:
            logger.warning("%s; left for an operator to look at", refused)
            continue
        kept[manifest.bundle_id] = kept.get(manifest.bundle_id, 0) + 1
        if kept[manifest.bundle_id] > (keep if manifest.bundle_id == bundle_id else 1):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def building_lock(generations: Path) -> Iterator[None]:
    """Hold the machine's build lock. Raises: BuildRunning."""
    with (generations / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BuildRunning(f"a generation is being built in {generations} already") from error
        yield


def building(generations: Path) -> bool:
    """Whether a generation is being built on this machine now."""
    try:
        with (generations / LOCK).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def step_back(niceness: int) -> None:
    """Lowers the scheduling priority of the calling thread, and of what it starts, to `niceness`; never
    raises it.
    """
    os.setpriority(os.PRIO_PROCESS, 0, max(niceness, os.getpriority(os.PRIO_PROCESS, 0)))


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main(arguments: list[str] | None = None) -> int:
    """Exit 0: built, or nothing to build; 75: another build is running; 1: failed; 2: bad settings."""
    parser = argparse.ArgumentParser(prog="python -m server.generation.build", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", help="settings file of the replica")
    source.add_argument("--job", help="the job as JSON, as a replica passes it")
    parsed = parser.parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s build: %(message)s"
    )
    try:
        job = BuildJob(**json.loads(parsed.job)) if parsed.job else BuildJob.of(config.load(parsed.config))
    except config.ConfigurationError as error:
        for problem in error.problems:
            print(f"build: {problem}", file=sys.stderr)
        return 2
    step_back(job.niceness)
    try:
        build(job)
    except BuildRunning as error:
        logger.info("%s", error)
        return EXIT_BUSY
    except Exception:
        logger.exception("the build failed; nothing was changed")
        return EXIT_FAILED
    return EXIT_BUILT


def job_arguments(job: BuildJob) -> list[str]:
    """Command line that runs the job in a process of its own."""
    return [sys.executable, "-m", "server.generation.build", "--job", json.dumps(asdict(job))]


if __name__ == "__main__":
    sys.exit(main())
