"""The benchmark of growth: what it computes, and one small run of the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.growth import SyntheticCatalogue, fill, main, parts, plot, run, slope, table
from muster.v1.catalogue_pb2 import SequencedEvent
from server.catalogue.opening import open_store


@pytest.mark.parametrize(("power", "factor"), [(0.0, 3.0), (0.5, 0.1), (1.0, 2.0), (2.0, 7.0)])
def test_the_slope_is_the_power_of_the_size(power: float, factor: float) -> None:
    sizes = [10.0, 100.0, 2_000.0]
    assert slope(sizes, [factor * size**power for size in sizes]) == pytest.approx(power, abs=1e-3)


def test_one_size_has_no_slope() -> None:
    assert slope([10.0, 10.0], [1.0, 2.0]) is None


def test_bytes_are_summed_by_what_a_name_begins_with() -> None:
    assert parts(
        {"tokens.i8": 5, "tokens.idx": 1, "dense_scales.f32": 2, "lexical/a.b": 3, "lexical/c": 4}
    ) == {
        "tokens": 6,
        "dense": 2,
        "lexical": 7,
    }


def test_a_log_is_filled_on_from_where_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.sqlite3"
    fill(path, SyntheticCatalogue(50), 20)
    fill(path, SyntheticCatalogue(50), 50)
    store = open_store(path)
    events = [SequencedEvent.FromString(event) for event in store.read_range(1, 100, events_max=100)]
    store.close()
    assert [event.event.upsert for event in events] == list(SyntheticCatalogue(50).products())


@pytest.mark.parametrize("vectors", ["encoded", "drawn"])
def test_a_small_run_measures_every_size(bundle: Path, tmp_path: Path, vectors: str) -> None:
    seen: list[int] = []
    result = run(
        [150, 300],
        bundle=bundle,
        folder=tmp_path,
        vectors=vectors,
        sample=40,
        seed=1,
        threads=1,
        searches=8,
        seconds=0.1,
        done=lambda so_far: seen.append(len(so_far["sizes"])),
    )
    assert seen == [1, 2]
    assert [row["products"] for row in result["sizes"]] == [150, 300]
    for row in result["sizes"]:
        assert row["drawn_from"] == (40 if vectors == "drawn" else 0)
        assert set(row["tiers"]) == {"lexical", "hybrid", "late", "cross_small"}
        for tier in row["tiers"].values():
            assert 0 < tier["cpu_p50_ms"] <= tier["cpu_p95_ms"]
            assert tier["searches"] == 8
        assert row["tiers"]["late"]["stages_p50_us"]["encode"] > 0
        assert row["tiers"]["lexical"]["stages_p50_us"]["encode"] == 0
        assert row["dense_index"]["recall_at_100"] > 0.9
        assert sum(row["disk_bytes_by_part"].values()) == row["disk_bytes"]
        assert row["bytes_a_product"] > row["disk_bytes"] / row["products"] > 100
        assert set(row["build"]["stages"]) == {"read", "encode", "index", "sums"}
        assert row["build"]["peak_rss_bytes"] >= row["build"]["peak_private_bytes"] > 2**20
    assert set(result["slopes"]) == {*result["sizes"][0]["tiers"], "build", "memory", "dense search"}
    assert json.loads(json.dumps(result)) == result
    assert "| 300 |" in table(result)
    plot(result, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("generations-*")), "what was built is removed"
    again = run(
        [150, 300],
        bundle=bundle,
        folder=tmp_path,
        vectors=vectors,
        sample=40,
        seed=1,
        threads=1,
        earlier=result,
        done=lambda so_far: seen.append(0),
    )
    assert seen == [1, 2], "sizes that were measured with the same settings are kept"
    assert again["sizes"] == result["sizes"]


def test_sizes_must_be_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--products", "many"])
    assert "not numbers joined by commas" in capsys.readouterr().err
