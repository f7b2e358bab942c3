"""Search: the cross-encoder for a deadline, by measured quality and measured milliseconds.

    python -m training.search --recipe FILE --data DIR --run RUN --deadline 50ms [--json]

Students that start from the teachers are measured, each in milliseconds and in nDCG@10 of queries that it
never saw (`training.trials`), until there are as many as the recipe wants; then the one that is surely worth
most among those that fit the deadline is taken (`training.choice`).

Writes `search/study.db` (a killed search goes on from it, for any deadline), `search/report.json`,
`search/pareto.png`, and `search/recipe.json`: the recipe for the stages after this one, with the student that
was taken. What `distil` and `quantise` made of another student before is removed.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from training.augment import load_augmented
from training.choice import Choice, Option, Quality, choose, front
from training.data.whole_files import write_report
from training.encoder import encoder_path
from training.measure import difference
from training.models.hub import about_scorer
from training.pareto import draw_front
from training.recipe import (
    CROSS_TIERS,
    Recipe,
    RecipeError,
    StudentRecipe,
    deadline_ms,
    load_recipe,
    recipe_tables,
    searched_recipe,
    stage_parser,
)
from training.teacher import member_folder
from training.trials import Trials, mean_of_sets

FOLDER = "search"
EXIT_BAD_INPUT = 2


def search(recipe: Recipe, run: Path, deadline: float) -> dict[str, Any]:
    """Run the stage. deadline: of a request, in milliseconds. Returns: what report.json says.

    Raises: RecipeError where nothing is to be searched, the deadline is too short, or the study in the run
    folder is of something else; FileNotFoundError naming the stage that has not run; what training raises.
    """
    if recipe.search.trials < 1:
        raise RecipeError("search.trials is 0: set it to how many students may be measured")
    _check_run(recipe, run)
    with _study(recipe, run) as study, closing(Trials(recipe, run, study)) as trials:
        query_ms = trials.reference()["query_ms"]
        if deadline * recipe.search.usable_share <= query_ms:
            least_ms = math.ceil(100.0 * query_ms / recipe.search.usable_share) / 100.0
            raise RecipeError(
                f"a deadline of {deadline:g} ms leaves no time to re-rank: {recipe.search.usable_share:.0%} "
                f"of it can be planned with, and encoding a query takes {query_ms:.2f} ms here. It must be "
                f"above {least_ms:.2f} ms"
            )
        trials.run_all()
        choice, report = _report(recipe, trials, deadline)
        _take(recipe, run, choice, trials)
    write_report(run / FOLDER / "report.json", report)
    draw_front(run / FOLDER / "pareto.png", report)
    return report


@contextmanager
def _study(recipe: Recipe, run: Path) -> Iterator[optuna.Study]:
    """The study of a run folder, begun or gone on with."""
    path = run / FOLDER / "study.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path.resolve()}")
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=recipe.name,
            directions=["maximize", "minimize"],
            load_if_exists=True,
        )
        wanted = _fingerprint(recipe, run)
        if study.user_attrs.setdefault("fingerprint", wanted) != wanted:
            raise RecipeError(
                f"{path} is of another recipe, teacher or encoder: remove {path.parent} to search again, or "
                "name another run folder"
            )
        study.set_user_attr("fingerprint", wanted)
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _fingerprint(recipe: Recipe, run: Path) -> str:
    """Of all that a trial's figures depend on: not of how many trials there are, nor of the deadline."""
    tables = recipe_tables(recipe)
    for free in ("trials", "deadline_ms", "usable_share"):
        del tables["search"][free]
    del tables["tracking"]
    members = [
        about_scorer(member_folder(run, fold, seed)).about
        for fold in range(recipe.search.folds)
        for seed in range(recipe.teacher.seeds)
    ]
    encoder = hashlib.sha256(encoder_path(run, None).read_bytes()).hexdigest()
    held = json.dumps([tables, members, encoder], sort_keys=True)
    return hashlib.sha256(held.encode()).hexdigest()


def _check_run(recipe: Recipe, run: Path) -> None:
    """Raises: FileNotFoundError naming the first stage that has not run."""
    load_augmented(run)
    for fold in (*range(recipe.folds), None):
        for seed in range(recipe.teacher.seeds):
            if not member_folder(run, fold, seed).is_dir():
                raise FileNotFoundError(
                    f"{member_folder(run, fold, seed)} is missing: run `python -m training.teacher` first"
                )
    if not encoder_path(run, None).is_file():
        raise FileNotFoundError(
            f"{encoder_path(run, None)} is missing: run `python -m training.encoder` first"
        )


def _report(recipe: Recipe, trials: Trials, deadline: float) -> tuple[Choice, dict[str, Any]]:
    search, reference = recipe.search, trials.reference()
    options = trials.options()
    choice = choose(
        options,
        trials.cheap,
        deadline_ms=deadline,
        usable_share=search.usable_share,
        query_ms=reference["query_ms"],
        seed=recipe.seed,
        rounds=recipe.plans.bootstrap,
    )
    alone = Option(-1, "dense and late scores alone", 0, reference["query_ms"], 0, trials.cheap)
    points = [_point(recipe, one, trials.cheap) for one in (alone, *options)]
    ended = trials.ended()
    report = {
        "deadline_ms": deadline,
        "usable_share": search.usable_share,
        "query_ms": round(reference["query_ms"], 3),
        "teacher_pair_ms": round(reference["pair_ms"], 3),
        "usable_ms": round(deadline * search.usable_share - reference["query_ms"], 3),
        "milliseconds": "of this machine's processor, one thread, int8: the query's encoding and so many "
        f"pairs of the median length ({sum(trials.lengths)} word pieces), one at a time; each student was "
        "timed in turn with the whole teacher, and is counted as a share of its time",
        "quality": f"nDCG@10 of the judged products, out of fold, on {search.folds} of {recipe.folds} folds; "
        "the first products by dense and late scores are re-ranked, the mean over sets is taken",
        "interval": recipe.plans.interval,
        "queries": len(trials.lists),
        "depths": trials.depths,
        "finished": len(trials.finished()),
        "ended_early": len(ended) - len(trials.finished()),
        "trials": [_told(trials, trial) for trial in ended],
        "points": points,
        "front": front([point["ms"] for point in points], [point["ndcg10"] for point in points]),
        "choice": {
            "point": None if choice.option is None else 1 + options.index(choice.option),
            "gain": None if choice.gain is None else choice.gain.rounded(),
            "reasons": choice.reasons,
        },
    }
    return choice, report


def _point(recipe: Recipe, one: Option, cheap: Quality) -> dict[str, Any]:
    nothing = {name: dict.fromkeys(values, 0.0) for name, values in one.quality.items()}
    rounds, interval = recipe.plans.bootstrap, recipe.plans.interval
    worth = difference(one.quality, nothing, seed=recipe.seed, rounds=rounds, interval=interval)
    gain = difference(one.quality, cheap, seed=recipe.seed, rounds=rounds, interval=interval)
    return {
        "trial": None if one.trial < 0 else one.trial,
        "name": str(one) if one.depth else one.name,
        "depth": one.depth,
        "ms": round(one.ms, 3),
        **worth.rounded(),
        "over_cheap": gain.rounded(),
        "bundle_mib": round(one.bundle_bytes / 2**20, 2) if one.depth else None,
    }


def _told(trials: Trials, trial: FrozenTrial) -> dict[str, Any]:
    done = trial.state == TrialState.COMPLETE
    told: dict[str, Any] = {
        "trial": trial.number,
        "name": trial.user_attrs["name"],
        "state": "finished" if done else "ended early",
        "params": trial.params,
        "minutes": trial.user_attrs.get("minutes"),
    }
    if "again" in trial.user_attrs:
        told["again"] = trial.user_attrs["again"]
    if done:
        told["ndcg10"] = round(trial.values[0], 4)
        told["ms"] = round(trial.values[1], 3)
        told["ndcg10_by_depth"] = {
            depth: round(mean_of_sets(quality), 4) for depth, quality in trial.user_attrs["quality"].items()
        }
    else:
        told["why"] = trial.user_attrs.get("why", "")
    return told


def _take(recipe: Recipe, run: Path, choice: Choice, trials: Trials) -> None:
    """Write the recipe for the stages after this one."""
    path = searched_recipe(run)
    tiers: dict[str, StudentRecipe | None] = dict.fromkeys(CROSS_TIERS)
    if choice.option is not None:
        trial = trials.study.get_trials(deepcopy=False)[choice.option.trial]
        chosen = StudentRecipe(**trial.user_attrs["settings"])
        tiers["cross_small" if len(chosen.layers) < trials.layers else "cross_large"] = chosen
    prune = replace(
        recipe.prune,
        variants=[one for one in recipe.prune.variants if one.model == "encoder"],
        ship={model: name for model, name in recipe.prune.ship.items() if model == "encoder"},
    )
    made = replace(recipe, cross_small=tiers["cross_small"], cross_large=tiers["cross_large"], prune=prune)
    before = load_recipe(path) if path.is_file() else recipe
    if before.students() != made.students():
        # Stages keep what is there, and what is there is of other students.
        for pattern in ("distil/*", "cross_small*", "cross_large*", "onnx/cross_*"):
            for old in run.glob(pattern):
                old.unlink()
    write_report(path, recipe_tables(made))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from a command line. Returns 0; 2 where it cannot be done as asked."""
    parser = stage_parser("The cross-encoder for a deadline.")
    parser.add_argument(
        "--deadline",
        type=deadline_ms,
        metavar="DURATION",
        help="of a request, like 50ms (default: search.deadline_ms of the recipe)",
    )
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    parsed = parser.parse_args(argv)
    try:
        recipe = load_recipe(parsed.recipe)
        deadline = parsed.deadline or recipe.search.deadline_ms
        if not deadline:
            raise RecipeError("name a --deadline, like 50ms, or set search.deadline_ms")
        report = search(recipe, parsed.run, deadline)
    except (RecipeError, FileNotFoundError) as error:
        print(f"search: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    print(json.dumps(report, indent=2) if parsed.json else "\n".join(report["choice"]["reasons"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
