"""Start, refusal, drain and restart of real processes."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from muster.bundle.checksums import bundle_digest
from muster.v1 import admin_pb2, catalogue_pb2, ranking_pb2
from server import config
from server.catalogue.opening import open_store
from server.generation.build import BuildJob, build
from server.generation.open import current_name
from server.lifecycle import End, existing_store
from tests.server.replica import (
    NOT_SERVING,
    Replica,
    command,
    patch,
    run_refused,
    shoes,
    upsert,
    wait_until,
)

QUIET = {"generation.rebuild": "false"}


def job(bundle: Path, data_dir: Path) -> BuildJob:
    return BuildJob(
        bundle=str(bundle),
        store=str(data_dir / "catalogue.sqlite3"),
        generations=str(data_dir / "generations"),
        threads=1,
        recall_min=0.9,
        keep=2,
        niceness=0,
    )


def search(replica: Replica, query: str, page_size: int = 10) -> ranking_pb2.SearchResponse:
    return replica.ranking.Search(ranking_pb2.SearchRequest(query=query, page_size=page_size), timeout=5)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("flipped", "refused: tokenizer.json: "),
        ("truncated", "refused: tokenizer.json: "),
        ("foreign", "refused: note.txt: "),
        ("no manifest", "refused: manifest.json: "),
        ("missing", "refused: .: "),
        ("golden", "its golden requests do not reproduce here: "),
    ],
)
def test_a_wrong_bundle_is_refused_with_the_file_and_code_2(
    damage: str, sentence: str, bundle: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "bundle"
    if damage != "missing":
        shutil.copytree(bundle, wrong)
    tokenizer = wrong / "tokenizer.json"
    if damage == "flipped":
        data = bytearray(tokenizer.read_bytes())
        data[100] ^= 1
        tokenizer.write_bytes(bytes(data))
    elif damage == "truncated":
        tokenizer.write_bytes(tokenizer.read_bytes()[:-1])
    elif damage == "foreign":
        (wrong / "note.txt").write_text("x")
    elif damage == "no manifest":
        (wrong / "manifest.json").unlink()
    elif damage == "golden":
        lie_about_golden(wrong)
    code, error = run_refused([*command(wrong, tmp_path / "data"), "--listen", "127.0.0.1:0"])
    assert code == 2, error
    assert sentence in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not (tmp_path / "data" / "catalogue.sqlite3").exists()


def lie_about_golden(folder: Path) -> None:
    """Expect another dense score, with checksums and identity put right."""
    golden = json.loads((folder / "golden.json").read_text())
    golden["cases"][0]["dense"] += 0.5
    text = json.dumps(golden).encode()
    (folder / "golden.json").write_bytes(text)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["golden.json"] = {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)}
    digest = bundle_digest({name: entry["sha256"] for name, entry in manifest["files"].items()})
    manifest["bundle_id"] = f"{manifest['bundle_id'].rpartition('-')[0]}-{digest[:12]}"
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_an_unwritable_folder_is_refused_with_code_2(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, error = run_refused(command(bundle, tmp_path / "file" / "data"))
    assert code == 2
    assert "cannot be written" in error.splitlines()[-1]


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough", b"SQLite format 3\x00" + b"\x00" * 50]
)
def test_a_log_that_is_none_is_refused_and_left_alone(content: bytes, bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "data" / "catalogue.sqlite3"
    log.parent.mkdir()
    log.write_bytes(content)
    code, error = run_refused([*command(bundle, log.parent), "--listen", "127.0.0.1:0"])
    assert code == 2, error
    assert "catalogue.sqlite3" in error.splitlines()[-1]
    assert log.read_bytes() == content


def test_a_store_of_another_cluster_is_refused_with_code_2_and_both_names(
    bundle: Path, tmp_path: Path
) -> None:
    with closing(open_store(tmp_path / "data" / "catalogue.sqlite3")) as store:
        found = store.cluster_id
    code, error = run_refused(command(bundle, tmp_path / "data", {"catalogue.cluster_id": "0ther"}))
    assert code == 2
    assert f"holds catalogue {found}, catalogue.cluster_id asks for 0ther" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(("start_with", "opened"), [("log", True), ("settings", False)])
def test_a_store_that_is_there_is_opened_before_the_models_and_none_is_made_for_them(
    bundle: Path, tmp_path: Path, start_with: str, opened: bool
) -> None:
    settings = config.load(
        None, {"bundle": str(bundle), "data_dir": str(tmp_path), "release.start_with": start_with}
    )
    assert existing_store(settings, "a") is None
    assert list(tmp_path.iterdir()) == []
    open_store(settings.store_location).close()
    store = existing_store(settings, "a")
    assert (store is not None) is opened
    if store is not None:
        store.close()


def test_a_bad_flag_is_refused_with_code_2(bundle: Path, tmp_path: Path) -> None:
    code, error = run_refused([*command(bundle, tmp_path / "data"), "--set", "lease.ttl_ms=1"])
    assert code == 2
    assert "muster serve: lease.ttl_ms = '1' (from flag)" in error
    code, error = run_refused([*command(bundle, tmp_path / "data"), "--set", "lease.ttl_ms"])
    assert code == 2
    assert "NAME=VALUE" in error


def test_a_drain_tells_health_first_and_ends_with_code_0(bundle: Path, tmp_path: Path) -> None:
    settings = {**QUIET, "lifecycle.drain_notice_ms": 1500}
    with Replica(bundle, tmp_path / "data", "a", settings) as replica:
        replica.wait_primary()
        replica.apply(*shoes(3))
        replica.process.send_signal(signal.SIGTERM)
        wait_until(lambda: replica.health("muster.v1.RankingService") == NOT_SERVING, "leaving", 10)
        assert replica.health("muster.v1.CatalogueService") == NOT_SERVING
        assert replica.health("") == NOT_SERVING
        assert len(search(replica, "red shoe").results) == 3, "calls are still answered"
        assert replica.process.wait(timeout=30) == 0
        assert not replica.port_file.exists()
        assert "Traceback" not in replica.log()


def test_a_signal_at_any_moment_of_the_wait_ends_it() -> None:
    end = End()
    before = signal.signal(signal.SIGALRM, lambda number, frame: end.ask())
    try:
        for number in range(500):
            end = End()
            signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + number % 60))
            end.wait()
            assert end.asked()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_operator_can_drain_and_a_standby_takes_the_lease(bundle: Path, tmp_path: Path) -> None:
    with Replica(bundle, tmp_path / "data", "a", QUIET) as first:
        first.wait_primary()
        first.apply(*shoes(3))
        with Replica(bundle, tmp_path / "data", "b", QUIET) as second:
            second.wait_serving()
            before = second.status().epoch
            first.admin.Drain(admin_pb2.DrainRequest(), timeout=5)
            assert first.process.wait(timeout=30) == 0
            second.wait_primary()
            assert second.apply(patch("red-1", price=99.0)).epoch > before
            assert search(second, "red shoe 1").receipt.replica == "b"


def test_a_watch_ends_with_unavailable_when_its_replica_drains(bundle: Path, tmp_path: Path) -> None:
    with Replica(bundle, tmp_path / "data", "a", QUIET) as replica:
        replica.wait_primary()
        replica.apply(*shoes(2))
        stream = replica.catalogue.Watch(catalogue_pb2.WatchRequest())
        assert [next(stream).event.sequence for _ in range(2)] == [1, 2]
        replica.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert replica.process.wait(timeout=30) == 0


def test_a_second_signal_ends_the_process_at_once(bundle: Path, tmp_path: Path) -> None:
    settings = {**QUIET, "lifecycle.drain_notice_ms": 60_000}
    with Replica(bundle, tmp_path / "data", "a", settings) as replica:
        replica.wait_serving()
        replica.process.send_signal(signal.SIGTERM)
        wait_until(lambda: replica.health("") == NOT_SERVING, "leaving", 10)
        replica.process.send_signal(signal.SIGTERM)
        assert replica.process.wait(timeout=10) == 128 + signal.SIGTERM


@pytest.mark.parametrize("end", ["drain", "kill"])
def test_a_restart_keeps_everything(end: str, bundle: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with Replica(bundle, data_dir, "a", QUIET) as replica:
        replica.wait_primary()
        replica.apply(*shoes(30))
        assert build(job(bundle, data_dir)) is not None
        sequence = replica.apply(patch("red-7", price=777.0), upsert("late", "violet umbrella")).sequence
        epoch = replica.status().epoch
        if end == "drain":
            assert replica.drain() == 0
        else:
            replica.kill()
    with Replica(bundle, data_dir, "a", QUIET) as replica:
        replica.wait_primary()
        status = replica.status()
        assert (status.products, status.applied_sequence) == (31, sequence)
        assert status.generation_id == current_name(data_dir / "generations", status.bundle_id)
        assert status.epoch > epoch
        assert (
            replica.catalogue.Get(catalogue_pb2.GetRequest(product_id="red-7"), timeout=5).product.price
            == 777.0
        )
        assert search(replica, "violet umbrella").results[0].product_id == "late"


def test_a_damaged_generation_is_refused_by_name_and_the_one_before_serves(
    bundle: Path, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    with Replica(bundle, data_dir, "a", QUIET) as replica:
        replica.wait_primary()
        replica.apply(*shoes(20))
        good = build(job(bundle, data_dir))
        replica.apply(*shoes(20, "blue"))
        bad = build(job(bundle, data_dir))
        assert good is not None
        assert bad is not None
        assert replica.drain() == 0
    index = bad / "dense.i8"
    data = bytearray(index.read_bytes())
    data[len(data) // 2] ^= 0xFF
    index.write_bytes(bytes(data))
    with Replica(bundle, data_dir, "a", QUIET) as replica:
        replica.wait_primary()
        assert f"generation {bad.name} refused: dense.i8 does not match its checksum" in replica.log()
        status = replica.status()
        assert status.generation_id == good.name
        assert status.products == 40
        assert "blue" in search(replica, "blue shoe").results[0].title


def test_a_generation_damaged_while_serving_is_not_swapped_in(bundle: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with Replica(bundle, data_dir, "a", QUIET) as replica:
        replica.wait_primary()
        replica.apply(*shoes(20))
        good = build(job(bundle, data_dir))
        assert good is not None
        wait_until(lambda: replica.status().generation_id == good.name, "the first generation is served", 30)
        broken = good.with_name(good.name[:-8] + "ffffffff")
        shutil.copytree(good, broken)
        (broken / "products.bin").write_bytes(b"")
        (data_dir / "generations" / "CURRENT").write_text(broken.name + "\n")
        wait_until(lambda: f"generation {broken.name} refused" in replica.log(), "refused by name", 30)
        assert replica.status().generation_id == good.name
        assert search(replica, "red shoe").results


def test_enough_new_products_are_built_into_a_generation_that_every_replica_serves(
    bundle: Path, tmp_path: Path
) -> None:
    settings = {"generation.delta_products_min": 20, "generation.quiet_ms": 300}
    data_dir = tmp_path / "data"
    with Replica(bundle, data_dir, "a", settings) as primary:
        primary.wait_primary()
        with Replica(bundle, data_dir, "b", settings) as standby:
            standby.wait_serving()
            primary.apply(*shoes(50))
            for replica in (primary, standby):
                wait_until(lambda replica=replica: replica.status().generation_id != "", "a generation", 60)  # type: ignore[misc]
            assert primary.status().generation_id == standby.status().generation_id
            assert standby.status().delta_products == 0
            dense_index = standby.status().dense_index
            assert (dense_index.kind, dense_index.probes) == ("scan", 0)
            assert 0.9 < dense_index.recall_at_100 <= 1.0
            assert dense_index.median_ms > 0
            primary.apply(patch("red-9", price=999.0))
            answer = search(primary, "red shoe 9", 50)
            assert {result.product_id: result.price for result in answer.results}["red-9"] == 999.0
            # The process of the first build may still be ending.
            wait_until(
                lambda: primary.admin.Rebuild(admin_pb2.RebuildRequest(), timeout=5).started, "a rebuild", 60
            )
            wait_until(lambda: not primary.status().building, "the build has ended", 60)


def test_the_settings_are_logged_once(bundle: Path, tmp_path: Path) -> None:
    with Replica(bundle, tmp_path / "data", "a", QUIET) as replica:
        replica.wait_serving()
        assert replica.log().count("settings: ") == 1
        assert "lease.ttl_ms=500" in replica.log()


def test_the_command_explains_itself() -> None:
    line = [*command(Path("b"), Path("d"))[:3], "--help"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "--port-file" in done.stdout
