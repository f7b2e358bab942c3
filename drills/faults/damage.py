"""Files that are not what was written: flipped bytes, missing ends, in bundles and in generations."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc

from drills.experiment import Inconclusive
from drills.faults import bundles
from drills.faults.process import Clustered
from drills.rig.cluster import RANKING_SERVICE, Cluster, ClusterError, Replica
from muster.v1 import admin_pb2, admin_pb2_grpc

MANIFEST = "manifest.json"
_CURRENT = "CURRENT"
_LOAD_S = 120.0
_REFUSED_S = 10.0
_POLL_S = 0.05

Damage = Callable[[Path], str]
"""Done to one file; returns the name of the one that is now not as declared."""


def flipped(path: Path) -> str:
    """One bit in the middle is another."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path.name


def truncated(path: Path) -> str:
    """The second half is missing."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path.name


def redigested(path: Path) -> str:
    """A manifest that is whole, but declares another digest for its largest file."""
    manifest = json.loads(path.read_text(encoding="utf-8"))
    name, entry = max(manifest["files"].items(), key=lambda item: item[1]["bytes"])
    entry["sha256"] = entry["sha256"][::-1]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return str(name)


def largest(folder: Path, below: str = "") -> str:
    """The largest file of a folder, below one of its own; relative to it. Raises: Inconclusive."""
    files = [path for path in (folder / below).rglob("*") if path.is_file() and path.name != MANIFEST]
    if not files:
        raise Inconclusive(f"{folder / below} holds no file to damage")
    return max(files, key=lambda path: path.stat().st_size).relative_to(folder).as_posix()


@dataclass(frozen=True)
class Damaged:
    """A folder with one damage. told: which, for the history."""

    folder: Path
    told: dict[str, Any]


@dataclass
class DamagedFiles:
    """One step for each damage: of a bundle about to be deployed, of a generation about to be served, of both
    at the start of a standby. Each is taken away again before the next.

    "steps" tells of each what the replicas did; the judge says whether that was right.
    """

    name: str = "damage"
    _bundle: Path | None = None
    _undone: list[Callable[[], None]] = field(default_factory=list)

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """All steps, in order. A step that went wrong by itself is noted and ends them."""
        cluster = subject.cluster
        self._bundle = cluster.plan.bundle
        instant_s = time.monotonic()
        steps: list[dict[str, Any]] = []
        try:
            primary = cluster.primary()
            standby = next(one for one in cluster.replicas if one is not primary and one.running)
            for step in (
                self._candidates(cluster, standby),
                self._generations(cluster),
                self._starts(cluster, standby),
            ):
                steps.extend(step)
        except (ClusterError, grpc.RpcError, OSError) as error:
            steps.append({"step": "failed", "problem": f"{type(error).__name__}: {error}"[:1000]})
        return {"steps": steps, "instant_s": instant_s}

    def rollback(self, subject: Clustered) -> None:
        """Takes away what is still damaged, and starts again what has ended."""
        cluster = subject.cluster
        for undo in reversed(self._undone):
            undo()
        self._undone.clear()
        if self._bundle is not None:
            cluster.plan = replace(cluster.plan, bundle=self._bundle)
        for replica in cluster.replicas:
            cluster.restart(replica)

    # -- a bundle about to be deployed ----------------------------------------------------------------------

    def _candidates(self, cluster: Cluster, replica: Replica) -> Iterator[dict[str, Any]]:
        good = cluster.folder / "candidate"
        self._undone.append(lambda: shutil.rmtree(good, ignore_errors=True))
        bundle_id = bundles.make("wrong", cluster.plan.bundle, good)
        model = largest(good)
        damages: tuple[tuple[str, Damage], ...] = (
            (model, flipped),
            (model, truncated),
            (MANIFEST, redigested),
            (MANIFEST, truncated),
        )
        for file, damage in damages:
            with self._damaged_copy(good, cluster.folder / "damaged-candidate", file, damage) as made:
                yield self._candidate(cluster, replica, made.folder, bundle_id, made.told)

    def _candidate(
        self, cluster: Cluster, replica: Replica, folder: Path, bundle_id: str, told: dict[str, Any]
    ) -> dict[str, Any]:
        stub = admin_pb2_grpc.AdminServiceStub(cluster.channel(replica))
        before = cluster.status(replica).bundle_id
        stub.LoadBundle(
            admin_pb2.LoadBundleRequest(folder=str(folder.resolve()), bundle_id=bundle_id), timeout=10.0
        )

        def settled() -> admin_pb2.HeldBundle | None:
            held = stub.BundleStatus(admin_pb2.BundleStatusRequest(), timeout=10.0).bundles.candidate
            done = held.state in (admin_pb2.BUNDLE_STATE_REFUSED, admin_pb2.BUNDLE_STATE_READY)
            return held if done else None

        held = cluster.wait(f"candidate {bundle_id} is refused or ready", _LOAD_S, settled)
        serving = cluster.status(replica).bundle_id
        stub.RollBackBundle(admin_pb2.RollBackBundleRequest(bundle_id=bundle_id), timeout=10.0)
        return {
            "step": "candidate",
            **told,
            "replica": replica.name,
            "refused": held.state == admin_pb2.BUNDLE_STATE_REFUSED,
            "said": held.detail[:300],
            "kept": serving == before,
        }

    # -- a generation about to be served --------------------------------------------------------------------

    def _generations(self, cluster: Cluster) -> Iterator[dict[str, Any]]:
        good = self._served(cluster)
        damages: tuple[tuple[str, Damage], ...] = (
            (largest(good, "lexical"), flipped),
            ("dense.i8", flipped),
            ("dense.i8", truncated),
            (MANIFEST, redigested),
            (MANIFEST, truncated),
        )
        for number, (file, damage) in enumerate(damages):
            with self._damaged_generation(cluster, good, number, file, damage) as made:
                yield self._generation(cluster, good.name, made.folder.name, made.told)

    def _generation(self, cluster: Cluster, good: str, damaged: str, told: dict[str, Any]) -> dict[str, Any]:
        replicas = [replica for replica in cluster.replicas if replica.running]

        def answered() -> list[str] | None:
            """What each replica did with it: its complaint, or nothing where it serves it."""
            serving = [cluster.status(replica).generation_id == damaged for replica in replicas]
            said = [_complaint(replica, damaged) for replica in replicas]
            done = all(taken or refused for taken, refused in zip(serving, said, strict=True))
            return said if done else None

        said = cluster.wait(f"generation {damaged} is refused or served", _REFUSED_S, answered)
        serving = {cluster.status(replica).generation_id for replica in replicas}
        return {
            "step": "generation",
            **told,
            "replica": ",".join(replica.name for replica in replicas),
            "refused": all(said),
            "said": said[0][:300],
            "kept": serving == {good},
        }

    # -- the start of a replica -----------------------------------------------------------------------------

    def _starts(self, cluster: Cluster, replica: Replica) -> Iterator[dict[str, Any]]:
        good = cluster.plan.bundle
        for file, damage in ((largest(good), flipped), (MANIFEST, truncated)):
            with self._damaged_copy(good, cluster.folder / "damaged-bundle", file, damage) as made:
                yield self._start(cluster, replica, made.folder, made.told)
        served = self._served(cluster)
        with self._damaged_generation(cluster, served, 9, "dense.i8", flipped) as made:
            cluster.kill(replica)
            cluster.restart(replica)
            complaint = _complaint(replica, made.folder.name)
            yield {
                "step": "start_generation",
                **made.told,
                "replica": replica.name,
                "refused": bool(complaint),
                "said": complaint[:300],
                "kept": cluster.status(replica).generation_id == served.name,
            }

    def _start(
        self, cluster: Cluster, replica: Replica, folder: Path, told: dict[str, Any]
    ) -> dict[str, Any]:
        if replica.running:
            cluster.kill(replica)
        good = cluster.plan
        cluster.plan = replace(good, bundle=folder)
        try:
            cluster.restart(replica)
        except ClusterError:
            assert replica.process is not None
            code = replica.process.poll()
        else:
            code = None
        finally:
            cluster.plan = good
        others = [one for one in cluster.replicas if one is not replica]
        told = {
            "step": "start",
            **told,
            "replica": replica.name,
            "refused": code is not None,
            "code": code,
            "said": replica.log_tail(1)[:300],
            "kept": all(cluster.health(other, RANKING_SERVICE) for other in others),
        }
        if code is None:
            cluster.kill(replica)
        cluster.restart(replica)
        return told

    # -- making them ----------------------------------------------------------------------------------------

    def _served(self, cluster: Cluster) -> Path:
        return cluster.data_dir / "generations" / cluster.status(cluster.replicas[0]).generation_id

    @contextlib.contextmanager
    def _damaged_copy(self, good: Path, folder: Path, file: str, damage: Damage) -> Iterator[Damaged]:
        shutil.copytree(good, folder)
        try:
            yield Damaged(folder, _told(file, damage, damage(folder / file)))
        finally:
            shutil.rmtree(folder)

    @contextlib.contextmanager
    def _damaged_generation(
        self, cluster: Cluster, good: Path, number: int, file: str, damage: Damage
    ) -> Iterator[Damaged]:
        """A copy of a generation under a name of its own, damaged, and named as the current one."""
        folder = good.with_name(f"{good.name.rpartition('-')[0]}-{number:08d}")
        current = good.parent / _CURRENT
        before = current.read_text(encoding="utf-8")
        draft = cluster.folder / folder.name
        shutil.copytree(good, draft)
        manifest = json.loads((draft / MANIFEST).read_text(encoding="utf-8"))
        manifest["generation_id"] = folder.name
        (draft / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        told = _told(file, damage, damage(draft / file))

        def undo() -> None:
            _put(current, before)
            for left in (draft, folder):
                shutil.rmtree(left, ignore_errors=True)

        self._undone.append(undo)
        shutil.move(draft, folder)
        others = (line for line in before.split() if line != good.name)
        _put(current, "".join(f"{line}\n" for line in (folder.name, *others)))
        try:
            yield Damaged(folder, told)
        finally:
            undo()
            self._undone.remove(undo)


def _put(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}-drill")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _told(file: str, damage: Damage, unlike: str) -> dict[str, Any]:
    return {"file": file, "damage": damage.__name__, "unlike_declared": unlike}


def _complaint(replica: Replica, generation: str) -> str:
    """The line of a replica's log that refuses a generation; empty: there is none."""
    text = replica.log_path.read_text(encoding="utf-8", errors="replace")
    return next((line for line in text.splitlines() if f"generation {generation} refused" in line), "")
