"""The model card, and the bundle it goes with.

Everything a card says comes from the files of the run; nothing is typed in by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from muster.bundle import Manifest
from training.calibrate import untrained_scores
from training.export import cross_models, write
from training.recipe import CROSS_TIERS, Recipe
from training.signals import load_lists

COMMAND = "muster train --data DIR --out BUNDLE --recipe FILE"


def write_final(recipe: Recipe, run: Path, out: Path) -> Manifest:
    """Write the gated and calibrated bundle.

    Raises: FileNotFoundError where a stage has not run; BundleError.
    """
    calibration = json.loads((run / "calibration.json").read_text())
    plans = [
        {key: value for key, value in plan.items() if key != "kept"}
        for plan in calibration["plans"]
        if plan["kept"]
    ]
    rankers = {path.stem: path for path in sorted((run / "earn").glob("*.txt"))}
    used = {plan["tier"] for plan in plans}
    # The late tier's order decides what a cross-encoder sees, so its ranker stays where that tier is planned.
    below = {"late"} if used & set(CROSS_TIERS) else set()
    rankers = {tier: path for tier, path in rankers.items() if tier in used | below}
    card = make_card(recipe, run, calibration)
    return write(
        recipe,
        run,
        out,
        name=recipe.name,
        plans={"plans": plans},
        card=card,
        card_text=card_text(card),
        rankers=rankers,
        crosses={tier: path for tier, path in cross_models(run).items() if tier in used},
    )


def make_card(recipe: Recipe, run: Path, calibration: Mapping[str, Any]) -> dict[str, Any]:
    """The card for machines."""
    data = json.loads((run / "prepared" / "data.json").read_text())
    gate = json.loads((run / "earn" / "report.json").read_text())
    names, lists = load_lists(run / "rank" / "signals.npz")
    return {
        "name": recipe.name,
        "seed": recipe.seed,
        "folds": recipe.folds,
        "pretrained": recipe.pretrained,
        "licences": recipe.licences,
        "data": data["sets"],
        "dropped_for_leakage": data["dropped_for_leakage"],
        "vocabulary": data["vocabulary"],
        "quantised": json.loads((run / "onnx" / "report.json").read_text()),
        "metric": "nDCG@10, linear gain, unjudged = 0, out of fold over the queries of the splits "
        + " and ".join(recipe.rank.splits),
        "gate": gate["rule"],
        "tiers": gate["tiers"],
        "nested": gate["nested"],
        "untrained": untrained_scores(names, lists),
        "plans": calibration["plans"],
        "agreement_with_engine": calibration["agreement_with_engine"],
        "interval": recipe.plans.interval,
        "search": _report_of(run / "search" / "report.json"),
        "overfitting": overfitting(_report_of(run / "teacher" / "report.json")),
        "command": COMMAND,
        "evaluate": "muster evaluate BUNDLE --data DIR/SET --split dev --json",
    }


def card_text(card: Mapping[str, Any]) -> str:
    """The card for people, Markdown."""
    lines = [
        f"# {card['name']}",
        "",
        "Ranks shop products for English queries, in tiers from cheap to dear. Made for retail titles and",
        "short queries, not for other languages or long text.",
        "",
        f"All figures: {card['metric']}; intervals: {card['interval']:.0%} bootstrap over queries.",
        "",
        "## What earned its place",
        "",
        card["gate"],
        "",
        "| tier | earned | against | difference | its ranker against its own score |",
        "|---|---|---|---|---|",
    ]
    for tier, entry in card["tiers"].items():
        if "ranker" not in entry:
            lines.append(f"| {tier} | no: {entry['why']} | | | |")
            continue
        over = entry.get("over_cheaper")
        ranker = entry["ranker"]
        lines.append(
            f"| {tier} | {_entered(entry)} | {entry.get('over', '')} | {_gap(over) if over else ''}"
            f"{', inside the noise' if entry.get('inside_noise') else ''} | "
            f"{_yes(ranker['earned'])}: {_gap(ranker['over_own_score'])} |"
        )
    sets = sorted(next(iter(card["untrained"].values()))["judged"])
    head = [f"{name}, {setting}" for name in sets for setting in ("catalogue", "judged")]
    lines += [
        "",
        "## Tiers out of fold, beside the untrained scores",
        "",
        f"| ranking | {' | '.join(head)} |",
        f"|---|{'---|' * len(head)}",
    ]
    for name, settings in card["untrained"].items():
        cells = [f"{settings[setting][one]:.3f}" for one in sets for setting in ("catalogue", "judged")]
        lines.append(f"| ({name}, untrained) | {' | '.join(cells)} |")
    for tier, entry in card["tiers"].items():
        if "out_of_fold" in entry:
            cells = [
                _interval(entry["out_of_fold"][setting][one])
                for one in sets
                for setting in ("catalogue", "judged")
            ]
            lines.append(f"| {tier} | {' | '.join(cells)} |")
    lines += ["", *_nested_lines(card["nested"], sets)]
    lines += [
        "",
        "## Plans",
        "",
        "Expected nDCG@10 is the mean of both settings, each set counting the same. A plan worth no more",
        "than a cheaper one is left out. A plan's gain over the best cheaper one is shrunk by its",
        "uncertainty; `measured` is what the queries said.",
        *_admitted_lines(card["tiers"]),
        "",
        "| tier | depth | expected | measured | cost, ms | in the bundle |",
        "|---|---|---|---|---|---|",
    ]
    for plan in card["plans"]:
        lines.append(
            f"| {plan['tier']} | {plan['depth']} | {plan['expected_ndcg']:.3f} "
            f"[{plan['low']:.3f}, {plan['high']:.3f}] | {plan['measured_ndcg']:.3f} | "
            f"{plan['cost_ms']:.1f} | {_yes(plan['kept'])} |"
        )
    lines += [*deadline_lines(card.get("search")), *overfitting_lines(card.get("overfitting"))]
    lines += [
        "",
        "## Data and licences",
        "",
        "| set | products | labels | licence | source |",
        "|---|---|---|---|---|",
    ]
    for name, one in card["data"].items():
        lines.append(f"| {name} | {one['products']} | {one['labels']} | {one['licence']} | {one['source']} |")
    lines += [f"| {card['pretrained']} | | | {'; '.join(card['licences'])} | pretrained weights |"]
    lines += [
        "",
        "Training queries dropped because an evaluation query has the same words: "
        f"{card['dropped_for_leakage']}.",
        "",
        "## How it was made",
        "",
        f"Seed {card['seed']}, {card['folds']} folds.",
        "",
        "```",
        card["command"].replace("; ", "\n"),
        "```",
        "",
        f"Measure it: `{card['evaluate']}`.",
        "",
    ]
    return "\n".join(lines)


def _admitted_lines(tiers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the expected nDCG of a tier is that the recipe let in."""
    admitted = [tier for tier, entry in tiers.items() if entry.get("admitted")]
    if not admitted:
        return []
    return [
        f"Admitted without earning it, to compare servers: {', '.join(admitted)}. What is expected of its",
        "plans is a hair more than of the best cheaper one, so that a planner with time to spare takes them;",
        "only `measured` says what they are worth.",
    ]


def _nested_lines(nested: Mapping[str, Any], sets: Sequence[str]) -> list[str]:
    """The choice measured on queries that had no part in it."""
    often = ", ".join(f"{tier} {times} times" for tier, times in nested["chosen"].items())
    known = {
        "library_fusion": "library fusion, of well-known libraries with their defaults (bm25s, the pretrained"
        " model over 256 tokens, reciprocal ranks)",
        "plain_fusion": "plain fusion, this engine's, untuned and with all text alike",
        "fusion": "fusion, the tier hybrid",
    }
    fusions = [name for name in known if name in nested]
    lines = [
        "## The best plan on queries that had no part in the choice",
        "",
        f"Nested folds ({nested['folds']} folds in {nested['partitions']} partitions): without a fold's",
        "queries rankers are trained and the gate decides; the best plan that comes out is measured on them,",
        f"and so are fusions of BM25 with the encoder. The dearest tier that entered: {often}.",
        "",
        *(f"- {known[name]}" for name in fusions),
        "",
        "| set | setting | best plan |" + "".join(f" {name.replace('_', ' ')} | gain |" for name in fusions),
        f"|{'---|' * (3 + 2 * len(fusions))}",
    ]
    for setting in ("judged", "catalogue"):
        for name in (*sets, "together"):
            gaps = [_gap(nested[f"over_{fusion}"][setting][name]) for fusion in fusions]
            means = [
                "" if name == "together" else _interval(nested[which][setting][name])
                for which in ("best_plan", *fusions)
            ]
            cells = [means[0], *(cell for pair in zip(means[1:], gaps, strict=True) for cell in pair)]
            lines.append(f"| {name} | {setting} | {' | '.join(cells)} |")
    return lines


def _entered(entry: Mapping[str, Any]) -> str:
    return "no, admitted without earning it" if entry.get("admitted") else _yes(entry["earned"])


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _gap(value: Mapping[str, float]) -> str:
    return f"{value['difference']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]"


def _interval(value: Mapping[str, float]) -> str:
    return f"{value['ndcg10']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _report_of(path: Path) -> dict[str, Any] | None:
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return found


def deadline_lines(report: Mapping[str, Any] | None) -> list[str]:
    """Which cross-encoder was chosen for a deadline, and among what."""
    if report is None:
        return []
    lines = ["", "## Chosen for a deadline", "", f"Deadline: {report['deadline_ms']:g} ms.", ""]
    lines += [f"- {reason}" for reason in report["choice"]["reasons"]]
    lines += [
        "",
        f"{report['finished']} students were measured, {report['ended_early']} ended early. This is their "
        f"Pareto front over {report['queries']} queries;",
        "what was chosen need not lie on it, since a sure gain counts for more than a mean.",
        "",
        f"What is measured is {report['quality']}.",
        "",
        f"Milliseconds are {report['milliseconds']}.",
        "",
        "| student | ms | nDCG@10 | over dense and late scores alone |",
        "|---|---|---|---|",
    ]
    for at in report["front"]:
        point = report["points"][at]
        gain = point["over_cheap"]
        over = f"{gain['ndcg10']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]" if point["depth"] else ""
        chosen = " (chosen)" if at == report["choice"]["point"] else ""
        lines.append(f"| {point['name']}{chosen} | {point['ms']:.1f} | {_interval(point)} | {over} |")
    return lines


def overfitting(report: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """nDCG@10 of the teachers before and after training, mean over them; None where it is not known."""
    curves = [member["curves"] for member in (report or {}).get("members", [])]
    sides = ("train", "unseen")
    whole = [one for one in curves if all(one.get(f"{side} ndcg10") for side in sides)]
    if not whole:
        return None
    ends = {side: [one[f"{side} ndcg10"][-1][1] for one in whole] for side in sides}
    starts = {side: [one[f"{side} ndcg10"][0][1] for one in whole] for side in sides}
    return {
        "teachers": len(whole),
        "before": {side: round(sum(values) / len(whole), 4) for side, values in starts.items()},
        "end": {side: round(sum(values) / len(whole), 4) for side, values in ends.items()},
    }


def overfitting_lines(found: Mapping[str, Any] | None) -> list[str]:
    """What `overfitting` found, as a section of the card."""
    if found is None:
        return []
    before, end = found["before"], found["end"]
    learnt, kept = (end[side] - before[side] for side in ("train", "unseen"))
    return [
        "",
        "## Overfitting",
        "",
        f"Mean nDCG@10 of {found['teachers']} teachers, on small samples of both sides:",
        "",
        "| queries | before training | at its end | gain |",
        "|---|---|---|---|",
        f"| they learn from | {before['train']:.3f} | {end['train']:.3f} | {learnt:+.3f} |",
        f"| of the fold they never see | {before['unseen']:.3f} | {end['unseen']:.3f} | {kept:+.3f} |",
        "",
        f"The gains differ by {learnt - kept:+.3f}: what is above 0 is learnt by heart. Figures of teachers",
        "and students elsewhere in this card are of queries that they never saw.",
    ]
