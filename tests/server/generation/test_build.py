"""What a build reads from the log, that only one runs, and that a failed one leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import rankcore
from muster.v1.catalogue_pb2 import Delete, Event, Patch, Product
from muster.v1.ranking_pb2 import TIER_HYBRID, SearchRequest, SearchResponse
from server.catalogue.opening import open_store
from server.catalogue.store import NewEvent, Store
from server.generation.build import (
    BuildJob,
    BuildRunning,
    build,
    building,
    building_lock,
    live_products,
    main,
)
from server.generation.index import Choice
from server.generation.open import (
    MANIFEST,
    FileDigest,
    current_name,
    open_newest,
    read_manifest,
    sha256,
    verify,
)
from server.standby.lease import Holder

EPOCH = 1
WORDS = ["red", "blue", "green", "black"] * 10


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path / "catalogue.sqlite3")
    holder = Holder("test/1", 1, 1, "boot")
    claimed = store.claim_lease(holder, expected_epoch=0, ttl_ns=10**12)
    assert claimed is not None
    assert claimed.epoch == EPOCH
    yield store
    store.close()


def append(store: Store, *changes: Product | Patch | Delete) -> int:
    head = store.head().sequence
    events = []
    for number, change in enumerate(changes):
        event = Event(event_id=f"e{head + number}")
        if isinstance(change, Product):
            event.upsert.CopyFrom(change)
        elif isinstance(change, Patch):
            event.patch.CopyFrom(change)
        else:
            event.delete.CopyFrom(change)
        events.append(NewEvent.of(event))
    [appended] = store.append([events], epoch=EPOCH).batches
    return appended.sequence


def product(product_id: str, title: str = "shoe", **columns: object) -> Product:
    return Product(product_id=product_id, title=title, **columns)  # type: ignore[arg-type]


def job(bundle: Path, folder: Path, *, keep: int = 2) -> BuildJob:
    return BuildJob(
        bundle=str(bundle),
        store=str(folder / "catalogue.sqlite3"),
        generations=str(folder / "generations"),
        threads=1,
        recall_min=0.9,
        keep=keep,
        niceness=0,
    )


def test_the_log_is_folded_into_what_is_live(store: Store) -> None:
    append(
        store,
        product("kept", price=1.0, stock=5),
        product("deleted"),
        product("replaced", price=3.0),
        Patch(product_id="kept", price=2.0),
        Patch(product_id="kept", stock=0),
        Patch(product_id="replaced", price=9.0),
        Delete(product_id="deleted"),
        Patch(product_id="deleted", price=1.0),
        product("replaced", title="boot", rating=4.0),
        product("back"),
        Delete(product_id="back"),
        product("back", title="sandal"),
    )
    with store.view() as view:
        live = [Product.FromString(payload) for payload in live_products(view)]
    assert live == [
        product("kept", price=2.0, stock=0),
        product("replaced", title="boot", rating=4.0),
        product("back", title="sandal"),
    ]


def test_a_replica_that_starts_builds_does_not_load_faiss() -> None:
    # It would cost each replica tens of megabytes, and most generations are searched without.
    program = "import sys, server.app; sys.exit('faiss' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_events_after_the_chosen_sequence_are_not_read(store: Store) -> None:
    first = append(store, product("a", price=1.0))
    append(store, product("b"), Patch(product_id="a", price=7.0))
    with store.view() as view:
        [only] = live_products(view, first)
    assert Product.FromString(only) == product("a", price=1.0)


def test_a_build_makes_a_valid_generation_and_points_to_it(
    store: Store, bundle: Path, tmp_path: Path
) -> None:
    head = append(store, *(product(f"p{number}", f"red shoe {number}") for number in range(40)))
    folder = build(job(bundle, tmp_path))
    assert folder is not None
    manifest = verify(folder)
    assert (manifest.products, manifest.sequence, manifest.epoch) == (40, head, EPOCH)
    assert manifest.generation_id == folder.name == current_name(tmp_path / "generations", manifest.bundle_id)
    assert (manifest.dense_index.kind, manifest.dense_index.recall_at_100) == ("scan", 1.0)
    assert "dense.f32" not in manifest.files
    assert build(job(bundle, tmp_path)) is None, "nothing has changed"


def test_a_generation_with_drawn_vectors_says_so_is_not_served_and_its_vectors_are_not_taken(
    store: Store, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append(store, *(product(f"p{number}", f"red shoe {number}") for number in range(30)))
    stages: list[str] = []
    drawn = build(job(bundle, tmp_path), lambda stage, done, total: stages.append(stage), draw=10)
    assert drawn is not None
    assert list(dict.fromkeys(stages)) == ["encode", "index", "sums", "done"]
    manifest = verify(drawn)
    assert (manifest.products, manifest.drawn) == (30, 10)
    engine = rankcore.Engine(str(bundle), runtime_library=rankcore.runtime_library(), workers=1)
    assert open_newest(engine, tmp_path / "generations").products() == 0
    assert "its vectors were drawn to measure size" in caplog.text
    real = build(job(bundle, tmp_path))
    assert real is not None
    assert verify(real).drawn == 0
    served = open_newest(engine, tmp_path / "generations")
    assert served.products() == 30
    assert served.dense_index is not None
    assert served.dense_index["kind"] == "scan"
    assert engine.empty().dense_index is None
    engine.close()


@pytest.mark.parametrize("choice", ["lists", "faiss"])
def test_a_replica_searches_with_the_kind_that_the_build_was_told(
    store: Store, bundle: Path, tmp_path: Path, choice: Choice
) -> None:
    append(store, *(product(f"p{number}", f"{word} shoe {number}") for number, word in enumerate(WORDS)))
    assert build(replace(job(bundle, tmp_path), dense_index=choice)) is not None
    engine = rankcore.Engine(str(bundle), runtime_library=rankcore.runtime_library(), workers=1)
    generation = open_newest(engine, tmp_path / "generations")
    assert generation.dense_index is not None
    assert generation.dense_index["kind"].partition(":")[0] == choice
    engine.serve(generation)
    request = SearchRequest(query="red shoe", page_size=5).SerializeToString()
    answer = SearchResponse.FromString(engine.execute(request, "hybrid", 0, 50))
    assert answer.receipt.tier == TIER_HYBRID
    assert "p0" in [found.product_id for found in answer.results]
    engine.close()


def test_a_generation_whose_words_were_made_by_other_rules_is_refused_and_built_again(
    store: Store, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append(store, product("a", "red shoe"))
    older = build(job(bundle, tmp_path))
    assert older is not None
    meta = older / "lexical" / "meta.json"
    meta.write_text(meta.read_text().replace(rankcore.ANALYSER, "muster_en"))
    manifest = read_manifest(older)
    entry = FileDigest(sha256(meta), meta.stat().st_size)
    files = {**manifest.files, "lexical/meta.json": entry}
    (older / MANIFEST).write_text(replace(manifest, files=files, analyser="").to_json())
    engine = rankcore.Engine(str(bundle), runtime_library=rankcore.runtime_library())
    try:
        assert open_newest(engine, tmp_path / "generations").products() == 0
        assert f"{older.name} refused" in caplog.text
        newer = build(job(bundle, tmp_path))
        assert newer is not None
        opened = open_newest(engine, tmp_path / "generations")
        assert (opened.generation_id, opened.products()) == (newer.name, 1)
    finally:
        engine.close()


def test_old_generations_go_when_newer_ones_come(store: Store, bundle: Path, tmp_path: Path) -> None:
    built = []
    for number in range(3):
        append(store, product(f"p{number}", "red shoe"))
        built.append(build(job(bundle, tmp_path)))
    left = {path.name for path in (tmp_path / "generations").glob("gen-*")}
    assert left == {folder.name for folder in built[1:] if folder is not None}


def test_an_empty_catalogue_is_not_built(store: Store, bundle: Path, tmp_path: Path) -> None:
    assert build(job(bundle, tmp_path)) is None
    append(store, product("a"), Delete(product_id="a"))
    assert build(job(bundle, tmp_path)) is None
    assert not list((tmp_path / "generations").glob("gen-*"))


def test_only_one_build_runs_on_a_machine(store: Store, bundle: Path, tmp_path: Path) -> None:
    append(store, product("a"))
    generations = tmp_path / "generations"
    generations.mkdir()
    assert not building(generations)
    with building_lock(generations):
        assert building(generations)
        with pytest.raises(BuildRunning):
            build(job(bundle, tmp_path))
    assert not building(generations)
    assert build(job(bundle, tmp_path)) is not None


def test_a_failed_build_leaves_nothing_and_the_old_generation_stays(
    store: Store, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(store, product("a"))
    first = build(job(bundle, tmp_path))
    assert first is not None
    append(store, product("b"))

    def disk_full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("server.generation.index.build_dense_index", disk_full)
    with pytest.raises(OSError, match="No space"):
        build(job(bundle, tmp_path))
    generations = tmp_path / "generations"
    assert current_name(generations, read_manifest(first).bundle_id) == first.name
    assert sorted(path.name for path in generations.iterdir()) == sorted([".building", "CURRENT", first.name])


def test_the_leftovers_of_a_killed_build_are_removed(store: Store, bundle: Path, tmp_path: Path) -> None:
    append(store, product("a"))
    leftover = tmp_path / "generations" / ".building-999999"
    leftover.mkdir(parents=True)
    (leftover / "products.bin").write_bytes(b"half")
    assert build(job(bundle, tmp_path)) is not None
    assert not leftover.exists()


def test_bad_settings_end_the_command_with_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "none.toml")]) == 2
    assert "no such file" in capsys.readouterr().err
