"""Find, verify and open the newest valid generation.

A generation whose files are not exactly what its manifest declares is refused by name, and the next older one
is tried: a damaged newest generation costs freshness (the log is replayed from further back), never an
answer.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

import rankcore

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
INDEX = "faiss.index"
CURRENT = "CURRENT"
PREFIX = "gen-"

_BLOCK_BYTES = 4 * 2**20
_MANIFEST_BYTES_MAX = 4 * 2**20
# A search under a filter probes more lists, for the products that pass are spread thinner.
_FILTERED_PROBES = 4


class GenerationRefused(Exception):
    """A generation cannot be served. ``generation``: the folder's name; ``reason``: which file, and why."""

    def __init__(self, generation: str, reason: str) -> None:
        super().__init__(f"generation {generation} refused: {reason}")
        self.generation = generation
        self.reason = reason


@dataclass(frozen=True)
class FileDigest:
    """One file as declared. sha256: lower-case hex."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class DenseIndexReport:
    """How the nearest rows are found, and what was measured of it; part of a generation's manifest.

    kind: ``scan``, ``lists`` or ``faiss:`` and the factory string. probes: lists looked at in a search; 0:
    there are none. recall_at_100: share of the exact 100 that was found. median_ms: processor time of a
    search for 200 rows on the machine that built. others: what was measured too, and not taken.
    """

    kind: str
    probes: int
    recall_at_100: float
    median_ms: float | None = None
    others: tuple[DenseIndexReport, ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> DenseIndexReport:
        """The report as a manifest holds it. Raises: TypeError for other fields."""
        others = tuple(cls.of(other) for other in values.get("others", ()))
        return cls(**{**values, "others": others})


@dataclass(frozen=True)
class Manifest:
    """What a generation declares of itself.

    sequence: every event up to it is in the files; the log is replayed from the next one. epoch: of the event
    at ``sequence``. dense_index: how the nearest rows are found. analyser: rules by which text became words;
    empty: those of a core that did not name them. drawn: vectors were drawn around those of so many encoded
    products, to measure size; such a generation is never served. 0: all are the models' own.
    """

    generation_id: str
    bundle_id: str
    sequence: int
    epoch: int
    products: int
    dimension: int
    token_dimension: int
    dense_index: DenseIndexReport
    files: Mapping[str, FileDigest] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    analyser: str = ""
    drawn: int = 0

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a generation. Raises: GenerationRefused where it is missing, damaged or newer."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            text = file.read(_MANIFEST_BYTES_MAX + 1)
        values: dict[str, Any] = json.loads(text)
        if values["schema_version"] != SCHEMA_VERSION:
            raise GenerationRefused(
                folder.name,
                f"{MANIFEST} has schema version {values['schema_version']}, {SCHEMA_VERSION} is readable",
            )
        files = {
            str(name): FileDigest(str(d["sha256"]), int(d["bytes"]))
            for name, d in values.pop("files").items()
        }
        dense_index = DenseIndexReport.of(values.pop("dense_index"))
        manifest = Manifest(files=files, dense_index=dense_index, **values)
        _check_kinds(manifest)
    except OSError as error:
        raise GenerationRefused(folder.name, f"{MANIFEST} cannot be read: {error.strerror}") from error
    # A file nested beyond measure ends in RecursionError, an infinite size in OverflowError.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise GenerationRefused(folder.name, f"{MANIFEST} is damaged: {error}") from error
    if manifest.generation_id != folder.name:
        raise GenerationRefused(folder.name, f"{MANIFEST} belongs to {manifest.generation_id}")
    return manifest


def _check_kinds(manifest: Manifest) -> None:
    """Raises: TypeError, ValueError where a value is not of the declared kind, or a count is below 0."""
    for name in ("generation_id", "bundle_id", "analyser"):
        if not isinstance(getattr(manifest, name), str):
            raise TypeError(f"{name} is not a text")
    counts = {name: getattr(manifest, name) for name in ("sequence", "epoch", "products", "drawn")}
    counts |= {name: getattr(manifest, name) for name in ("dimension", "token_dimension")}
    counts["dense_index.probes"] = manifest.dense_index.probes
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} is not a whole number")
        if value < 0:
            raise ValueError(f"{name} is {value}, below 0")
    if not isinstance(manifest.dense_index.kind, str):
        raise TypeError("dense_index.kind is not a text")
    if not isinstance(manifest.dense_index.recall_at_100, int | float):
        raise TypeError("dense_index.recall_at_100 is not a number")


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Every declared file is there with its size and nothing else is. Raises: GenerationRefused."""
    present = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() or path.is_symlink()
    }
    for name in sorted(present - set(manifest.files) - {MANIFEST}):
        raise GenerationRefused(folder.name, f"{name} is not declared in {MANIFEST}")
    for name, digest in manifest.files.items():
        if name not in present or (folder / name).is_symlink():
            raise GenerationRefused(folder.name, f"{name} is missing")
        size = (folder / name).stat().st_size
        if size != digest.bytes:
            raise GenerationRefused(folder.name, f"{name} has {size} bytes, {digest.bytes} are declared")


def verify(folder: Path) -> Manifest:
    """Read the manifest and check every file against it. Raises: GenerationRefused, naming the file."""
    manifest = read_manifest(folder)
    check_sizes(folder, manifest)
    # Hashing leaves the interpreter lock, so two threads use two cores.
    with ThreadPoolExecutor(2, thread_name_prefix="verify") as pool:
        names = sorted(manifest.files, key=lambda name: -manifest.files[name].bytes)
        for name, actual in zip(names, pool.map(lambda name: sha256(folder / name), names), strict=True):
            if actual != manifest.files[name].sha256:
                raise GenerationRefused(folder.name, f"{name} does not match its checksum")
    return manifest


def sha256(path: Path) -> str:
    """Digest of a file, lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def candidates(generations: Path) -> list[Path]:
    """Generation folders, those to try first in front: CURRENT's, then by falling sequence.

    Folders whose manifest cannot be read come last, so that opening can refuse them by name.
    """
    current = current_names(generations)

    def order(folder: Path) -> tuple[bool, int, str]:
        try:
            sequence = read_manifest(folder).sequence
        except GenerationRefused:
            sequence = -1
        return (folder.name not in current, -sequence, folder.name)

    return sorted((path for path in generations.glob(f"{PREFIX}*") if path.is_dir()), key=order)


def current_names(generations: Path) -> list[str]:
    """The generations that CURRENT names, one of each bundle, the one built last in front."""
    try:
        return (generations / CURRENT).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return []


def current_name(generations: Path, bundle_id: str) -> str:
    """The generation of a bundle that CURRENT names; empty: none."""
    prefix = name_prefix(bundle_id)
    return next((name for name in current_names(generations) if name.startswith(prefix)), "")


def name_prefix(bundle_id: str) -> str:
    """What the names of all generations of a bundle begin with."""
    return f"{PREFIX}{bundle_id.rpartition('-')[2][:8]}-"


def newest_valid(generations: Path, bundle_id: str) -> tuple[Path, Manifest] | None:
    """The first candidate of this bundle whose files are as declared; None: there is none.

    Those of another bundle are passed over, damaged ones are refused by name in the log.
    """
    for folder in candidates(generations):
        try:
            if read_manifest(folder).bundle_id != bundle_id:
                continue
            return folder, verify(folder)
        except GenerationRefused as refused:
            logger.error("%s; trying an older one", refused)
    return None


OpenDense: TypeAlias = Callable[[Path, Manifest], rankcore.DenseSearch]
"""Opens the dense index of a generation: its file, and what the manifest says of it."""


class Opener(Protocol):
    """The part of ``rankcore.Engine`` that opens generations."""

    @property
    def bundle_id(self) -> str:
        """The bundle that generations must belong to."""

    def open(self, path: str, dense: rankcore.DenseSearch | None) -> rankcore.Generation:
        """Memory-map the files at ``path``."""

    def empty(self) -> rankcore.Generation:
        """A generation without products at sequence 0."""


def open_newest(
    engine: Opener, generations: Path, open_dense: OpenDense | None = None
) -> rankcore.Generation:
    """Open the newest generation that is valid for the engine's bundle; an empty one where there is none.

    open_dense: opens its dense index; None: on the processor, by ``DenseIndex``.
    """
    for folder in candidates(generations):
        try:
            if read_manifest(folder).bundle_id == engine.bundle_id:
                return open_one(engine, folder, open_dense)
        except GenerationRefused as refused:
            logger.error("%s; trying an older one", refused)
    return engine.empty()


def open_one(engine: Opener, folder: Path, open_dense: OpenDense | None = None) -> rankcore.Generation:
    """Verify and open one generation, its dense index as for ``open_newest``. Raises: GenerationRefused."""
    manifest = verify(folder)
    if manifest.bundle_id != engine.bundle_id:
        raise GenerationRefused(
            folder.name, f"it belongs to bundle {manifest.bundle_id}, not {engine.bundle_id}"
        )
    if manifest.drawn:
        raise GenerationRefused(folder.name, "its vectors were drawn to measure size, not made by models")
    try:
        opened = (open_dense or DenseIndex)(folder / INDEX, manifest) if INDEX in manifest.files else None
        return engine.open(str(folder), opened)
    except (rankcore.RankError, RuntimeError) as error:
        raise GenerationRefused(folder.name, str(error)) from error


class DenseIndex:
    """The FAISS index of a generation as a ``rankcore.DenseSearch``, where it has one. Safe to call from many
    threads.

    The codes stay memory-mapped, so the replicas of one machine share them. FAISS releases the interpreter
    lock while it searches; one thread for each search, for the ranking core runs one worker for each core.
    Raises: GenerationRefused where the index is not the one declared.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        # Most generations need no FAISS; a replica that serves one of those should not pay for it. The stubs
        # know only argument-free constructors; the wrapper takes keywords.
        self._faiss: Any = importlib.import_module("faiss")
        self._index = self._faiss.read_index(str(path), self._faiss.IO_FLAG_MMAP_IFC)
        if self._index.d != manifest.dimension or self._index.ntotal != manifest.products:
            raise GenerationRefused(
                path.parent.name,
                f"{path.name} holds {self._index.ntotal} vectors of {self._index.d} dimensions, declared are"
                f" {manifest.products} of {manifest.dimension}",
            )
        self._probes = manifest.dense_index.probes
        if self._probes:
            self._index.nprobe = self._probes

    @property
    def index(self) -> Any:
        """The FAISS index, to be copied."""
        return self._index

    @property
    def probes(self) -> int:
        """Lists looked at for a search; 0: the index has no lists."""
        return self._probes

    def __call__(
        self, query: npt.NDArray[np.float32], k: int, eligible: npt.NDArray[np.uint8] | None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The nearest ``k`` rows by cosine, best first; fewer where fewer are found.

        query: float32 [D], L2-normalised. eligible: bitmap, bit i of byte i / 8 is row i; None: all rows.
        """
        # OpenMP keeps this for each thread that calls; a worker's own team would take cores from the others.
        self._faiss.omp_set_num_threads(1)
        parameters: Any = None
        if eligible is not None:
            selector = self._faiss.IDSelectorBitmap(eligible.size, self._faiss.swig_ptr(eligible))
            if self._probes:
                probes = min(self._probes * _FILTERED_PROBES, self._index.nlist)
                parameters = self._faiss.SearchParametersIVF(sel=selector, nprobe=probes)
            else:
                parameters = self._faiss.SearchParameters(sel=selector)
        scores, rows = self._index.search(query.reshape(1, -1), k, params=parameters)
        found = rows[0] >= 0
        if found.all():
            return rows[0], scores[0]
        return rows[0][found], scores[0][found]
