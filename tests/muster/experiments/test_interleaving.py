"""Interleaving from files: who is preferred, what is refused, and how seldom nothing looks like something."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from muster.cli import app
from muster.experiments.assignment import ExperimentRefused, Interleaved, team_draft
from muster.experiments.interleaving import mixed, preferred, read_shown
from muster.products import ProductFileError

Act = tuple[str, str, str, str | None]


def feedback(folder: Path, acts: list[Act]) -> Path:
    """acts: kind, product, receipt, shopper. Written with the columns of an export."""
    path = folder / "feedback.parquet"
    columns = ("kind", "product_id", "receipt_id", "shopper")
    table = pa.table(
        {name: pa.array([act[at] for act in acts], pa.string()) for at, name in enumerate(columns)}
    )
    pq.write_table(table.append_column("session", pa.nulls(len(acts), pa.string())), path)
    return path


def shown_file(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "shown.jsonl"
    path.write_text("".join(json.dumps({"experiment": "k", **row}) + "\n" for row in rows))
    return path


def row(receipt: str, order: str = "xy", team: str = "ab") -> dict[str, Any]:
    return {"receipt_id": receipt, "order": list(order), "team": list(team)}


def run(*arguments: object) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["experiment", *map(str, arguments)])
    return found.exit_code, found.output


def shopped(folder: Path, *, better_b: float, shoppers: int, seed: int) -> tuple[Path, Path]:
    """Shoppers who see three mixed answers each, and click their products with the chance .3 for those of a
    and .3 times `better_b` for those of b.
    """
    chooser = random.Random(seed)
    rows, acts = [], []
    for number in range(3 * shoppers):
        coin = [chooser.random() < 0.5 for _ in range(5)]
        draft = team_draft("pqrstu", "utsrqp", places=4, coin=coin)
        rows.append(row(f"r{number}", "".join(draft.order), "".join(draft.team)))
        for product, team in zip(draft.order, draft.team, strict=True):
            if chooser.random() < 0.3 * (better_b if team == "b" else 1.0):
                acts.append(("click", product, f"r{number}", f"s{number // 3}"))
    return shown_file(folder, rows), feedback(folder, acts)


def test_the_better_ranking_wins_and_each_shopper_counts_once(tmp_path: Path) -> None:
    shown, acts = shopped(tmp_path, better_b=1.6, shoppers=200, seed=1)
    code, text = run("interleaved", "k", shown, acts, "--json")
    found = json.loads(text)
    assert code == 0 and found["p"] < 0.01 and found["low"] > 0.5
    assert found["wins_a"] + found["wins_b"] + found["ties"] <= 200 < found["answers_taken"] <= 600
    code, text = run("interleaved", "k", shown, acts)
    assert code == 0 and "one shopper counts once" in text


def test_rankings_that_are_alike_seldom_look_different(tmp_path: Path) -> None:
    small = 0
    for seed in range(60):
        shown, acts = shopped(tmp_path, better_b=1.0, shoppers=40, seed=seed)
        small += preferred(read_shown(shown, "k"), acts, ["click"]).p < 0.05
    # An exact test is wrong in at most 5 %: more than 7 of 60 would be so in fewer than 1 of 100 series.
    assert small <= 7


def test_only_what_counts_on_answers_of_the_experiment_counts(tmp_path: Path) -> None:
    acts: list[Act] = [
        ("view", "x", "r1", "s1"),
        ("buy", "x", "r1", "s1"),
        ("click", "y", "r1", "s1"),
        ("click", "y", "r1", "s1"),
        ("click", "elsewhere", "r2", "s2"),
        ("click", "x", "unknown", "s3"),
        ("click", "x", "r3", None),
    ]
    shown = {name: Interleaved(("x", "y"), ("a", "b")) for name in ("r1", "r2", "r3")}
    file = feedback(tmp_path, acts)
    found = preferred(shown, file, ["click"])
    assert (found.wins_a, found.wins_b, found.ties, found.taken, found.first_a) == (1, 1, 0, 2, 3)
    found = preferred(shown, file, ["click", "buy"])
    assert (found.wins_a, found.wins_b, found.ties) == (1, 0, 1)


def test_nothing_taken_is_inconclusive_and_an_uneven_coin_deviates(tmp_path: Path) -> None:
    nothing = feedback(tmp_path, [])
    shown = shown_file(tmp_path, [row("r1"), row("r2", team="ba")])
    assert run("interleaved", "k", shown, nothing, "--json")[0] == 20
    shown = shown_file(tmp_path, [row(f"r{at}") for at in range(20)])
    code, text = run("interleaved", "k", shown, feedback(tmp_path, [("click", "x", "r1", "s")]), "--json")
    assert code == 10 and "share_b" not in json.loads(text)


@pytest.mark.parametrize(
    "rows",
    [
        [row("")],
        [row("r", team="a")],
        [row("r", team="ac")],
        [row("r", order="xx")],
        [{"receipt_id": "r", "order": "xy", "team": ["a", "b"]}],
        [row("r"), row("r", team="ba")],
    ],
)
def test_a_log_that_cannot_be_is_refused(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    with pytest.raises(ExperimentRefused, match=f"row {len(rows)}"):
        read_shown(shown_file(tmp_path, rows), "k")


def test_wrong_kinds_and_files_end_with_what_to_do(tmp_path: Path) -> None:
    shown = shown_file(tmp_path, [row("r1")])
    assert run("interleaved", "k", shown, feedback(tmp_path, []), "--kind", "view")[0] == 2
    assert run("interleaved", "k", shown, tmp_path / "none.parquet")[0] == 2


def test_two_run_files_become_mixed_orders(tmp_path: Path) -> None:
    for name, order in (("a.run", "pqr"), ("b.run", "rqp")):
        lines = [f"q1 Q0 {product} {at} {9 - at} x" for at, product in enumerate(order, start=1)]
        (tmp_path / name).write_text("\n".join(lines))
    out = tmp_path / "mixed.jsonl"
    code, text = run(
        "mix", "k", tmp_path / "a.run", tmp_path / "b.run", "--out", out, "--places", "2", "--json"
    )
    assert code == 0 and json.loads(text) == {"orders": 20, "queries": 1}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {tuple(one["team"]) for one in rows} == {("a", "b"), ("b", "a")}
    assert all(one["order"] == (["p", "r"] if one["team"][0] == "a" else ["r", "p"]) for one in rows)
    (tmp_path / "b.run").write_text("q1 Q0 p\n")
    assert run("mix", "k", tmp_path / "a.run", tmp_path / "b.run", "--out", out)[0] == 2
    with pytest.raises(ExperimentRefused, match="in common"):
        list(mixed("k", {"q": ["p"]}, {"r": ["p"]}, places=2, draws=1, seed=0))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "a", "b", "x"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@settings(derandomize=True, max_examples=60)
@given(anything, anything, anything)
def test_whatever_a_log_holds_is_a_draft_or_refused(
    tmp_path_factory: pytest.TempPathFactory, receipt: Any, order: Any, team: Any
) -> None:
    path = shown_file(
        tmp_path_factory.mktemp("shown"), [{"receipt_id": receipt, "order": order, "team": team}]
    )
    try:
        found = read_shown(path, "k")
    except (ExperimentRefused, ProductFileError):
        return
    (shown,) = found.values()
    assert len(set(shown.order)) == len(shown.team) > 0 and set(shown.team) <= {"a", "b"}
