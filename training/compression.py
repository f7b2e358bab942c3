"""Compression: what each smaller model costs, and what it keeps of the teacher.

    python -m training.compression --recipe FILE --data DIR --run RUN

Cost is counted for the same request in every row: one query and 32 products of 32 tokens.

- a cross-encoder reads the 32 pairs together, 32 tokens each;
- an encoder reads the query alone (8 tokens), and late interaction compares it with the 32 products, whose
  vectors the index holds already: query encoding plus MaxSim. MaxSim is counted in numpy float32, dearer than
  the engine's int8.

One thread, ONNX Runtime, all rows in turn (so that a noisy minute hits all of them): median and quartiles
of the time on the clock, and the median of the processor time of the same runs. Where others use the machine
too, only the second can be compared with another day's; shares of the teacher's cost are made from it.
Quality is judged-only nDCG@10: out of fold where labels were learnt from, as a share of the teacher's.

Writes `compression/report.json`, `compression/table.txt`, and the models that were only made to be measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from training.data.whole_files import write_report, write_text
from training.measure import best_first, difference, fast_ndcg
from training.models.hub import PairScorer, as_cross_encoder, load_scorer
from training.models.pruning import parameters
from training.prepare import load_prepared
from training.prune import MODELS, check_prune, load_model, pruned_file, whole_file, whole_files
from training.quality import (
    JudgedList,
    JudgedProducts,
    Quality,
    judged_lists,
    judged_products,
    means,
    quality_of,
    share_kept,
)
from training.quantise import (
    calibration_batches,
    check_quantise,
    export_int8,
    export_model,
    onnx_files,
    open_session,
)
from training.recipe import Recipe, RecipeError, stage_arguments
from training.recover import RecoveryTexts
from training.teacher import Scored, member_folder

PAIRS, PAIR_TOKENS, QUERY_TOKENS = 32, 32, 8
ROUNDS = 30
COUNTED = {
    "cross": f"{PAIRS} pairs of {PAIR_TOKENS} tokens in one batch",
    "late": (
        f"one query of {QUERY_TOKENS} tokens, plus MaxSim with {PAIRS} products of {PAIR_TOKENS} token "
        "vectors in numpy float32"
    ),
    "dense": f"one query of {QUERY_TOKENS} tokens, plus {PAIRS} dot products in numpy float32",
}

Request = Callable[[], object]


@dataclass(frozen=True)
class Entry:
    """One model in one form, ranking by one score: "cross", "late" or "dense".

    size: of its file, in bytes. request: does once what is timed. quality: on the training queries.
    """

    name: str
    form: str
    score: str
    parameters: int
    size: int
    request: Request
    quality: Quality


def compression(recipe: Recipe, run: Path, *, rounds: int = ROUNDS) -> dict[str, Any]:
    """Run the stage. rounds: timed runs of each row. Returns: what report.json says.

    Raises: FileNotFoundError where a stage has not run; RecipeError naming the key, or where the teacher's
    scores are of other data.
    """
    check_prune(recipe.prune)
    check_quantise(recipe.quantise)
    prepared = load_prepared(run)
    lists = judged_lists(recipe, prepared)
    maker = _Maker(
        recipe, run, RecoveryTexts.of(recipe, prepared), lists, judged_products(recipe, prepared, lists)
    )
    entries, missing = maker.entries()
    costs = time_requests([entry.request for entry in entries], rounds=rounds)
    teacher = next((at for at, entry in enumerate(entries) if entry.name == "teacher"), None)
    rows = []
    for entry, (clock, processor) in zip(entries, costs, strict=True):
        low, middle, high = np.percentile(clock, [25, 50, 75])
        row: dict[str, Any] = {
            "model": entry.name,
            "form": entry.form,
            "score": entry.score,
            "parameters": entry.parameters,
            "mib": round(entry.size / 2**20, 2),
            "ms": round(float(middle), 3),
            "ms_low": round(float(low), 3),
            "ms_high": round(float(high), 3),
            "processor_ms": round(float(np.median(processor)), 3),
            "ndcg10": means(entry.quality),
        }
        if teacher is not None:
            best = entries[teacher].quality
            gap = difference(
                entry.quality,
                best,
                seed=recipe.seed,
                rounds=recipe.plans.bootstrap,
                interval=recipe.plans.interval,
            )
            row |= {
                "share_of_teacher": round(share_kept(entry.quality, best), 4),
                "cost_of_teacher": round(float(np.median(processor) / np.median(costs[teacher][1])), 4),
                "difference": gap.rounded(),
            }
        rows.append(row)
    report = {
        "rows": rows,
        "counted": COUNTED,
        "rounds": rounds,
        "queries": {one.name: sum(query.set == one.name for query in lists) for one in recipe.judged()},
        "quality": "judged-only, on the training queries, out of fold where labels were learnt from",
        "interval": recipe.plans.interval,
        "missing": missing,
    }
    write_report(run / "compression" / "report.json", report)
    write_text(run / "compression" / "table.txt", table(report))
    return report


def time_requests(requests: Sequence[Request], *, rounds: int) -> list[tuple[list[float], list[float]]]:
    """Milliseconds of each request, `rounds` times, all of them in turn.

    Returns: on the clock, and of the processor (of the calling thread).
    """
    for one in requests:
        one()
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in requests]
    for _ in tqdm(range(rounds), desc="timing", mininterval=10):
        for one, (clock, processor) in zip(requests, times, strict=True):
            began, worked = time.perf_counter_ns(), time.thread_time_ns()
            one()
            processor.append((time.thread_time_ns() - worked) / 1e6)
            clock.append((time.perf_counter_ns() - began) / 1e6)
    return times


def table(report: Mapping[str, Any]) -> str:
    """The rows as aligned text, with how they were counted."""
    head = ["model", "form", "score", "parameters", "MiB", "ms", "quartiles", "processor"]
    head += ["of teacher", "cost", "nDCG@10"]
    lines = [head]
    for row in report["rows"]:
        known = "share_of_teacher" in row
        lines.append(
            [
                row["model"],
                row["form"],
                row["score"],
                f"{row['parameters']:,}",
                f"{row['mib']:.2f}",
                f"{row['ms']:.2f}",
                f"{row['ms_low']:.2f}-{row['ms_high']:.2f}",
                f"{row['processor_ms']:.2f}",
                f"{row['share_of_teacher']:.1%}" if known else "",
                f"{row['cost_of_teacher']:.1%}" if known else "",
                " ".join(f"{name} {value:.4f}" for name, value in row["ndcg10"].items()),
            ]
        )
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    text = [
        "  ".join(
            cell.ljust(width) if at < 3 or head[at] == "nDCG@10" else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    text += [
        "",
        f"nDCG@10: {report['quality']}; the share of the teacher's is the mean over sets.",
        f"ms: median and quartiles of {report['rounds']} runs in turn; one thread, ONNX Runtime unless said.",
        "processor: median of their processor time, in ms; cost: that, as a share of the teacher's.",
    ]
    text += [f"ms of {score}: {how}." for score, how in report["counted"].items()]
    text += [f"Left out: {one}." for one in report["missing"]]
    return "\n".join(text) + "\n"


class _Maker:
    """Exports, loads and measures what the rows are about."""

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        texts: RecoveryTexts,
        lists: Sequence[JudgedList],
        products: JudgedProducts,
    ) -> None:
        self._recipe, self._run, self._texts = recipe, run, texts
        self._lists, self._products = lists, products

    def entries(self) -> tuple[list[Entry], list[str]]:
        """The rows, and what is missing and why."""
        recipe, run = self._recipe, self._run
        if not whole_file(run, "encoder").is_file():
            raise FileNotFoundError(
                f"{whole_file(run, 'encoder')} is missing: run `python -m training.encoder` first"
            )
        found, missing = self._teacher()
        for model in MODELS:
            paths = whole_files(recipe, run, model)
            if not paths[0].is_file():
                if model in recipe.students():
                    missing.append(f"{model}: `python -m training.distil` has not run")
                continue
            exported = onnx_files(run, model, len(paths) - 1)
            ready = model not in recipe.prune.ship and all(path.is_file() for path in exported)
            found += self._forms(model, model, paths, exported if ready else None)
        for variant in recipe.prune.variants:
            count = len(whole_files(recipe, run, variant.model)) - 1
            paths = [pruned_file(run, variant.name, fold) for fold in (None, *range(count))]
            if all(path.is_file() for path in paths):
                found += self._forms(variant.name, variant.model, paths, None)
            else:
                missing.append(f"{variant.name}: `python -m training.prune` has not made it")
        return found, missing

    def _forms(
        self, name: str, model: str, paths: Sequence[Path], ready: Sequence[Path] | None
    ) -> list[Entry]:
        """A model in float32 and in int8. paths: what ships, then one a fold; ready: the same, exported."""
        settings, out = self._recipe.quantise, self._run / "compression"
        models = [load_model(path, model) for path in paths]
        plain = [out / f"{name}.float32.{at}.onnx" for at in range(len(paths))]
        for one, path in zip(models, plain, strict=True):
            export_model(one, path, int8=False)
        if ready is None:
            ready = [out / f"{name}.int8.{at}.onnx" for at in range(len(paths))]
            batches = calibration_batches(settings, models[0], self._texts, self._recipe.seed + 300)
            kind = None
            for one, path in zip(models, ready, strict=True):
                kind = export_int8(settings, one, path, batches, kind)
        found = []
        for form, files in (("float32", plain), ("int8", ready)):
            sessions = [open_session(path) for path in files[1:] or files]
            quality = quality_of(self._recipe, self._lists, self._products, sessions, self._texts.specials)
            for score in ("late", "dense") if model == "encoder" else ("cross",):
                request = session_request(
                    open_session(files[0]), score, models[0].stack.shape.positions, seed=self._recipe.seed
                )
                size = files[0].stat().st_size
                found.append(Entry(name, form, score, parameters(models[0]), size, request, quality[score]))
        return found

    def _teacher(self) -> tuple[list[Entry], list[str]]:
        """One teacher's cost, and what all of them together say of queries they have not seen."""
        folder = member_folder(self._run, 0, 0)
        scores = self._run / "teacher" / "out_of_fold.parquet"
        if not folder.is_dir() or not scores.is_file():
            return [], ["teacher: `python -m training.teacher` has not run, so no share of it is known"]
        quality = teacher_quality(self._lists, Scored.read(scores), scores)
        scorer, _ = load_scorer(folder)
        own = as_cross_encoder(folder, scorer, positions=max(PAIR_TOKENS, 64))
        if own is None:
            request = torch_request(scorer, seed=self._recipe.seed)
            size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
            return [
                Entry("teacher", "float32, torch", "cross", parameters(scorer), size, request, quality)
            ], []
        path = self._run / "compression" / "teacher.float32.onnx"
        export_model(own, path, int8=False)
        positions = own.stack.shape.positions
        request = session_request(open_session(path), "cross", positions, seed=self._recipe.seed)
        size = path.stat().st_size
        return [Entry("teacher", "float32", "cross", parameters(own), size, request, quality)], []


def teacher_quality(lists: Sequence[JudgedList], scored: Scored, path: Path) -> Quality:
    """nDCG@10 of scores that were given out of fold. Raises: RecipeError where a judged pair has none."""
    known = dict(zip(scored.pairs(), scored.scores.tolist(), strict=True))
    found: Quality = {}
    for one in lists:
        pairs = [(one.set, one.query_id, key) for key in one.product_ids]
        if any(pair not in known for pair in pairs):
            raise RecipeError(f"{path} lacks judged pairs of {one.set}: remove its folder and train it again")
        order = best_first(np.array([known[pair] for pair in pairs]))
        found.setdefault(one.set, {})[one.query_id] = fast_ndcg(one.gains, order, one.gains)
    return found


def session_request(
    session: onnxruntime.InferenceSession, score: str, positions: int, *, seed: int
) -> Request:
    """What is timed of an exported model. positions: tokens that it reads at most."""
    random = np.random.default_rng(seed)
    if score == "cross":
        # A model for shorter texts than these reads as many as it can.
        ids = random.integers(5, 100, size=(PAIRS, min(PAIR_TOKENS, positions)))
        kinds = np.zeros_like(ids)
        kinds[:, QUERY_TOKENS:] = 1
        pairs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": kinds}
        return lambda: session.run(["score"], pairs)
    ids = random.integers(5, 100, size=(1, QUERY_TOKENS))
    query = {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def encoded() -> list[Any]:
        found: list[Any] = session.run(["dense", "tokens"], query)
        return found

    dense, tokens = encoded()
    if score == "dense":
        index = random.normal(size=(PAIRS, dense.shape[1])).astype(np.float32)
        return lambda: index @ encoded()[0][0]
    stored = random.normal(size=(PAIRS * PAIR_TOKENS, tokens.shape[2])).astype(np.float32)

    def late() -> object:
        similar = (stored @ encoded()[1][0].T).reshape(PAIRS, PAIR_TOKENS, -1)
        return similar.max(axis=1).mean(axis=1)

    return late


def torch_request(scorer: PairScorer, *, seed: int) -> Request:
    """What is timed of a teacher that cannot be exported: the same pairs, one thread."""
    random = np.random.default_rng(seed)
    query = random.integers(5, 100, size=QUERY_TOKENS - 2).tolist()
    products = random.integers(5, 100, size=(PAIRS, PAIR_TOKENS - QUERY_TOKENS - 1)).tolist()

    def run() -> object:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return scorer.score(query, products)
        finally:
            torch.set_num_threads(threads)

    return run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    arguments = stage_arguments("What smaller models cost and keep.", argv)
    print(table(compression(arguments.recipe, arguments.run)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
