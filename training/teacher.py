"""Teacher: for each fold, and each seed, an encoder trained on the other folds' labels.

Any Hugging Face encoder, reading query and product together ("cross") or apart ("bi"); losses, tuning and
training as the recipe's `[teacher]` says. A fold's teachers never see its labels: not in training, not to
stop early, not to standardise what they say.

One more, of all labels, is trained where a student starts from it. Writes `teacher/fold<k>-seed<s>/`,
`teacher/whole-seed<s>/` (a Hugging Face folder with adapters merged, and the score's own weights),
`teacher/fold<k>-seed<s>.parquet` (its scores of the fold it never saw), `teacher/untrained.parquet` (those of
the judged sets before any training), and from them `teacher/out_of_fold.parquet`, `teacher/report.json`,
`teacher/curves.png` and, where grades have names, what `training.classes` writes. A member that is there is
not trained again; one that was killed goes on from `teacher/fold<k>-seed<s>.checkpoint`.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from training.augment import augmented_groups, load_augmented
from training.classes import write_classes
from training.cross import Group, Pieces, labelled_groups, loop_settings
from training.curves import draw_curves
from training.data.batches import Specials, pieces_of
from training.data.folds import fold_of
from training.data.text import product_text
from training.data.whole_files import write_text
from training.loop import Figures, ParameterGroup, chosen_device, chosen_precision, half_precision, train
from training.losses import weighted_loss
from training.measure import Estimate, best_first, difference, estimate, fast_ndcg
from training.models.hub import (
    PairScorer,
    about_scorer,
    load_scorer,
    new_scorer,
    positions_max,
    save_scorer,
)
from training.models.tuning import NAMES, Tuning, TuningError, TuningSettings
from training.prepare import JudgedQuery, Prepared, load_prepared
from training.recipe import Recipe, RecipeError, TeacherRecipe, stage_arguments
from training.tracking import open_tracker

# Seeds of one fold's members lie this far apart, folds' next to each other.
_SEED_STRIDE = 1000


@dataclass(frozen=True)
class Asked:
    """A query as a teacher reads it. products: piece ids of each judged product; gains: in the same order."""

    set: str
    query_id: str
    query: list[int]
    keys: list[str]
    products: list[list[int]]
    gains: NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """Scores of judged pairs. gains as in the file; scores on the scale of whoever made them."""

    sets: list[str]
    queries: list[str]
    products: list[str]
    gains: NDArray[np.float64]
    scores: NDArray[np.float64]

    def write(self, path: Path) -> None:
        """As Parquet, moved into place last."""
        part = path.with_suffix(".part")
        columns = {"set": self.sets, "query_id": self.queries, "product_id": self.products}
        pq.write_table(pa.table({**columns, "gain": self.gains, "score": self.scores}), part)
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> Scored:
        """What `write` wrote."""
        table = pq.read_table(path)
        sets, queries, products = (table[name].to_pylist() for name in ("set", "query_id", "product_id"))
        return cls(sets, queries, products, table["gain"].to_numpy(), table["score"].to_numpy())

    def pairs(self) -> list[tuple[str, str, str]]:
        """(set, query id, product id) of each."""
        return list(zip(self.sets, self.queries, self.products, strict=True))


def training_queries(recipe: Recipe, prepared: Prepared, without: int | None) -> list[JudgedQuery]:
    """Labelled training queries, without those of one fold (None: all of them)."""
    return [
        query
        for query in prepared.queries
        if query.split == "train"
        and query.gains
        and (without is None or fold_of(query.set, query.query_id, recipe.folds, recipe.seed) != without)
    ]


def fold_queries(recipe: Recipe, prepared: Prepared, fold: int) -> list[JudgedQuery]:
    """Labelled training queries of one fold."""
    return [
        query
        for query in training_queries(recipe, prepared, None)
        if fold_of(query.set, query.query_id, recipe.folds, recipe.seed) == fold
    ]


def member_folder(run: Path, fold: int | None, seed: int) -> Path:
    """Where a teacher is written. fold: whose labels it never saw, None: it saw all. seed: from 0."""
    return run / "teacher" / f"{'whole' if fold is None else f'fold{fold}'}-seed{seed}"


def train_teachers(recipe: Recipe, run: Path) -> list[Path]:
    """Run the stage. Returns the folders of all members, fold by fold.

    Raises: RecipeError; PretrainedError where the encoder cannot be had; what `training.loop.train` raises.
    """
    prepared = load_prepared(run)
    (run / "teacher").mkdir(parents=True, exist_ok=True)
    untrained = run / "teacher" / "untrained.parquet"
    if not untrained.is_file():
        scorer, tokenizer = _new(recipe)
        reader = _Reader(recipe, prepared, tokenizer, scorer)
        measured = {one.name for one in recipe.judged()}
        asked = [query for query in training_queries(recipe, prepared, None) if query.set in measured]
        scorer.to(chosen_device(recipe.teacher.device)).eval()
        _scored(recipe, scorer, reader.judged(asked)).write(untrained)
    folders = []
    # One of all labels is of use only as the start of a student that ships.
    students = recipe.students().values()
    starts = recipe.search.trials > 0 or any(student.start == "teacher" for student in students)
    for fold in (*range(recipe.folds), *((None,) if starts else ())):
        for seed in range(recipe.teacher.seeds):
            folder = member_folder(run, fold, seed)
            if not folder.is_dir():
                _train_member(recipe, run, prepared, fold, seed)
            elif about_scorer(folder).about["settings"] != _fingerprint(recipe):
                print(f"{folder} was trained with other settings: remove it to train it again")
            folder.with_suffix(".checkpoint").unlink(missing_ok=True)
            folders.append(folder)
    write_report(recipe, run)
    draw_curves(run, "teacher")
    return folders


def _new(recipe: Recipe) -> tuple[PairScorer, Tokenizer]:
    settings = recipe.teacher
    try:
        return new_scorer(settings.pretrained or recipe.pretrained, settings.kind, layers=settings.layers)
    except ValueError as error:
        raise RecipeError(f"teacher.{error}") from error


class _Reader:
    """Queries and products as a teacher's own tokenizer cuts them."""

    def __init__(self, recipe: Recipe, prepared: Prepared, tokenizer: Tokenizer, scorer: PairScorer) -> None:
        self.recipe = recipe
        self.prepared = replace(prepared, tokenizer=tokenizer)
        tokens_max = recipe.teacher.product_tokens_max or recipe.text.cross_tokens_max
        room = positions_max(scorer) - recipe.text.query_tokens_max - 4
        if tokens_max > room:
            raise RecipeError(
                f"teacher.product_tokens_max: {tokens_max} tokens of a product beside "
                f"{recipe.text.query_tokens_max} of a query are more than this encoder reads: at most {room}"
            )
        sets = {}
        for name, products in prepared.products.items():
            texts = [product_text(product, recipe.text.cross_fields) for product in products.values()]
            sets[name] = dict(zip(products, pieces_of(tokenizer, texts, tokens_max), strict=True))
        # A teacher frames its texts itself: only the padding of these specials is ever used.
        self.pieces = Pieces(sets, Specials(scorer.frame.pad, 0, 0))

    def query(self, text: str) -> list[int]:
        return pieces_of(self.prepared.tokenizer, [text], self.recipe.text.query_tokens_max)[0]

    def judged(self, queries: Sequence[JudgedQuery]) -> list[Asked]:
        """Queries with those of their judged products that the catalogue has; without any, left out."""
        found = []
        for query in queries:
            of_set = self.pieces.sets.get(query.set, {})
            keys = [key for key in query.gains if key in of_set]
            if keys:
                gains = np.array([query.gains[key] for key in keys])
                asked = self.query(query.text)
                products = [of_set[key] for key in keys]
                found.append(Asked(query.set, query.query_id, asked, keys, products, gains))
        return found


def _train_member(recipe: Recipe, run: Path, prepared: Prepared, fold: int | None, number: int) -> None:
    settings = recipe.teacher
    folder = member_folder(run, fold, number)
    name = f"teacher/{folder.name}"
    seed = recipe.seed + (recipe.folds if fold is None else fold) + _SEED_STRIDE * number
    torch.manual_seed(seed)
    scorer, tokenizer = _new(recipe)
    reader = _Reader(recipe, prepared, tokenizer, scorer)
    queries = training_queries(recipe, prepared, fold)
    dev = _set_aside(recipe, queries)
    kept_out = {(query.set, query.query_id) for query in dev}
    taught = [query for query in queries if (query.set, query.query_id) not in kept_out]
    chooser = np.random.default_rng(seed)
    groups = labelled_groups(recipe, settings, reader.prepared, reader.pieces, taught, chooser)
    if settings.augmented:
        rows = load_augmented(run)
        groups += augmented_groups(recipe, settings, reader.prepared, reader.pieces, taught, rows, chooser)
    loop = replace(
        loop_settings(settings, "teacher"),
        evaluate_steps=settings.evaluate_steps,
        patience=settings.patience,
    )
    updates = -(-settings.epochs * len(groups) // settings.accumulate)
    tuning = _tuned(settings, scorer, updates)
    scorer.encoder = tuning.encoder
    heads = [one for one in (scorer.head.weight, scorer.head.bias, scorer.mix) if one.requires_grad]
    known = {id(one) for one in heads}
    body = [one for one in scorer.parameters() if one.requires_grad and id(one) not in known]
    weights = settings.weights()

    def loss_of(group: Group) -> Tensor:
        scores = scorer(group.query, group.products)
        targets = torch.tensor(group.targets, device=scores.device)
        return weighted_loss(scores, targets, weights) + tuning.penalty()

    unseen = [] if fold is None else fold_queries(recipe, prepared, fold)
    samples = {"train": taught, "unseen": unseen}
    if dev:
        samples["dev"] = dev
    shown = {split: _sample(recipe, reader.judged(of_split), seed) for split, of_split in samples.items()}
    shown = {split: sample for split, sample in shown.items() if sample}
    if settings.patience and "dev" not in shown:
        raise RecipeError("teacher.dev_share sets no query aside that has a relevant product: raise it")

    def evaluate() -> Figures:
        return {(split, "ndcg10"): _mean_ndcg(scorer, sample) for split, sample in shown.items()}

    with open_tracker(recipe.tracking, run, name) as tracker:
        outcome = train(
            scorer,
            groups,
            loss_of,
            [
                ParameterGroup(body, settings.learning_rate),
                ParameterGroup(heads, settings.head_learning_rate, clipped=False),
            ],
            loop,
            name=name,
            seed=seed,
            checkpoint=folder.with_suffix(".checkpoint"),
            about={"teacher": _fingerprint(recipe)},
            evaluate=evaluate,
            watch=("dev", "ndcg10") if "dev" in shown else None,
            companion=tuning,
            tracker=tracker,
        )
    scorer.encoder = tuning.merged()
    device = chosen_device(settings.device)
    scored = _scored(recipe, scorer.to(device).eval(), reader.judged(unseen))
    scorer.to("cpu")
    scored.write(folder.with_suffix(".parquet"))
    judged = {one.name for one in recipe.judged()}
    known_scores = scored.scores[[name in judged for name in scored.sets]]
    about = {
        "settings": _fingerprint(recipe),
        "fold": fold,
        "seed": seed,
        "steps": outcome.steps,
        "stopped": outcome.stopped,
        "kept_step": outcome.best_step,
        "minutes": round(outcome.minutes, 2),
        "device": outcome.device,
        "precision": outcome.precision,
        "memory_mib_max": round(outcome.memory_mib_max, 1),
        "parameters_trained": outcome.parameters,
        "training_queries": len(taught),
        "curves": [list(point) for point in outcome.curves],
        # Of the judged products of the fold it never saw: no label is used.
        "score_mean": float(known_scores.mean()) if len(known_scores) else 0.0,
        "score_deviation": float(known_scores.std()) if len(known_scores) > 1 else 1.0,
    }
    save_scorer(folder, scorer, tokenizer, about)


def _tuned(settings: TeacherRecipe, scorer: PairScorer, updates: int) -> Tuning:
    wanted = TuningSettings(
        settings.tuning,
        settings.rank,
        settings.alpha,
        settings.dropout,
        settings.target_modules,
        settings.freeze_words,
    )
    try:
        return Tuning(scorer.encoder, wanted, steps_total=updates)
    except TuningError as error:
        raise RecipeError(f"teacher: {error}") from error


def _set_aside(recipe: Recipe, queries: Sequence[JudgedQuery]) -> list[JudgedQuery]:
    """The recipe's share of each judged set's queries with a relevant product, by their identity alone."""
    if not recipe.teacher.dev_share:
        return []
    chosen = []
    for one in recipe.judged():
        of_set = [query for query in queries if query.set == one.name and max(query.gains.values()) > 0]
        of_set.sort(key=lambda query: fold_of(query.set, query.query_id, 2**32, recipe.seed + 1))
        chosen += of_set[: math.ceil(recipe.teacher.dev_share * len(of_set))]
    return chosen


def _sample(recipe: Recipe, asked: Sequence[Asked], seed: int) -> list[Asked]:
    """A few scorable queries of the judged sets, each set in turn, with a few of their products."""
    chooser = np.random.default_rng(seed)
    by_set = {
        one.name: [
            query for query in asked if query.set == one.name and query.gains.max() > query.gains.min()
        ]
        for one in recipe.judged()
    }
    for queries in by_set.values():
        chooser.shuffle(queries)
    turns = [
        query for at in range(len(asked)) for queries in by_set.values() for query in queries[at : at + 1]
    ]
    sample = []
    for query in turns[: recipe.teacher.evaluate_queries]:
        places = chooser.permutation(len(query.keys))[: recipe.teacher.evaluate_products]
        gains = query.gains[places]
        if gains.max() > 0:
            products = [query.products[at] for at in places]
            keys = [query.keys[at] for at in places]
            sample.append(replace(query, keys=keys, products=products, gains=gains))
    return sample


def _mean_ndcg(scorer: PairScorer, sample: Sequence[Asked]) -> float:
    values = []
    for one in sample:
        scores = np.array(scorer.score(one.query, one.products))
        values.append(fast_ndcg(one.gains, best_first(scores), one.gains))
    return float(np.mean(values))


def _scored(recipe: Recipe, scorer: PairScorer, asked: Sequence[Asked]) -> Scored:
    device = scorer.mix.device
    precision = chosen_precision(recipe.teacher.precision, device)
    scores: list[float] = []
    with half_precision(precision, device):
        for one in tqdm(asked, desc="out-of-fold scores", mininterval=10):
            scores += scorer.score(one.query, one.products)
    return Scored(
        [one.set for one in asked for _ in one.keys],
        [one.query_id for one in asked for _ in one.keys],
        [key for one in asked for key in one.keys],
        np.concatenate([one.gains for one in asked]) if asked else np.zeros(0),
        np.array(scores),
    )


def _fingerprint(recipe: Recipe) -> str:
    free = ("minutes_max", "checkpoint_steps", "device", "seeds")
    settings = {key: value for key, value in asdict(recipe.teacher).items() if key not in free}
    held = [settings, recipe.pretrained, recipe.seed, recipe.folds, asdict(recipe.text)]
    held += [[one.name, one.folder, one.where, one.targets] for one in recipe.data]
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:16]


class Teachers:
    """The ensemble of a run, asked so that no label is answered from memory.

    Scores are logits of the ensemble: each member's score is standardised by the mean and deviation of its
    scores of judged products it never saw, the members' mean is taken, and that is brought back to the scale
    of the members by their average mean and deviation. With the graded loss, the sigmoid of a score estimates
    the target (0 to 1); with order losses alone only differences mean something.
    """

    def __init__(self, recipe: Recipe, run: Path) -> None:
        """Raises: FileNotFoundError naming the member that is missing and the stage to run."""
        self._recipe = recipe
        self._folders: dict[int, list[Path]] = {}
        for fold in range(recipe.folds):
            for seed in range(recipe.teacher.seeds):
                folder = member_folder(run, fold, seed)
                if not folder.is_dir():
                    raise FileNotFoundError(f"{folder} is missing: run `python -m training.teacher` first")
                self._folders.setdefault(fold, []).append(folder)
        self._loaded: dict[Path, tuple[PairScorer, Tokenizer]] = {}
        self._device = chosen_device(recipe.teacher.device)
        self._precision = chosen_precision(recipe.teacher.precision, self._device)

    def fold_for(self, query: JudgedQuery) -> int | None:
        """The fold whose teachers never saw the query; None where none of them has (all may answer)."""
        if query.split != "train" or not query.gains:
            return None
        return fold_of(query.set, query.query_id, self._recipe.folds, self._recipe.seed)

    def score(self, query: str, products: Sequence[str], *, fold: int | None) -> list[float]:
        """Scores of a query's products, higher is better.

        query: its text; products: their texts, by `product_text` of the recipe's cross fields. fold: only the
        teachers that never saw this fold's labels; None: all teachers, for queries that no teacher has seen.
        """
        if not products:
            return []
        folders = (
            self._folders[fold] if fold is not None else [one for of in self._folders.values() for one in of]
        )
        members = []
        for folder in folders:
            scorer, tokenizer = self._member(folder)
            text = self._recipe.text
            asked = pieces_of(tokenizer, [query], text.query_tokens_max)[0]
            tokens_max = self._recipe.teacher.product_tokens_max or text.cross_tokens_max
            rows = pieces_of(tokenizer, products, tokens_max)
            with half_precision(self._precision, self._device):
                members.append(np.array(scorer.score(asked, rows)))
        mixed = ensemble(members, [about_scorer(folder).about for folder in folders])
        return [float(one) for one in mixed]

    def _member(self, folder: Path) -> tuple[PairScorer, Tokenizer]:
        if folder not in self._loaded:
            scorer, tokenizer = load_scorer(folder)
            self._loaded[folder] = (scorer.to(self._device), tokenizer)
        return self._loaded[folder]


def ensemble(
    scores: Sequence[NDArray[np.float64]], about: Sequence[Mapping[str, Any]]
) -> NDArray[np.float64]:
    """Mean of the members' standardised scores, on their average scale.

    scores: [n] of each member; about: "score_mean" and "score_deviation" of each.
    """
    means = np.array([one["score_mean"] for one in about])
    deviations = np.array([max(one["score_deviation"], 1e-6) for one in about])
    standard = (np.stack(list(scores)) - means[:, None]) / deviations[:, None]
    mixed: NDArray[np.float64] = standard.mean(0) * deviations.mean() + means.mean()
    return mixed


def write_report(recipe: Recipe, run: Path) -> dict[str, Any]:
    """Out-of-fold scores of all members together, and what they are worth. Returns what report.json says."""
    folder = run / "teacher"
    seeds = range(recipe.teacher.seeds)
    members, parts, folds = [], [], []
    alone: dict[int, list[NDArray[np.float64]]] = {seed: [] for seed in seeds}
    for fold in range(recipe.folds):
        about = [about_scorer(member_folder(run, fold, seed)).about for seed in seeds]
        scored = [Scored.read(member_folder(run, fold, seed).with_suffix(".parquet")) for seed in seeds]
        if any(one.pairs() != scored[0].pairs() for one in scored):
            raise RecipeError(
                f"the teachers of fold {fold} scored other pairs: remove {folder} and run again"
            )
        mixed = ensemble([one.scores for one in scored], about)
        parts.append(replace(scored[0], scores=mixed))
        folds.append(np.full(len(mixed), fold))
        for seed in seeds:
            alone[seed].append(scored[seed].scores)
        members += [one | {"curves": _by_curve(one["curves"])} for one in about]
    whole = _joined(parts)
    fold_numbers = np.concatenate(folds)
    whole.write(folder / "out_of_fold.parquet")
    measured = {one.name for one in recipe.judged()}
    before = Scored.read(folder / "untrained.parquet")
    at = dict(zip(before.pairs(), before.scores.tolist(), strict=True))
    if any(pair[0] in measured and pair not in at for pair in whole.pairs()):
        raise RecipeError(f"{folder / 'untrained.parquet'} is of other data: remove {folder} and run again")
    untrained = np.array([at.get(pair, 0.0) for pair in whole.pairs()])
    settings = recipe.teacher
    report: dict[str, Any] = {
        "encoder": settings.pretrained or recipe.pretrained,
        "kind": settings.kind,
        "losses": settings.weights(),
        "tuning": NAMES[settings.tuning],
        "seeds": settings.seeds,
        "scale": " ".join((Teachers.__doc__ or "").split("\n\n")[1].split()),
        "members": members,
        "curves": "train, and unseen (the fold left out: shown, never used for a choice)"
        + (", dev (set aside, for early stopping)" if settings.dev_share else ""),
        "out_of_fold": _worth(recipe, whole, untrained),
    }
    if settings.seeds > 1:
        report["each_seed"] = [
            _worth(recipe, replace(whole, scores=np.concatenate(alone[seed])), untrained) for seed in seeds
        ]
    standard = _standardised(whole.scores, fold_numbers)
    report["classes"] = {}
    for one in recipe.data:
        here = np.array([name == one.name for name in whole.sets], dtype=bool)
        if one.grades and here.any():
            # Only a loss that compares scores with targets makes logits of them.
            logits = whole.scores[here] if settings.weights().get("graded") else None
            report["classes"][one.name] = write_classes(
                folder, one, whole.gains[here].tolist(), standard[here], fold_numbers[here], logits
            )
    write_text(folder / "report.json", json.dumps(report, indent=2))
    return report


def _by_curve(points: Sequence[Sequence[Any]]) -> dict[str, list[list[float]]]:
    """ "split name" to [step, value] of each point."""
    found: dict[str, list[list[float]]] = {}
    for step, split, name, value in points:
        found.setdefault(f"{split} {name}", []).append([step, round(value, 5)])
    return found


def _joined(parts: Sequence[Scored]) -> Scored:
    return Scored(
        [name for part in parts for name in part.sets],
        [key for part in parts for key in part.queries],
        [key for part in parts for key in part.products],
        np.concatenate([part.gains for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


def _standardised(scores: NDArray[np.float64], folds: NDArray[np.int64]) -> NDArray[np.float64]:
    found = np.zeros(len(scores))
    for fold in np.unique(folds):
        of_fold = scores[folds == fold]
        found[folds == fold] = (of_fold - of_fold.mean()) / max(float(of_fold.std()), 1e-6)
    return found


def _worth(recipe: Recipe, scored: Scored, untrained: NDArray[np.float64]) -> dict[str, Any]:
    """nDCG@10 of the judged products, trained and untrained, and the difference query by query."""
    after = _ndcg_by_query(recipe, scored)
    before = _ndcg_by_query(recipe, replace(scored, scores=untrained))

    def estimated(values: Mapping[str, float]) -> dict[str, float]:
        return estimate(values, seed=recipe.seed, rounds=recipe.plans.bootstrap).rounded()

    def gained(names: Sequence[str]) -> dict[str, Any]:
        gain: Estimate = difference(
            {name: after[name] for name in names},
            {name: before[name] for name in names},
            seed=recipe.seed,
            rounds=recipe.plans.bootstrap,
            interval=recipe.plans.interval,
        )
        rounded = {"difference": round(gain.mean, 4), "low": round(gain.low, 4), "high": round(gain.high, 4)}
        return rounded | {"inside_noise": gain.low <= 0 <= gain.high}

    found: dict[str, Any] = {
        name: {
            "queries": len(after[name]),
            "teacher": estimated(after[name]),
            "untrained": estimated(before[name]),
            "over_untrained": gained([name]),
        }
        for name in after
    }
    if after:
        found["together"] = {"over_untrained": gained(list(after))}
    return found


def _ndcg_by_query(recipe: Recipe, scored: Scored) -> dict[str, dict[str, float]]:
    places: dict[tuple[str, str], list[int]] = {}
    for at, (name, query, _) in enumerate(scored.pairs()):
        places.setdefault((name, query), []).append(at)
    judged = {one.name for one in recipe.judged()}
    found: dict[str, dict[str, float]] = {}
    for (name, query), members in places.items():
        gains = scored.gains[members]
        if name in judged and gains.max() > 0:
            order = best_first(scored.scores[members])
            found.setdefault(name, {})[query] = fast_ndcg(gains, order, gains)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    arguments = stage_arguments("Out-of-fold teachers.", argv)
    for path in train_teachers(arguments.recipe, arguments.run):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
