"""Trials: students that start from the teachers, each with what it is worth and what it costs.

A trial is one student (`training.distil.student`): some of the teacher's layers, a share of their
feed-forward neurons, trained or not. Its worth is nDCG@10 of queries that it and its teacher never saw, where
it re-ranks the first products by dense and late scores, in int8 as exported, one pair at a time as served.
Its cost is the time of those pairs at the median length, beside the teacher's in the same rounds. Optuna
looks for both at once; the whole teacher as it is comes first, the smallest student second.

Quality is measured fold by fold, and a trial that can no longer win is ended after a fold. Optuna has no
pruner for two objectives: its pruners compare one figure at one step, while here a poor figure is no reason
to stop as long as it is cheap. So `beaten` decides, and the trial ends with `optuna.TrialPruned`.

What is drawn for a trial follows from the seed and the trials that are done, so a search that was killed goes
on as if it had not been. Two searches draw the same as long as they measure the same: milliseconds vary.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm  # type: ignore[import-untyped]

from training.choice import INTERVAL, Option
from training.compression import Request, time_requests
from training.data.batches import pair_batch, text_batch
from training.distil import Sources, student, taught
from training.measure import difference
from training.models.networks import CrossEncoder
from training.models.pruning import parameters, spread_layers
from training.prune import load_model, whole_files
from training.quality import (
    Quality,
    cheap_scores,
    judged_lists,
    judged_products,
    onnx_scorer,
    product_vectors,
    reranked_quality,
    text_encoder,
)
from training.quantise import calibration_batches, export_int8, export_model, open_session
from training.recipe import CrossRecipe, Recipe, RecipeError, StudentRecipe
from training.teacher import member_folder

# Chosen at random before the sampler learns from what was measured.
_RANDOM_TRIALS = 8
_ROUNDS = 60
# Cross-encoders lie gzip-compressed in a bundle: a measured share of one byte a weight.
_STORED_SHARE = 0.82
_WHOLE = "all"


@dataclass(frozen=True)
class Rival:
    """A finished trial, at the depth that is compared. ms: of a request; quality: of all folds."""

    name: str
    ms: float
    quality: Quality


def beaten(
    quality: Quality, ms: float, finished: Sequence[Rival], *, seed: int, rounds: int = 2000
) -> str | None:
    """Why a trial cannot win any more, None while it can.

    quality: of its folds so far. The best of the finished trials that are no dearer is compared on the same
    queries: the trial is beaten where its mean, raised by half the width of the interval of their difference,
    is still below. So a trial goes on as long as chance may be what holds it back.
    """
    best: tuple[float, Rival] | None = None
    for one in finished:
        if one.ms <= ms:
            gap = difference(_same_queries(one.quality, quality), quality, seed=seed, rounds=1).mean
            if best is None or gap > best[0]:
                best = (gap, one)
    if best is None:
        return None
    ahead = difference(
        _same_queries(best[1].quality, quality), quality, seed=seed, rounds=rounds, interval=INTERVAL
    )
    if ahead.mean <= (ahead.high - ahead.low) / 2.0:
        return None
    return (
        f"{best[1].name} is {ahead.mean:.4f} [{ahead.low:.4f}, {ahead.high:.4f}] better on the same queries "
        "and no dearer"
    )


def settings_of(recipe: Recipe, params: Mapping[str, Any], layers: int) -> StudentRecipe:
    """What a student is trained with. params: of its trial. layers: of the teacher.

    What is not searched is as in the recipe's first student, or as in its teacher.
    """
    base: CrossRecipe = next(iter(recipe.students().values()), recipe.teacher)
    search = recipe.search
    trained = params["training"] != "none"
    own = {one.name: getattr(base, one.name) for one in fields(CrossRecipe)}
    return replace(
        StudentRecipe(**own),
        start="teacher",
        layers=chosen_layers(params["layers"], layers),
        inner=params["inner"],
        epochs=1 if trained else 0,
        steps=search.steps if trained else 0,
        pairs=search.pairs if trained else 0,
        augmented=params["training"] == "labels and edits",
        learning_rate=params.get("learning_rate", base.learning_rate),
        dropout=params.get("dropout", 0.0),
        weight_decay=params.get("weight_decay", base.weight_decay),
        keep_share=params.get("keep_share", 0.0),
        minutes_max=search.minutes_max / search.folds,
    )


def chosen_layers(name: str, layers: int) -> list[int]:
    """Places of the teacher's layers: "all", "first N", or "N spread"."""
    if name == _WHOLE:
        return list(range(layers))
    if name.startswith("first "):
        return list(range(int(name.removeprefix("first "))))
    return spread_layers(layers, int(name.removesuffix(" spread")))


def layer_choices(recipe: Recipe, layers: int) -> list[str]:
    """Names of the sets of layers that a student may have, the largest first."""
    counts = sorted({count for count in recipe.search.layers if count < layers}, reverse=True)
    return [_WHOLE, *(name for count in counts for name in (f"{count} spread", f"first {count}"))]


class Trials:
    """The trials of one study: asked for, measured, and read back."""

    def __init__(self, recipe: Recipe, run: Path, study: optuna.Study) -> None:
        self.recipe, self.study = recipe, study
        self.depths = sorted(recipe.plans.cross_depths)
        self.depth = self.depths[len(self.depths) // 2]
        self._run = run
        self._sources = Sources.of(recipe, run)
        self._folder = Path(tempfile.mkdtemp(prefix="muster-search-"))
        config = json.loads((member_folder(run, 0, 0) / "config.json").read_text())
        self.layers = int(config["num_hidden_layers"])
        lists = judged_lists(recipe, self._sources.prepared)
        self.lists = [one for one in lists if one.fold < recipe.search.folds]
        if not self.lists:
            raise RecipeError("search.folds: no query of these folds has a relevant product; raise it")
        self._products = judged_products(recipe, self._sources.prepared, self.lists)

    def close(self) -> None:
        """Remove what was exported."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def reference(self) -> dict[str, float]:
        """What all trials are counted with, measured once a study.

        Returns: "query_ms", of encoding a query of the median length; "pair_ms", of one pair by the whole
        teacher; "encoder_bytes".
        """
        found: dict[str, float] | None = self.study.user_attrs.get("reference")
        if found is None:
            whole, query = self._median_ms([self._teacher_request, self._query_request])
            found = {
                "query_ms": query,
                "pair_ms": whole,
                "encoder_bytes": self._encoder_files[0].stat().st_size,
            }
            self.study.set_user_attr("reference", found)
        return found

    def run_all(self) -> None:
        """Run trials until as many as the recipe wants are finished or ended early."""
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            # Only a kill leaves a trial so; what it was about is tried again.
            self.study.tell(trial.number, state=TrialState.FAIL)
            self.study.enqueue_trial({**trial.system_attrs.get("fixed_params", {}), **trial.params})
        total = self.recipe.search.trials
        with tqdm(total=total, initial=min(total, self.done()), desc="students", unit="student") as bar:
            while self.done() < total:
                done = self.done()
                if done < 2 and not self.study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
                    self.study.enqueue_trial(self._first_two()[done])
                # From the trials that are done alone, so that a search that was killed draws the same.
                self.study.sampler = optuna.samplers.TPESampler(
                    n_startup_trials=_RANDOM_TRIALS, seed=self.recipe.seed + done
                )
                self.study.optimize(self._measure, n_trials=1)
                bar.update()

    def done(self) -> int:
        """Trials that finished or were ended early."""
        return len(self.ended())

    def ended(self) -> list[FrozenTrial]:
        """Trials that finished or were ended early, as they came."""
        return self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])

    def finished(self) -> list[FrozenTrial]:
        """Trials whose every fold was measured."""
        return [trial for trial in self.ended() if trial.state == TrialState.COMPLETE]

    @cached_property
    def cheap(self) -> Quality:
        """nDCG@10 of the dense and late scores alone."""
        return reranked_quality(
            self.lists, self._cheap, self._products, lambda _, rows: [0.0] * len(rows), [1]
        )[1]

    def ms(self, trial: FrozenTrial, depth: int) -> float:
        """Of a request that a trial's student re-ranks."""
        reference = self.reference()
        return reference["query_ms"] + depth * reference["pair_ms"] * float(trial.user_attrs["cost"])

    def options(self) -> list[Option]:
        """Every finished student with every depth."""
        encoder_bytes = int(self.reference()["encoder_bytes"])
        return [
            Option(
                trial=trial.number,
                name=trial.user_attrs["name"],
                depth=depth,
                ms=self.ms(trial, depth),
                bundle_bytes=encoder_bytes + int(_STORED_SHARE * trial.user_attrs["parameters"]),
                quality=trial.user_attrs["quality"][str(depth)],
            )
            for trial in self.finished()
            if "again" not in trial.user_attrs
            for depth in self.depths
        ]

    def _first_two(self) -> list[dict[str, Any]]:
        """The whole teacher and the smallest student, neither of them trained further."""
        names = [name for name in layer_choices(self.recipe, self.layers) if not name.startswith("first")]
        narrowest = min([1.0, *self.recipe.search.inner])
        students = list(self.recipe.students().values())
        kept = min(students[-1].keep_share, self.recipe.search.keep_share_max) if students else 0.0
        return [
            {"layers": _WHOLE, "inner": 1.0, "training": "none", "keep_share": kept},
            {"layers": names[-1], "inner": narrowest, "training": "none", "keep_share": 0.0},
        ]

    def _drawn(self, trial: optuna.Trial) -> dict[str, Any]:
        search = self.recipe.search
        trial.suggest_categorical("layers", layer_choices(self.recipe, self.layers))
        trial.suggest_categorical("inner", sorted({1.0, *search.inner}, reverse=True))
        edits = ["labels and edits"] if self._sources.augmented else []
        training = trial.suggest_categorical("training", [*edits, "labels", "none"])
        trial.suggest_float("keep_share", 0.0, search.keep_share_max)
        if training != "none":
            trial.suggest_float("learning_rate", *search.learning_rates, log=True)
            trial.suggest_float("dropout", 0.0, search.dropout_max)
            trial.suggest_float("weight_decay", 0.0, search.weight_decay_max)
        return dict(trial.params)

    def _measure(self, trial: optuna.Trial) -> tuple[float, float]:
        """One trial. Returns: nDCG@10 and milliseconds, both at the middle depth."""
        params = self._drawn(trial)
        again = next((one for one in self.ended() if one.params == params), None)
        if again is not None:
            return self._as_before(trial, again)
        began = time.monotonic()
        settings = settings_of(self.recipe, params, self.layers)
        name = f"student {len(self.ended()) + 1}: {_described(params, self.layers)}"
        trial.set_user_attr("name", name)
        trial.set_user_attr("settings", asdict(settings))
        quality: dict[int, Quality] = {depth: {} for depth in self.depths}
        kind: str | None = None
        for fold in range(self.recipe.search.folds):
            seed = self.recipe.seed + 400 + fold
            try:
                model = student(self._sources, settings, fold, seed=seed, name=f"{name}, fold {fold}")
            except FloatingPointError as error:
                trial.set_user_attr("why", str(error))
                raise optuna.TrialPruned(str(error)) from error
            path = self._folder / "student.onnx"
            batches = calibration_batches(
                self.recipe.quantise, model, self._sources.texts, self.recipe.seed + 300
            )
            kind = export_int8(self.recipe.quantise, model, path, batches, kind)
            session = open_session(path)
            if fold == 0:
                trial.set_user_attr("parameters", parameters(model) - model.stack.words.weight.numel())
                trial.set_user_attr("cost", self._cost(params, settings, session))
            self._add_fold(quality, fold, session)
            trial.set_user_attr("quality", quality)
            trial.set_user_attr("minutes", round((time.monotonic() - began) / 60.0, 2))
            if fold + 1 < self.recipe.search.folds:
                self._end_if_beaten(trial, quality[self.depth])
        return mean_of_sets(quality[self.depth]), self._ms_of(trial, self.depth)

    def _as_before(self, trial: optuna.Trial, again: FrozenTrial) -> tuple[float, float]:
        """The sampler may ask for the same once more: nothing new would come of it."""
        for key, value in {**again.user_attrs, "again": again.number}.items():
            trial.set_user_attr(key, value)
        if again.state == TrialState.PRUNED:
            raise optuna.TrialPruned(again.user_attrs.get("why", ""))
        worth, cost = again.values
        return worth, cost

    def _add_fold(
        self, quality: dict[int, Quality], fold: int, session: onnxruntime.InferenceSession
    ) -> None:
        places = [at for at, one in enumerate(self.lists) if one.fold == fold]
        score = onnx_scorer(session, self._sources.pieces.specials)
        found = reranked_quality(
            [self.lists[at] for at in places],
            [self._cheap[at] for at in places],
            self._products,
            score,
            self.depths,
        )
        for depth, sets in found.items():
            for name, values in sets.items():
                quality[depth].setdefault(name, {}).update(values)

    def _end_if_beaten(self, trial: optuna.Trial, quality: Quality) -> None:
        rivals = [
            Rival(
                one.user_attrs["name"], self.ms(one, self.depth), one.user_attrs["quality"][str(self.depth)]
            )
            for one in self.finished()
        ]
        why = beaten(
            quality,
            self._ms_of(trial, self.depth),
            rivals,
            seed=self.recipe.seed,
            rounds=self.recipe.plans.bootstrap,
        )
        if why is not None:
            trial.set_user_attr("why", why)
            raise optuna.TrialPruned(why)

    def _ms_of(self, trial: optuna.Trial, depth: int) -> float:
        return self.ms(self.study.get_trials(deepcopy=False)[trial.number], depth)

    def _cost(
        self, params: Mapping[str, Any], settings: StudentRecipe, session: onnxruntime.InferenceSession
    ) -> float:
        """Time of a pair as a share of the whole teacher's, in the same rounds, so that noise cancels.

        Students of one shape cost the same, so a shape is measured once: what differs would be noise.
        """
        for one in self.ended():
            other = one.user_attrs.get("settings", {})
            shape = (len(other.get("layers", ())), other.get("inner"))
            if shape == (len(settings.layers), settings.inner) and "cost" in one.user_attrs:
                return float(one.user_attrs["cost"])
        if params["layers"] == _WHOLE and settings.inner == 1.0:
            return 1.0
        own, whole = self._median_ms([self._pair_request(session), self._teacher_request])
        return own / whole

    def _median_ms(self, requests: Sequence[Request]) -> list[float]:
        # Of the processor, not of the clock: what others do on the machine is no part of the cost.
        return [float(np.median(processor)) for _, processor in time_requests(requests, rounds=_ROUNDS)]

    @cached_property
    def lengths(self) -> tuple[int, int]:
        """Median word pieces of a query, and of a product as a cross-encoder reads it."""
        queries = [len(one.query) for one in self.lists]
        products = [len(row) for table in self._sources.pieces.sets.values() for row in table.values()]
        return max(1, int(np.median(queries))), max(1, int(np.median(products)))

    def _pair_request(self, session: onnxruntime.InferenceSession) -> Request:
        asked, offered = self.lengths
        # Which words they are does not change the time.
        batch = pair_batch([5] * asked, [[5] * offered], self._sources.pieces.specials)
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = {name: one.numpy() for name, one in zip(names, batch, strict=True)}
        return lambda: session.run(["score"], inputs)

    @cached_property
    def _teacher_request(self) -> Request:
        model = taught(self.recipe, self._run, self._sources.prepared, self._whole(), 0)
        return self._pair_request(self._exported(model, "teacher.onnx"))

    @cached_property
    def _query_request(self) -> Request:
        session = open_session(self._encoder_files[0])
        ids, mask = text_batch([[5] * self.lengths[0]], self._sources.pieces.specials)
        inputs = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        return lambda: session.run(["dense", "tokens"], inputs)

    def _whole(self) -> StudentRecipe:
        return settings_of(self.recipe, {"layers": _WHOLE, "inner": 1.0, "training": "none"}, self.layers)

    def _exported(self, model: CrossEncoder, name: str) -> onnxruntime.InferenceSession:
        path = self._folder / name
        export_model(model, path, weight_bits=self.recipe.quantise.weight_bits)
        return open_session(path)

    @cached_property
    def _encoder_files(self) -> list[Path]:
        """The encoder in int8: what ships, then one a fold where there are such."""
        made = []
        for number, source in enumerate(whole_files(self.recipe, self._run, "encoder")):
            made.append(self._folder / f"encoder{number}.onnx")
            export_model(
                load_model(source, "encoder"), made[-1], weight_bits=self.recipe.quantise.weight_bits
            )
        return made

    @cached_property
    def _cheap(self) -> list[NDArray[np.float64]]:
        """Dense and late scores of each list's judged products, as served: what all students begin with."""
        specials = self._sources.pieces.specials
        files = self._encoder_files
        encoders = [text_encoder(open_session(path), specials) for path in files[1:] or files]
        vectors = product_vectors(self.recipe, self.lists, self._products, encoders)
        return cheap_scores(self.lists, vectors, encoders)


def _described(params: Mapping[str, Any], layers: int) -> str:
    chosen, which = len(chosen_layers(params["layers"], layers)), params["layers"]
    of = f"{chosen} of {layers} layers"
    if which == _WHOLE:
        of = f"all {layers} layers"
    elif which.startswith("first "):
        of = f"first {of}"
    neurons = "" if params["inner"] == 1.0 else f", {params['inner']:.0%} of neurons"
    how = {"none": "as in the teacher", "labels": "trained", "labels and edits": "trained with edits"}
    return f"{of}{neurons}, {how[params['training']]}"


def _same_queries(quality: Quality, as_in: Quality) -> Quality:
    return {
        name: {query: quality[name][query] for query in values} for name, values in as_in.items() if values
    }


def mean_of_sets(quality: Quality) -> float:
    """Mean over queries of each set, then over sets."""
    return float(np.mean([np.mean(list(values.values())) for values in quality.values()]))
