"""Label: which pairs a person should judge next, asking for the grades in a terminal, and taking them in.

`suggest` looks at unjudged products near the top for each query. What a judgement is worth is how much the
rankers disagree about the product, times how much nDCG@10 is expected to change once its grade is known and
it moves to the place it deserves; pairs of one query are worth less and less, so that no query takes all. The
file that it writes can be filled in by `ask`, or in a spreadsheet. `merge` checks every row against the data
set before it touches the labels.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from muster.products import ProductError, ProductFileError, gain_of, product_file, read_rows
from muster.products.sheet import read_sheet, write_sheet
from muster.v1 import catalogue_pb2
from training.cross import Pieces, score_products
from training.data.batches import Specials, pieces_of
from training.data.folds import fold_of
from training.data.overlap import WordOverlap
from training.data.text import product_text
from training.distil import student_file
from training.measure import CUTOFF
from training.models.networks import CrossEncoder, load_cross, load_encoder
from training.prepare import JudgedQuery, Prepared, load_prepared
from training.recipe import DEFAULT_RECIPE, DataSet, Recipe, RecipeError, load_recipe
from training.vectors import Vectors, encode

COLUMNS = (
    "set",
    "query_id",
    "product_id",
    "query",
    "title",
    "brand",
    "price",
    "details",
    "value",
    "why",
    "grades",
    "grade",
)
_NEEDED = ("set", "query_id", "product_id", "query", "grades", "grade")
SKIPPED = "skip"
# What a pair is worth falls by this with each pair of its query that was taken before.
_NEXT_OF_QUERY = 0.6
_DETAILS_MAX = 300
_SEARCHED = ("title", "brand", "category", "description", "attributes")


@dataclass(frozen=True)
class Suggestion:
    """One pair to judge. value: what it is worth, 0 or above; why: in words, for the person who judges."""

    set: str
    query: JudgedQuery
    product_id: str
    value: float
    why: str


# -- suggest ----------------------------------------------------------


def suggest(
    recipe: Recipe,
    data: Path,
    run: Path,
    *,
    count: int,
    split: str = "train",
    sets: Sequence[str] = (),
    pool: int = 40,
) -> list[Suggestion]:
    """The pairs most worth judging, best first.

    data: the labels there are read again, so a pair merged since `prepare` is not asked for twice. split: of
    the queries. sets: names; none: all that have products and queries. pool: unjudged products considered a
    query.
    Raises: FileNotFoundError where a stage has not run; RecipeError; ProductFileError.
    """
    prepared = load_prepared(run)
    chosen = _chosen_sets(recipe, prepared, sets)
    path = run / "encoder.pt"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run `python -m training.encoder` first")
    crosses = _crosses(recipe, run)
    pieces = Pieces.of(recipe, prepared) if crosses else None
    specials = Specials.of(prepared.tokenizer)
    found: list[Suggestion] = []
    for one in chosen:
        products = prepared.products[one.name]
        queries = [query for query in prepared.of(one.name, split) if query.text.strip()]
        if not queries:
            continue
        overlap = WordOverlap({key: product_text(item, _SEARCHED) for key, item in products.items()})
        vectors = _vectors(recipe, prepared, run, one.name)
        rows = pieces_of(prepared.tokenizer, [query.text for query in queries], recipe.text.query_tokens_max)
        asked = encode(
            load_encoder(path),
            {query.query_id: row for query, row in zip(queries, rows, strict=True)},
            specials,
            projected=True,
        )
        known = _latest_gains(one, data, queries)
        top = max((gain for gains in known.values() for gain in gains.values()), default=1.0) or 1.0
        rankings = []
        for at, query in enumerate(tqdm(queries, desc=f"scores, {one.name}", mininterval=5)):
            keys = _near(overlap, vectors, asked.dense[at], query.text, known[query.query_id], pool)
            if len(keys) < 2:
                continue
            scores = {
                "bm25": overlap.scores(query.text)[[overlap.at[key] for key in keys]],
                "dense": vectors.dense_scores(asked.dense[at], keys),
                "late": vectors.late_scores(asked.tokens[at], keys),
            }
            if pieces is not None:
                fold = fold_of(one.name, query.query_id, recipe.folds, recipe.seed)
                offered = [pieces.sets[one.name][key] for key in keys]
                own = crosses[fold if fold in crosses else -1]
                scores["cross"] = np.array(score_products(own, rows[at], offered, specials), dtype=np.float32)
            rankings.append((query, keys, scores))
        curve = _gain_curve(
            [
                (together(scores)[place], known[query.query_id][key] / top)
                for query, keys, scores in rankings
                for place, key in enumerate(keys)
                if key in known[query.query_id]
            ]
        )
        for query, keys, scores in rankings:
            found += _valued(one.name, query, keys, scores, known[query.query_id], top, curve)
    titles = {
        (name, key): item.title.strip().lower()
        for name, table in prepared.products.items()
        for key, item in table.items()
    }
    return spread_over_queries(found, count, titles)


def together(scores: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """The ensemble: mean of the rankers' standardised scores. [n]."""
    return np.asarray(standardised(scores).mean(0))


def standardised(scores: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """Scores of each ranker with mean 0 and deviation 1 over the candidates. [rankers, n]."""
    rows = np.array([scores[name] for name in scores], dtype=np.float64)
    spread = rows.std(1, keepdims=True)
    return np.asarray((rows - rows.mean(1, keepdims=True)) / np.where(spread > 1e-9, spread, 1.0))


def expected_change(gains: NDArray[np.float64], at: int, probability: float) -> float:
    """Expected change of nDCG@10 once the grade of one candidate is known and it moves where it belongs.

    gains: [n], 0 to 1, what is believed of each candidate, which also is their order. at: the candidate.
    probability: that it is fully relevant; else it is not at all.
    Returns: 0 or above, as a share of the best DCG that is believed in.
    """
    order = np.argsort(-gains, kind="stable")
    place = int(np.flatnonzero(order == at)[0])
    discount = np.zeros(len(gains))
    discount[:CUTOFF] = 1.0 / np.log2(np.arange(2, min(CUTOFF, len(gains)) + 2))
    others = np.delete(gains[order], place)
    changes = []
    for truth in (1.0, 0.0):
        before = float((np.insert(others, place, truth) * discount).sum())
        # Behind its equals, so that a grade that changes no order is worth nothing.
        target = int((others >= truth).sum())
        after = float((np.insert(others, target, truth) * discount).sum())
        changes.append(max(0.0, after - before))
    best = float((gains[order] * discount).sum())
    return (probability * changes[0] + (1.0 - probability) * changes[1]) / max(best, 1e-9)


def spread_over_queries(
    found: Sequence[Suggestion], count: int, titles: Mapping[tuple[str, str], str]
) -> list[Suggestion]:
    """The best pairs, each further one of a query worth less, and no title twice for one query.

    titles: set and product id to title. Deterministic: equal values go by set, query and product.
    """
    by_query: dict[tuple[str, str], list[Suggestion]] = {}
    for one in sorted(found, key=lambda one: (-one.value, one.set, one.query.query_id, one.product_id)):
        by_query.setdefault((one.set, one.query.query_id), []).append(one)
    taken: list[Suggestion] = []
    seen: dict[tuple[str, str], set[str]] = {key: set() for key in by_query}
    while len(taken) < count and by_query:
        key = max(by_query, key=lambda key: by_query[key][0].value * _NEXT_OF_QUERY ** len(seen[key]))
        one = by_query[key].pop(0)
        if not by_query[key]:
            del by_query[key]
        title = titles.get((one.set, one.product_id), "") or one.product_id
        if title not in seen[key]:
            seen[key].add(title)
            taken.append(one)
    return taken


def _chosen_sets(recipe: Recipe, prepared: Prepared, sets: Sequence[str]) -> list[DataSet]:
    able = [one for one in recipe.data if one.role in ("judged", "pairs") and prepared.products.get(one.name)]
    names = [one.name for one in able]
    for name in sets:
        if name not in names:
            raise RecipeError(f"{name!r} is not a set with products and queries: {', '.join(names)}")
    return [one for one in able if one.name in sets or (not sets and one.role == "judged")]


def _crosses(recipe: Recipe, run: Path) -> dict[int, CrossEncoder]:
    """The dearest students by fold, -1: the one that ships, for what no fold covers; perhaps none."""
    trained = [tier for tier in recipe.students() if student_file(run, tier, None).is_file()]
    if not trained:
        return {}
    paths = {
        -1 if fold is None else fold: student_file(run, trained[-1], fold)
        for fold in (None, *range(recipe.folds))
    }
    return {fold: load_cross(path) for fold, path in paths.items() if path.is_file()}


def _vectors(recipe: Recipe, prepared: Prepared, run: Path, name: str) -> Vectors:
    """Vectors of a set's products, kept in the run folder for the same encoder and products."""
    products = prepared.products[name]
    digest = hashlib.sha256((run / "encoder.pt").read_bytes())
    digest.update((run / "prepared" / "products.parquet").read_bytes())
    digest.update(json.dumps([recipe.text.dense_fields, recipe.text.late_tokens_max, name]).encode())
    path = run / "label" / f"{name}-{digest.hexdigest()[:16]}.npz"
    keys = list(products)
    at = {key: row for row, key in enumerate(keys)}
    if not path.is_file():
        _keep_vectors(recipe, prepared, run, name, path)
    # Read back even where just written: half the digits are kept, and a second call must say the same.
    with np.load(path) as saved:
        ends = np.cumsum(saved["sizes"])[:-1].tolist()
        tokens = [torch.from_numpy(part) for part in np.split(saved["tokens"], ends)]
        return Vectors(keys, at, saved["dense"].astype(np.float32), tokens)


def _keep_vectors(recipe: Recipe, prepared: Prepared, run: Path, name: str, path: Path) -> None:
    products = prepared.products[name]
    texts = [product_text(product, recipe.text.dense_fields) for product in products.values()]
    rows = pieces_of(prepared.tokenizer, texts, recipe.text.late_tokens_max)
    vectors = encode(
        load_encoder(run / "encoder.pt"),
        dict(zip(products, rows, strict=True)),
        Specials.of(prepared.tokenizer),
        projected=True,
        note=f"vectors, {name}",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob(f"{name}-*.npz"):
        old.unlink()
    part = path.with_suffix(".part.npz")
    width = next((one.shape[1] for one in vectors.tokens if len(one)), recipe.encoder.token_dimension)
    sizes = np.array([len(one) for one in vectors.tokens], dtype=np.int64)
    held = [one.numpy() for one in vectors.tokens if len(one)]
    np.savez(
        part,
        dense=vectors.dense.astype(np.float16),
        tokens=np.concatenate(held) if held else np.zeros((0, width), dtype=np.float16),
        sizes=sizes,
    )
    part.replace(path)


def _latest_gains(one: DataSet, data: Path, queries: Sequence[JudgedQuery]) -> dict[str, dict[str, float]]:
    gains = {query.query_id: dict(query.gains) for query in queries}
    path = data / one.folder / "labels.parquet"
    if path.is_file():
        for row, values in read_rows(path, ("query_id", "product_id"), ("gain", "rating", "label")):
            if str(values["query_id"]) in gains:
                gains[str(values["query_id"])][str(values["product_id"])] = gain_of(path, row, values)
    return gains


def _near(
    overlap: WordOverlap,
    vectors: Vectors,
    query: NDArray[np.float32],
    text: str,
    judged: Mapping[str, float],
    pool: int,
) -> list[str]:
    """The best by words and by vectors in turn: up to pool unjudged products, and the judged among them."""
    dense = vectors.dense_scores(query)
    by_vector = [vectors.keys[row] for row in np.argsort(-dense, kind="stable")[: 4 * pool]]
    by_words = overlap.best(text, 4 * pool)
    keys: dict[str, None] = {}
    fresh = 0
    for rank in range(4 * pool):
        for ranked in (by_vector, by_words):
            if rank < len(ranked) and ranked[rank] not in keys and fresh < pool:
                keys[ranked[rank]] = None
                fresh += ranked[rank] not in judged
    return list(keys)


def _gain_curve(known: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope and shift of the logistic curve from ensemble score to gain, fitted to judged pairs.

    known: (score, gain 0 to 1). Platt 1999, with a prior that keeps the slope near 1 where there are few.
    """
    slope, shift = 1.0, 0.0
    if len(known) < 10:
        return slope, shift
    scores, gains = np.array(known, dtype=np.float64).T
    design = np.stack([scores, np.ones_like(scores)], axis=1)
    weights = np.array([slope, shift])
    prior = np.array([1.0, 0.0])
    for _ in range(30):
        found = 1.0 / (1.0 + np.exp(-design @ weights))
        gradient = design.T @ (found - gains) + (weights - prior)
        curvature = (design * (found * (1.0 - found))[:, None]).T @ design + np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-8:
            break
    return float(max(weights[0], 0.0)), float(weights[1])


def _valued(
    name: str,
    query: JudgedQuery,
    keys: Sequence[str],
    scores: Mapping[str, NDArray[np.float32]],
    judged: Mapping[str, float],
    top: float,
    curve: tuple[float, float],
) -> list[Suggestion]:
    each = standardised(scores)
    likely = 1.0 / (1.0 + np.exp(-(curve[0] * each.mean(0) + curve[1])))
    believed = np.array([judged[key] / top if key in judged else likely[at] for at, key in enumerate(keys)])
    ranks = {ranker: np.argsort(np.argsort(-row, kind="stable")) + 1 for ranker, row in scores.items()}
    found = []
    for at, key in enumerate(keys):
        if key in judged:
            continue
        change = expected_change(believed, at, float(likely[at]))
        places = ", ".join(f"{ranker} {ranks[ranker][at]}" for ranker in scores)
        why = f"ranks of {len(keys)}: {places}; expected change of nDCG@10 {change:.3f}"
        found.append(Suggestion(name, query, key, float(each[:, at].std()) * change, why))
    return found


def write_suggestions(
    recipe: Recipe, prepared: Prepared, suggestions: Sequence[Suggestion], path: Path
) -> None:
    """Write them as a sheet with an empty column for the grade. Raises: ProductFileError; RecipeError."""
    rows = []
    for one in suggestions:
        product = prepared.products[one.set][one.product_id]
        rows.append(
            {
                "set": one.set,
                "query_id": one.query.query_id,
                "product_id": one.product_id,
                "query": one.query.text,
                "title": product.title,
                "brand": product.brand,
                "price": f"{product.price:.2f}" if product.HasField("price") else "",
                "details": _details(product),
                "value": f"{one.value:.5f}",
                "why": one.why,
                "grades": grades_text(recipe, prepared, one.set),
                "grade": "",
            }
        )
    write_sheet(path, COLUMNS, rows)


def _details(product: catalogue_pb2.Product) -> str:
    text = product_text(product, ("category", "description", "bullets"))
    return text if len(text) <= _DETAILS_MAX else f"{text[: _DETAILS_MAX - 1]}…"


def grades_text(recipe: Recipe, prepared: Prepared, name: str) -> str:
    """The scale of a set as it stands in the sheet, worst first: "0 Irrelevant; 0.1 Substitute; 1 Exact".

    Raises: RecipeError where neither the recipe nor a label tells the scale.
    """
    one = next(one for one in recipe.data if one.name == name)
    gains = {float(gain) for gain in (*one.targets, *one.grades)}
    gains |= {gain for query in prepared.queries if query.set == name for gain in query.gains.values()}
    if not gains:
        raise RecipeError(f"data.{name}.targets is empty: name its gains, so that a pair can be graded")
    names = {float(gain): text for gain, text in one.grades.items()}
    return "; ".join(f"{gain:g} {names.get(gain, '')}".strip() for gain in sorted(gains))


# -- the grades of a sheet ----------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """Gains a set knows, worst first, each with its name ("" for none)."""

    gains: list[float]
    names: list[str]

    def gain(self, text: str) -> float | None:
        """The gain that somebody wrote, as a number or by name; None where the scale has no such grade."""
        text = text.strip()
        for gain, name in zip(self.gains, self.names, strict=True):
            if name and text.lower() == name.lower():
                return gain
        try:
            value = float(text.replace(",", "."))
        except ValueError:
            return None
        return next((gain for gain in self.gains if abs(gain - value) < 1e-9), None)

    def text(self) -> str:
        """For a message: every grade that may be written."""
        return ", ".join(
            f"{gain:g} ({name})" if name else f"{gain:g}"
            for gain, name in zip(self.gains, self.names, strict=True)
        )


def scale_of(path: Path, row: int, text: str) -> Scale:
    """What the column `grades` says. Raises: ProductFileError."""
    gains, names = [], []
    for part in text.split(";"):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e-?\d+)?)(?:\s+(.*?))?\s*", part)
        if match is None:
            raise ProductFileError(
                path,
                f"{part.strip()!r} is not a grade",
                'Leave the column as `muster label suggest` wrote it: "0 Irrelevant; 1 Exact"',
                row=row,
                column="grades",
            )
        gains.append(float(match[1]))
        names.append(match[2] or "")
    return Scale(gains, names)


@dataclass(frozen=True)
class Sheet:
    """A sheet as read. scales: of each row."""

    columns: list[str]
    rows: list[dict[str, str]]
    scales: list[Scale]


def load_sheet(path: Path) -> Sheet:
    """Read and check a sheet: ids are there, each grade is of its scale, skipped or not yet given.

    Raises: ProductFileError naming row and column.
    """
    columns, rows = read_sheet(path, _NEEDED)
    scales = []
    for number, row in enumerate(rows, start=1):
        for column in ("set", "query_id", "product_id"):
            if not row[column].strip():
                raise ProductFileError(
                    path, "the cell is empty", "Put the id back", row=number, column=column
                )
        scale = scale_of(path, number, row["grades"])
        grade = row["grade"].strip()
        if grade not in ("", SKIPPED) and scale.gain(grade) is None:
            raise ProductFileError(
                path,
                f"{grade!r} is not on the scale",
                f"Write {scale.text()}, {SKIPPED!r}, or nothing",
                row=number,
                column="grade",
            )
        scales.append(scale)
    return Sheet(columns, rows, scales)


# -- ask ----------------------------------------------------------


def ask(
    path: Path,
    *,
    read: Callable[[str], str] = input,
    write: Callable[[str], None] = print,
    again: bool = False,
) -> int:
    """Show each pair that has no grade and write down the answer, at once and for good.

    A grade is its key (0 for the worst, counting up), or its name. `s` skips, `u` takes the last answer back,
    `q` quits; the next call goes on where this one ended. again: also show what was skipped.
    Returns: how many pairs have a grade now. Raises: ProductFileError.
    """
    sheet = load_sheet(path)
    rows = sheet.rows
    open_rows = [at for at, row in enumerate(rows) if row["grade"].strip() in ("", *([SKIPPED] * again))]
    done: list[tuple[int, str]] = []
    place = 0
    while place < len(open_rows):
        at = open_rows[place]
        write(_shown(rows[at], sheet.scales[at], place + 1, len(open_rows)))
        try:
            answer = read("grade> ").strip()
        except (EOFError, KeyboardInterrupt):
            answer = "q"
        if answer.lower() == "q":
            break
        if answer.lower() == "u":
            if not done:
                write("There is nothing to take back.")
                continue
            last, before = done.pop()
            rows[last]["grade"] = before
            place = open_rows.index(last)
        else:
            grade = SKIPPED if answer.lower() == "s" else _answered(answer, sheet.scales[at])
            if grade is None:
                write(f"{answer!r} is none of the keys: a grade, s (skip), u (undo) or q (quit).")
                continue
            done.append((at, rows[at]["grade"]))
            rows[at]["grade"] = grade
            place += 1
        write_sheet(path, sheet.columns, rows)
    graded = sum(row["grade"].strip() not in ("", SKIPPED) for row in rows)
    write(f"{graded} of {len(rows)} pairs have a grade; {path} holds them.")
    return graded


def _answered(answer: str, scale: Scale) -> str | None:
    if answer.isascii() and answer.isdigit() and int(answer) < len(scale.gains):
        return f"{scale.gains[int(answer)]:g}"
    for gain, name in zip(scale.gains, scale.names, strict=True):
        if name and answer.lower() == name.lower():
            return f"{gain:g}"
    return None


def _shown(row: Mapping[str, str], scale: Scale, number: int, total: int) -> str:
    head = [row.get("title", ""), row.get("brand", ""), row.get("price", "")]
    keys = "   ".join(
        f"[{key}] {name or f'{gain:g}'}"
        for key, (gain, name) in enumerate(zip(scale.gains, scale.names, strict=True))
    )
    lines = [
        "",
        f"{number} of {total}   query: {row['query']}",
        f"  product {row['product_id']}: {' | '.join(part for part in head if part)}",
        f"  {row.get('details', '')}",
        f"  {keys}   [s] skip   [u] undo   [q] quit",
    ]
    # Control characters of a product text must not steer the terminal.
    return "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines if line.strip())


# -- merge ----------------------------------------------------------


def merge(path: Path, into: Path, *, only: str = "", replace: bool = False) -> dict[str, int]:
    """Add the grades of a sheet to a labels file, or nothing at all where a row is wrong.

    into: labels.parquet, beside its queries and products. only: name of the set whose rows are meant, where
    the sheet holds several. replace: a grade that contradicts the file replaces it.
    Returns: {"added", "replaced", "same", "ungraded"}.
    Raises: ProductFileError naming row and column.
    """
    sheet = load_sheet(path)
    names = sorted({row["set"] for row in sheet.rows})
    if only and only not in names:
        raise ProductFileError(path, f"no row is of the set {only!r}", f"It holds {', '.join(names)}")
    if not only and len(names) > 1:
        raise ProductFileError(
            path, f"it holds rows of {', '.join(names)}", "Name one of them with --set", column="set"
        )
    folder = into.parent
    queries = {
        str(values["query_id"]): values
        for _, values in read_rows(folder / "queries.parquet", ("query_id",), _carried(into, folder))
    }
    products = {str(values["product_id"]) for _, values in read_rows(product_file(folder), ("product_id",))}
    table = _read_labels(into)
    have = {}
    for number, values in read_rows(into, ("query_id", "product_id"), ("gain", "rating", "label")):
        key = (str(values["query_id"]), str(values["product_id"]))
        have[key] = (number - 1, gain_of(into, number, values))
    told = {"added": 0, "replaced": 0, "same": 0, "ungraded": 0}
    fresh: dict[tuple[str, str], tuple[float, str]] = {}
    for number, (row, scale) in enumerate(zip(sheet.rows, sheet.scales, strict=True), start=1):
        if only and row["set"] != only:
            continue
        key = (row["query_id"], row["product_id"])
        for column, known, file in (("query_id", queries, "queries"), ("product_id", products, "products")):
            if row[column] not in known:
                raise ProductFileError(
                    path,
                    f"{row[column]!r} is not among the {file} of {folder}",
                    "Correct the id, or name the labels of the right set with --into",
                    row=number,
                    column=column,
                )
        grade = row["grade"].strip()
        gain = None if grade in ("", SKIPPED) else scale.gain(grade)
        if gain is None:
            told["ungraded"] += 1
            continue
        if key in fresh and fresh[key][0] != gain:
            raise ProductFileError(
                path,
                f"the pair has the grade {fresh[key][0]:g} in an earlier row",
                "Keep one of the two rows",
                row=number,
                column="grade",
            )
        if key in fresh:
            continue
        if key in have and abs(have[key][1] - gain) > 1e-9 and not replace:
            raise ProductFileError(
                path,
                f"the pair is already judged {have[key][1]:g} in {into.name}",
                "Take the row out, or let --replace overwrite the label",
                row=number,
                column="grade",
            )
        fresh[key] = (gain, scale.names[scale.gains.index(gain)])
    for key, (gain, _) in fresh.items():
        kind = "added" if key not in have else "same" if abs(have[key][1] - gain) < 1e-9 else "replaced"
        told[kind] += 1
    changed = {key: told_ for key, told_ in fresh.items() if key not in have or have[key][1] != told_[0]}
    if changed:
        gone = [have[key][0] for key in changed if key in have]
        kept = table.take([at for at in range(len(table)) if at not in set(gone)])
        rows = [
            _label_row(path, into, table.schema, key, gain, name, queries[key[0]])
            for key, (gain, name) in changed.items()
        ]
        added = pa.Table.from_pylist(rows, schema=table.schema)
        _write_labels(into, pa.concat_tables([kept, added]))
    return told


def _read_labels(into: Path) -> Any:
    try:
        return pq.read_table(into)
    except FileNotFoundError as error:
        raise ProductFileError(
            into, "there is no such file", "Name the labels.parquet of the data set with --into"
        ) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ProductFileError(into, "it is not a complete Parquet file", "Write or copy it again") from error


def _carried(into: Path, folder: Path) -> list[str]:
    """Columns that a label has from its query: split, locale..."""
    labels = set(_read_labels(into).column_names)
    queries = folder / "queries.parquet"
    if not queries.is_file():
        raise ProductFileError(queries, "there is no such file", "--into must stand beside its queries")
    return sorted((labels & set(pq.read_schema(queries).names)) - {"query_id", "product_id"})


def _label_row(
    path: Path,
    into: Path,
    schema: Any,
    key: tuple[str, str],
    gain: float,
    name: str,
    query: Mapping[str, Any],
) -> dict[str, Any]:
    row: dict[str, Any] = {field.name: query.get(field.name) for field in schema}
    graded = False
    for column in ("gain", "rating"):
        if column in schema.names:
            kind = schema.field(column).type
            if pa.types.is_integer(kind) and gain != int(gain):
                raise ProductFileError(
                    path,
                    f"{gain:g} is no whole number, and the column {column!r} of {into.name} holds only those",
                    "Grade on the scale of that file",
                    column="grade",
                )
            row[column] = int(gain) if pa.types.is_integer(kind) else gain
            graded = True
    if "label" in schema.names:
        row["label"] = name or None
        graded = graded or bool(name)
    if not graded:
        raise ProductFileError(into, "it has no column gain, rating or label", "Add one", column="gain")
    for column, value in zip(("query_id", "product_id"), key, strict=True):
        whole = pa.types.is_integer(schema.field(column).type)
        row[column] = int(value) if whole else value
    return row


def _write_labels(into: Path, table: Any) -> None:
    part = into.with_name(into.name + ".part")
    try:
        pq.write_table(table, part, compression="zstd")
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(into)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ProductFileError(
            into, f"it cannot be written ({error.strerror})", "Make room, or check its permissions"
        ) from error


# -- the command ----------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """The command `muster label`. Returns the exit code: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="muster label", description="Which pairs to judge next, and judging."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("suggest", help="write the pairs most worth judging into a CSV file")
    one.add_argument("--data", type=Path, required=True, help="folder that holds the data sets")
    one.add_argument("--run", type=Path, required=True, help="run folder with prepared/ and encoder.pt")
    one.add_argument("--count", type=int, default=100, help="pairs (default: 100)")
    one.add_argument("--out", type=Path, required=True, help="CSV file to write")
    one.add_argument("--recipe", type=Path, default=DEFAULT_RECIPE, help="TOML file of the run")
    one.add_argument("--split", default="train", help="of the queries (default: train)")
    one.add_argument("--set", dest="sets", action="append", default=[], help="only this set; may be repeated")
    one.add_argument(
        "--pool", type=int, default=40, help="unjudged products considered a query (default: 40)"
    )
    one.add_argument("--force", action="store_true", help="overwrite a file that is there")
    one.add_argument("--json", action="store_true", help="print JSON alone")
    one = commands.add_parser("ask", help="show each pair in the terminal and take a grade")
    one.add_argument("file", type=Path, help="CSV file of `suggest`")
    one.add_argument("--skipped", action="store_true", help="also show what was skipped")
    one = commands.add_parser("merge", help="add the grades to a labels.parquet")
    one.add_argument("file", type=Path, help="CSV file with grades")
    one.add_argument("--into", type=Path, required=True, help="labels.parquet beside queries and products")
    one.add_argument("--set", dest="only", default="", help="only rows of this set")
    one.add_argument("--replace", action="store_true", help="overwrite labels that say otherwise")
    one.add_argument("--json", action="store_true", help="print JSON alone")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "suggest":
            told = _suggest_command(arguments)
        elif arguments.command == "ask":
            ask(arguments.file, again=arguments.skipped)
            return 0
        else:
            told = dict(merge(arguments.file, arguments.into, only=arguments.only, replace=arguments.replace))
            told["file"] = str(arguments.into)
    except (ProductError, RecipeError, OSError) as error:
        print(f"muster label {arguments.command}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(told) if arguments.json else ", ".join(f"{key} {value}" for key, value in told.items()))
    return 0


def _suggest_command(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.count < 1 or arguments.pool < 2:
        raise RecipeError("--count must be at least 1 and --pool at least 2")
    if arguments.out.exists() and not arguments.force:
        # It may hold hours of somebody's work.
        raise RecipeError(f"{arguments.out} is there already: name another file, or --force to overwrite it")
    recipe = load_recipe(arguments.recipe)
    found = suggest(
        recipe,
        arguments.data,
        arguments.run,
        count=arguments.count,
        split=arguments.split,
        sets=arguments.sets,
        pool=arguments.pool,
    )
    if not found:
        raise RecipeError(f"nothing is left to judge for the queries of the split {arguments.split!r}")
    write_suggestions(recipe, load_prepared(arguments.run), found, arguments.out)
    queries = len({(one.set, one.query.query_id) for one in found})
    return {"pairs": len(found), "queries": queries, "file": str(arguments.out)}


if __name__ == "__main__":
    sys.exit(main())
