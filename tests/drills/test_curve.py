from __future__ import annotations

import importlib.util
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib import image

from drills import curve
from drills.curve import (
    EMPTY,
    Cell,
    Clock,
    Grid,
    Observation,
    Workload,
    duration,
    judged_queries,
    main,
    noise,
    observe,
    report,
    run,
    shown_plan,
    shown_share,
    spread,
    summarise,
    table,
)
from drills.experiment import Inconclusive
from drills.rig.cluster import ClusterPlan
from drills.rig.load import OK, UNSENT, Sample
from drills.rig.shop import Query, Shop, synthetic_shop
from tests.fixtures.tiny_bundle import build

Scripted = Callable[..., ClusterPlan]

QUERIES = (Query("red shoe", "esci", {"a": 1.0, "b": 1.0}), Query("lamp", "esci", {"c": 1.0}))
JUDGED = Workload(QUERIES, (1.0, 0.5))


def answer(index: int, latency_s: float, *products: str, tier: str = "late", worth: float = 1.0) -> Sample:
    depth = 50 if tier == "late" else 0
    fields = {"tier": tier, "depth": depth, "expected_ndcg": worth, "product_ids": list(products)}
    return Sample("read", index, 10.0, 10.0, 10.0 + latency_s, OK, fields)


def failure(index: int, status: str) -> Sample:
    return Sample("read", index, 10.0, 10.05, 10.05, status)


# -- the grid ----------------------------------------------------------


def test_every_round_holds_every_cell_once_in_an_order_of_its_own() -> None:
    grid = Grid((0.5, 1.0, 2.0), (5.0, 50.0), rounds=3, seed=4)
    planned = grid.schedule()
    orders = [[cell for number, cell in planned if number == wanted] for wanted in range(3)]
    assert all(Counter(order) == Counter(grid.cells()) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert planned == grid.schedule()
    assert planned != Grid((0.5, 1.0, 2.0), (5.0, 50.0), rounds=3, seed=5).schedule()


@pytest.mark.parametrize(
    ("load", "capacity_per_s", "seconds"),
    [(1.0, 1000.0, 2.0), (0.2, 100.0, 2.0), (0.1, 100.0, 4.0), (0.1, 1.0, 8.0)],
)
def test_a_cell_of_few_requests_lasts_longer_but_not_for_ever(
    load: float, capacity_per_s: float, seconds: float
) -> None:
    assert Grid(seconds=2.0).counted_s(load, capacity_per_s) == pytest.approx(seconds)


def test_a_workload_that_begins_elsewhere_keeps_queries_and_quality_together() -> None:
    turned = JUDGED.turned(1)
    assert turned.queries == (QUERIES[1], QUERIES[0])
    assert turned.best_ndcg == (0.5, 1.0)
    assert Workload(QUERIES).turned(1).best_ndcg == ()


# -- counting ----------------------------------------------------------


def test_late_and_refused_answers_are_worth_nothing() -> None:
    found = observe(
        [
            answer(0, 0.049, "a", "b"),
            answer(1, 0.051, "c"),
            failure(2, "RESOURCE_EXHAUSTED"),
            failure(3, UNSENT),
        ],
        50.0,
        JUDGED,
    )
    assert (found.offered, found.in_time, found.in_time_share) == (4, 1, 0.25)
    assert found.missed == {"late": 1, "RESOURCE_EXHAUSTED": 1, UNSENT: 1}
    assert found.expected_quality == 0.25
    assert found.expected_in_time == 1.0
    assert found.ndcg_at_10 == 0.25
    assert found.sent_late == 2


def test_the_latency_counts_from_the_intended_moment() -> None:
    sample = answer(0, 0.060, "a", "b")
    sample.sent_s = 10.055
    assert observe([sample], 50.0, JUDGED).missed == {"late": 1}


def test_measured_quality_compares_with_the_best_plan_on_the_same_queries() -> None:
    # The best plan has 1 and 0.5 here; served are 1 / log2(3) of the query "lamp" and nothing else.
    found = observe([failure(0, UNSENT), answer(1, 0.01, "x", "c")], 50.0, JUDGED)
    assert found.measured_quality == pytest.approx(1 / math.log2(3) / 1.5)


def test_a_cheap_plan_is_worth_what_its_receipt_says() -> None:
    samples = [answer(0, 0.01), answer(1, 0.01, tier="lexical", worth=0.5), failure(2, UNSENT)]
    found = observe(samples, 50.0, Workload(QUERIES))
    assert found.plans == {"late@50": 1, "lexical": 1}
    assert found.expected_quality == 0.5
    assert found.expected_in_time == 0.75
    assert (found.measured_quality, found.ndcg_at_10) == (None, None)


def test_a_cell_where_nothing_was_offered_says_nothing() -> None:
    found = observe([], 50.0, JUDGED)
    assert found.in_time_share is found.expected_quality is found.measured_quality is None
    assert spread([None, None]) is None
    assert spread([0.4, None, 0.1]) == {"median": 0.25, "min": 0.1, "max": 0.4}


def seen(in_time: int, **changed: Any) -> Observation:
    values: dict[str, Any] = {
        "offered": 10,
        "in_time": in_time,
        "expected": 0.9 * in_time,
        "measured": 0.5 * in_time,
        "best": 8.0,
        "plans": Counter({"late@50": in_time}),
        "missed": Counter({"late": 10 - in_time}),
        "sent_late": 1,
    }
    return Observation(**{**values, **changed})


def test_a_cell_is_the_median_of_its_rounds_with_the_least_and_the_most() -> None:
    cell = summarise(Cell(2.0, 5.0), 123.456, [seen(8), seen(2), seen(4)])
    assert cell == {
        "load": 2.0,
        "deadline_ms": 5.0,
        "rate_per_s": 123.5,
        "offered": 30,
        "in_time_share": {"median": 0.4, "min": 0.2, "max": 0.8},
        "expected_in_time": {"median": 0.9, "min": 0.9, "max": 0.9},
        "expected_quality": {"median": 0.36, "min": 0.18, "max": 0.72},
        "measured_quality": {"median": 0.25, "min": 0.125, "max": 0.5},
        "ndcg_at_10": {"median": 0.2, "min": 0.1, "max": 0.4},
        "plans": {"late@50": 1.0},
        "missed": {"late": 16},
        "sent_late_share": 0.1,
    }


@pytest.mark.parametrize(
    ("load", "rounds", "noisy"),
    [
        (0.2, [seen(10), seen(7)], True),
        (0.8, [seen(10), seen(8)], False),
        (1.0, [seen(10), seen(1)], False),  # near the capacity it is the load that decides, not the machine
        (0.2, [seen(10)], False),
        (0.2, [seen(0, offered=0)], False),
    ],
)
def test_only_calm_cells_that_differ_between_rounds_are_noise(
    load: float, rounds: list[Observation], noisy: bool
) -> None:
    reason = noise([summarise(Cell(load, 5.0), 1.0, rounds)])
    assert (reason is not None) is noisy
    if reason is not None:
        for part in ("too noisy", "0.2 times", "5 ms", "70%", "100%", "--seconds"):
            assert part in reason


# -- telling ----------------------------------------------------------


def result(**changed: Any) -> dict[str, Any]:
    cells = [
        summarise(Cell(load, deadline_ms), 100.0, [seen(9), seen(10)])
        for load in (0.2, 10.0)
        for deadline_ms in (2.0, 200.0)
    ]
    return {
        "bench": "curve",
        "verdict": "measured",
        "bundle": "b-1",
        "catalogue": "esci",
        "products": 1000,
        "queries": 2,
        "capacity_per_s": 300.0,
        "best_plan": {"plan": "late@50", "p50_ms": 5.0, "expected_ndcg": 0.7, "measured_ndcg": 0.6},
        "measured": True,
        "loads": [0.2, 10.0],
        "deadlines_ms": [2.0, 200.0],
        "rounds": 2,
        "cells": cells,
        **changed,
    }


def test_a_table_has_loads_down_and_deadlines_across_in_line() -> None:
    lines = table("title", result(), lambda cell: f"{cell['offered']:g}").splitlines()
    assert lines == ["title", "  load  2 ms  200 ms", "   0.2    20      20", "    10    20      20"]


def test_a_cell_that_is_missing_leaves_a_mark() -> None:
    text = table("title", {**result(), "cells": result()["cells"][1:]}, lambda cell: "x")
    assert text.splitlines()[2].split() == ["0.2", "-", "x"]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        ({"median": 0.974, "min": 0.951, "max": 1.0}, ".97 .95-1.00"),
        ({"median": 0.0, "min": 0.0, "max": 0.0}, ".00 .00-.00"),
        (None, "-"),
    ],
)
def test_shares_are_short(share: dict[str, float] | None, text: str) -> None:
    assert shown_share(share) == text


def test_the_plan_shown_is_the_one_executed_most() -> None:
    assert shown_plan({"plans": {"lexical": 0.7, "late@50": 0.3}}) == "lexical 70%"
    assert shown_plan({"plans": {"lexical": 1.0}}) == "lexical"
    assert shown_plan({"plans": {}}) == "-"


def test_people_are_told_what_the_figures_are() -> None:
    text = report(result())
    for part in ("b-1", "measured on 2 queries", "0.600", "late@50", "0.2", "10", "2 ms", "late itself"):
        assert part in text
    assert "measured it was not" in report(result(measured=False))


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "7 s"), (60, "1 min"), (158, "2 min 40 s"), (-1, "0 s")])
def test_durations_are_rounded_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_time_left_is_told_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = 100.0
    monkeypatch.setattr(curve.time, "monotonic", lambda: now_s)
    clock = Clock([10.0, 10.0, 20.0])
    clock.step(0)
    now_s = 120.0  # twice as slow as planned
    clock.step(1)
    now_s = 121.0
    clock.step(2)
    assert capsys.readouterr().err.splitlines() == ["curve: 1 of 3 cells, about 1 min left"]


# -- queries ----------------------------------------------------------


def test_only_queries_held_back_whose_relevant_products_are_loaded_are_judged() -> None:
    wanted = Query("a", "esci", {"p": 1.0, "absent": 0.0}, held_back=True)
    others = (
        Query("trained on", "esci", {"p": 1.0}),
        Query("not loaded", "esci", {"p": 1.0, "q": 0.1}, held_back=True),
        Query("nothing relevant", "esci", {"p": 0.0}, held_back=True),
        Query("not judged", "esci", held_back=True),
    )
    shop = Shop("esci", "", (), (wanted, *others), 1)
    assert judged_queries(shop, {"p"}) == (wanted,)
    assert judged_queries(synthetic_shop(20, 1, queries=3), {"p"}) == ()


# -- the whole ----------------------------------------------------------


def judged_shop() -> Shop:
    """A synthetic shop with queries that count as held back; scripted replicas answer "1" to all."""
    shop = synthetic_shop(20, 1)
    names = [product.product_id for product in shop.products()]
    queries = tuple(Query(f"query {n}", "esci", {names[n]: 1.0}, held_back=True) for n in range(8))
    return Shop("esci", "a scripted set", (), queries, 20, 1)


def test_a_flood_is_answered_by_cheaper_plans_and_is_worth_less(scripted: Scripted, tmp_path: Path) -> None:
    found = run(
        folder=tmp_path,
        shop=synthetic_shop(20, 1, queries=5),
        plan=scripted(1, service_ms=100),
        grid=Grid((0.2, 10.0), (4000.0,), seconds=1.0, rounds=1),
        concurrency=1,
        progress=False,
    )
    light, heavy = found["cells"]
    assert (light["load"], heavy["load"]) == (0.2, 10.0)
    assert heavy["offered"] > light["offered"] > 0
    assert "lexical" in heavy["plans"] and heavy["expected_in_time"]["max"] < 1.0
    assert heavy["expected_quality"]["max"] < heavy["in_time_share"]["max"]
    assert heavy["measured_quality"] is None and not found["measured"]
    assert found["best_plan"]["plan"] == "late@100" and found["best_plan"]["measured_ndcg"] is None
    assert not (tmp_path / "cluster" / "data").exists()
    json.dumps(found)


def test_judged_queries_are_measured_against_the_best_plans_own_answers(
    scripted: Scripted, tmp_path: Path
) -> None:
    found = run(
        folder=tmp_path,
        shop=judged_shop(),
        plan=scripted(1, service_ms=1),
        grid=Grid((0.1,), (1000.0,), seconds=0.5, rounds=1),
        concurrency=1,
        progress=False,
    )
    assert found["measured"] and found["queries"] == 8
    # The scripted answer is relevant to none of them.
    assert found["best_plan"]["measured_ndcg"] == 0.0
    assert found["cells"][0]["ndcg_at_10"]["median"] == 0.0
    assert found["cells"][0]["measured_quality"] is None


def test_without_the_best_plans_answers_nothing_is_measured(scripted: Scripted, tmp_path: Path) -> None:
    with pytest.raises(Inconclusive, match=r"could not be measured|answered only"):
        run(
            folder=tmp_path,
            shop=judged_shop(),
            plan=scripted(1, fail_reads_every=2),
            grid=Grid((0.1,), (1000.0,), seconds=0.1, rounds=1),
            concurrency=1,
            progress=False,
        )


@pytest.mark.skipif(
    importlib.util.find_spec("rankcore._native") is None,
    reason="the ranking core is not built; run `make build`",
)
def test_two_cells_on_the_real_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(tmp_path / "tiny")
    picture = tmp_path / "pictures" / "curve.png"
    for _ in range(3):
        code = main(
            [
                *("--bundle", str(tmp_path / "tiny"), "--products", "60", "--loads", "0.2", "--rounds", "1"),
                *("--deadlines", "500ms,1000", "--seconds", "0.5", "--json"),
                *("--out", str(picture), "--journal", str(tmp_path / "record")),
            ]
        )
        printed = capsys.readouterr()
        told = json.loads(printed.out)
        if "capacity could not be measured" not in told.get("reason", ""):
            break
    else:
        pytest.skip(f"this machine is too busy: {told['reason']}")
    assert code == 0, told
    assert (told["bench"], told["verdict"], told["catalogue"]) == ("curve", "measured", "synthetic")
    assert [cell["deadline_ms"] for cell in told["cells"]] == [500.0, 1000.0]
    assert all(cell["offered"] for cell in told["cells"])
    assert set(EMPTY) <= set(told)
    assert image.imread(picture).shape[0] > 100
    stored = json.loads((tmp_path / "record" / "result.json").read_text(encoding="utf-8"))
    assert stored == {key: value for key, value in told.items() if key != "plot"}
    assert "only the expected quality is known" in printed.err and "2 cells, about" in printed.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--loads", "0,1"], "above 0"),
        (["--loads", ""], "joined by commas"),
        (["--deadlines", "5,soon"], "joined by commas"),
        (["--deadlines", "inf"], "above 0"),
        (["--rounds", "0"], "above 0"),
        (["--seconds", "-1"], "above 0"),
        (["--seconds", "inf"], "finite"),
        (["--seed", "-1"], "from 0"),
        (["--out", "curve.txt"], ".png"),
        (["--bundle", "no-such-folder"], "muster train"),
        (["--unknown"], "--unknown"),
    ],
)
def test_bad_arguments_exit_2_and_say_what_to_do(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--journal", str(tmp_path / "record")])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "record").exists()
