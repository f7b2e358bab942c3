"""What is written can be read again, leaves no peer out, and shows what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.compare import merged
from benchmarks.peers.report import table, write_report
from benchmarks.peers.retrieval.compare import best_ndcg_at_10, finders, worth
from benchmarks.peers.roster import PROTOCOLS, RosterError, chosen, read_peer, roster
from drills.rig.shop import Query


def row(name: str, p50_ms: float, quality: float) -> dict[str, Any]:
    cells = [
        {
            "load": load,
            "rate_per_s": 20.0 * load,
            "offered": 40,
            "in_time_share": 0.5,
            "quality_in_time": quality,
            "quality_min": quality * 0.9,
            "quality_max": quality * 1.1,
            "outcomes": {"OK": 20, "late": 20},
            "sent_late_share": 0.0,
        }
        for load in (1.0, 2.0, 5.0, 10.0)
    ]
    return {
        "name": name,
        "title": name.title(),
        "version": "1.0",
        "protocol": "grpc",
        "numbers": "int8",
        "settings": ["the best"],
        "p50_ms": p50_ms,
        "p99_ms": p50_ms * 1.5,
        "ndcg10": 0.61,
        "capacity_per_s": 20.0,
        "memory_mib": 300,
        "storm": cells,
        "storm_absolute": cells,
        "storm_patient": cells[::2],
        "date": "2026-01-01T00:00+00:00",
    }


def result() -> dict[str, Any]:
    return {
        "peers": [
            row("beta", 40.0, 0.2),
            {
                "name": "gamma",
                "title": "Gamma",
                "numbers": "int8",
                "settings": ["none"],
                "not_run": "no wheel | here",
            },
        ],
        "muster": row("muster", 15.0, 0.5),
        "muster_own_plan": row("muster-own-plan", 3.0, 0.6),
        "workload": {
            "catalogue": "shop",
            "products": 100,
            "queries": 5,
            "held_back": True,
            "candidates": 50,
            "deadline_ms": 50.0,
            "patient_deadline_ms": 200.0,
            "loads": [1.0, 2.0, 5.0, 10.0],
        },
        "machine": {"cpu": "one", "cores": 2},
        "date": "2026-01-01T00:00+00:00",
    }


def test_a_report_holds_every_peer_and_two_pictures(tmp_path: Path) -> None:
    write_report(merged(result(), None), tmp_path)
    written = json.loads((tmp_path / "compare.json").read_text())
    assert {one["name"] for one in written["peers"]} == {"beta", "gamma"}
    for key in ("name", "version", "p50_ms", "p99_ms", "ndcg10", "settings", "storm"):
        assert key in written["peers"][0] and key in written["muster"]
    assert {"load", "in_time_share", "quality_in_time"} <= set(written["muster"]["storm"][0])
    text = (tmp_path / "compare.md").read_text()
    assert "| Gamma | not run: no wheel / here |" in text
    assert "takes 2.67 times as long" in text
    assert "With 200 ms for each request" in text and "| server | 1x | 5x |" in text
    for name in ("latency.png", "storm.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_run_of_some_keeps_the_others_of_the_same_kind_of_machine() -> None:
    old = result()
    new = {**result(), "peers": [row("delta", 60.0, 0.1)]}
    assert [one["name"] for one in merged(new, old)["peers"]] == ["beta", "delta", "gamma"]
    finder = {"name": "one"}, {"name": "two"}
    old_finders, new_finders = ({"candidates": 50, "peers": [one]} for one in finder)
    both = merged({**new, "retrieval": new_finders}, {**old, "retrieval": old_finders})["retrieval"]
    assert both["peers"] == [{"name": "one"}, {"name": "two"}]
    assert merged(new, {**old, "retrieval": old_finders})["retrieval"] == old_finders
    elsewhere = {**old, "machine": {"cpu": "another", "cores": 2}}
    assert [one["name"] for one in merged(new, elsewhere)["peers"]] == ["delta"]


def test_a_share_of_nothing_is_null_in_json_and_said_in_the_table(tmp_path: Path) -> None:
    value = result()
    value["peers"][0]["storm"][0] |= {"quality_in_time": float("nan"), "in_time_share": float("nan")}
    write_report({**value, "ratios": {}}, tmp_path)
    assert (
        json.loads((tmp_path / "compare.json").read_text())["peers"][0]["storm"][0]["quality_in_time"] is None
    )
    assert "nothing offered" in table(value)


def test_a_cell_that_the_generator_could_not_offer_is_marked_and_explained(tmp_path: Path) -> None:
    assert "Inconclusive" not in table({**result(), "ratios": {}})
    value = {**result(), "ratios": {}}
    storm = value["muster_own_plan"]["storm"]
    value["muster_own_plan"]["storm"] = [*storm[:3], {**storm[3], "sent_late_share": 0.93}]
    write_report(value, tmp_path)
    text = (tmp_path / "compare.md").read_text()
    assert text.count("0.600 (50%) †") == 1
    assert "† Inconclusive of the server" in text and "200 a second: 93% sent late." in text


def test_every_peer_has_pinned_requirements_and_a_server() -> None:
    peers = roster()
    assert len(peers) == 9 and {peer.protocol for peer in peers} == set(PROTOCOLS)
    for peer in peers:
        first = peer.requirements.read_text().splitlines()[0]
        assert "==" in first and peer.package in first
        assert (peer.requirements.parent / "serve.py").is_file() and peer.settings
    assert [one.name for one in chosen(["litserve"])] == ["litserve"]
    with pytest.raises(RosterError, match="no peer is called 'nothing'"):
        chosen(["nothing"])


def test_every_finder_has_requirements_and_a_finder() -> None:
    found = finders()
    assert {one.kind for one in found} == {"lexical", "dense", "hybrid"} and len(found) == 6
    for one in found:
        folder = Path(__file__).parents[2] / "benchmarks" / "peers" / "retrieval" / one.name
        assert one.package in (folder / "requirements.txt").read_text() and (folder / "find.py").is_file()


def test_a_damaged_description_is_named(tmp_path: Path) -> None:
    (tmp_path / "peer.toml").write_text('title = "x"\n')
    with pytest.raises(RosterError, match=r"peer\.toml"):
        read_peer(tmp_path)


def test_a_list_is_worth_what_a_perfect_order_of_it_would_be() -> None:
    gains = {"a": 1.0, "b": 0.5, "c": 0.0}
    assert best_ndcg_at_10(["c", "b", "a"], gains) == 1.0
    assert best_ndcg_at_10(["c"], gains) == 0.0
    assert best_ndcg_at_10(["x", "b", "b"], gains) == pytest.approx(0.5 / (1.0 + 0.5 / 1.584963), rel=1e-5)
    found = worth([["a", "x"], ["x"]], [Query("q", "shop", gains), Query("r", "shop", {"a": 2.0})])
    assert found["recall"] == pytest.approx(0.25)
