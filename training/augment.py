"""Augment: edited copies of the labelled training pairs, each with what the edit does to its label.

Reads `prepared/`, writes `augmented/` in the run folder: pairs.parquet (one row a pair) and report.json (how
many of each kind, why not more, and examples). Shares and targets are the recipe's `[augment]`; a kind draws
from its own random numbers, so switching one off changes nothing of the others. No row asks what a query
outside the training split asks.

`augmented_groups` turns the rows into training steps for a cross-encoder.
"""

from __future__ import annotations

import json
import math
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm  # type: ignore[import-untyped]

from muster.v1 import catalogue_pb2
from training.cross import Group, Pieces
from training.data.batches import pieces_of
from training.data.edits import PAIR_EDITS, QUERY_KINDS, VALUE_KINDS, Effect, Pair, back_off
from training.data.leakage import Text, alike
from training.data.lexicon import Lexicon, learn
from training.data.tables import TRAIN, UNLABELLED
from training.data.text import product_text
from training.prepare import JudgedQuery, Prepared, load_prepared
from training.recipe import AUGMENT_KINDS, AugmentRecipe, CrossRecipe, Recipe, RecipeError, stage_arguments

BACK_OFF = "back_off"
# Kinds whose query texts are new: they are checked against the queries that a model must not see.
_NEW_QUERY = QUERY_KINDS | {BACK_OFF}
_EXAMPLES = 4
# Where an edit may lower the label or keep it, rows of either sort are at most this share of what is wanted.
_KEPT_SHARE = 0.5
_TRIES = 6


@dataclass(frozen=True)
class Augmented:
    """One row. target: 0 to 1. source_query, source_product: ids of the labelled pair it was made from; a
    back-off query has no source query. note: what was done, for people."""

    set: str
    query_id: str
    query: str
    product_id: str
    product: bytes
    target: float
    kind: str
    source_query: str
    source_product: str
    source_target: float
    note: str

    def as_product(self) -> catalogue_pb2.Product:
        """The product, read."""
        return catalogue_pb2.Product.FromString(self.product)


_SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        ("query_id", pa.string()),
        ("query", pa.string()),
        ("product_id", pa.string()),
        ("product", pa.binary()),
        ("target", pa.float64()),
        ("kind", pa.string()),
        ("source_query", pa.string()),
        ("source_product", pa.string()),
        ("source_target", pa.float64()),
        ("note", pa.string()),
    ]
)


@dataclass(frozen=True)
class _Source:
    """A labelled query with products of its set. targets: product id to 0..1."""

    query: JudgedQuery
    targets: Mapping[str, float]

    def pair(self, key: str, lexicon: Lexicon) -> Pair:
        return Pair(self.query.text, lexicon.products[key], self.targets[key], frozenset(self.query.gains))


def augment(recipe: Recipe, run: Path, note: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the stage. Returns what report.json says.

    Raises: FileNotFoundError, saying which stage comes first; RecipeError where a gain has no target.
    """
    rows, summary = edited_rows(recipe, load_prepared(run), note)
    _write(run / "augmented", rows, summary)
    return summary


def edited_rows(
    recipe: Recipe, prepared: Prepared, note: Callable[[str], None] = print
) -> tuple[list[Augmented], dict[str, Any]]:
    """Rows of every kind that the recipe switches on, and the report. Writes nothing.

    Raises: RecipeError where a gain has no target.
    """
    rows: list[Augmented] = []
    report: dict[str, Any] = {}
    wanted = {kind: share for kind, share in recipe.augment.shares().items() if share > 0.0}
    for one in recipe.data:
        products = prepared.products.get(one.name)
        # Without targets no cross-encoder learns from the set's labels, and none from edits of them.
        sources = _sources(recipe, prepared, one.name) if products and one.targets else []
        pairs = sum(len(source.targets) for source in sources)
        if not products or not pairs or not wanted:
            continue
        note(f"augment: learning the words of {one.name}")
        lexicon = learn(products.values(), synonyms="word" in wanted)
        for kind, share in tqdm(wanted.items(), desc=f"augment {one.name}", mininterval=2, file=sys.stderr):
            chooser = np.random.default_rng(
                [recipe.seed, zlib.crc32(kind.encode()), zlib.crc32(one.name.encode())]
            )
            count = math.ceil(share * pairs)
            found = _of_kind(kind, sources, lexicon, recipe.augment, count, chooser)
            kept = _without_leaks(found, prepared, recipe.splits.near_duplicate)
            rows += kept
            entry = report.setdefault(
                kind, {"rows": 0, "label_fell": 0, "dropped_for_leakage": 0, "sets": {}, "examples": []}
            )
            entry["rows"] += len(kept)
            entry["label_fell"] += sum(row.target < row.source_target for row in kept)
            entry["dropped_for_leakage"] += len(found) - len(kept)
            entry["sets"][one.name] = {"wanted": count, "made": len(kept)}
            entry["examples"] += [_example(row) for row in kept[:_EXAMPLES]]
    return rows, {
        "rows": len(rows),
        "recipe": asdict(recipe.augment),
        "kinds": report,
        "off": [kind for kind in AUGMENT_KINDS if kind not in wanted],
        "short": [
            f"{kind}, {name}: {counts['made']} of {counts['wanted']}; no more pairs can be edited so, or "
            "their labels would only be kept"
            for kind, entry in report.items()
            for name, counts in entry["sets"].items()
            if counts["made"] < counts["wanted"]
        ],
    }


def load_augmented(run: Path) -> list[Augmented]:
    """What `augment` wrote. Raises: FileNotFoundError, saying which stage comes first."""
    folder = run / "augmented"
    if not (folder / "report.json").is_file():
        raise FileNotFoundError(f"{folder} is not complete: run `python -m training.augment` first")
    return [Augmented(**row) for row in pq.read_table(folder / "pairs.parquet").to_pylist()]


def augmented_groups(
    recipe: Recipe,
    settings: CrossRecipe,
    prepared: Prepared,
    pieces: Pieces,
    queries: Sequence[JudgedQuery],
    rows: Iterable[Augmented],
    chooser: np.random.Generator,
    *,
    kinds: Iterable[str] | None = None,
) -> list[Group]:
    """Training steps from augmented rows, for the labelled queries that a model is trained on.

    queries: those of `training_queries(recipe, prepared, fold)`. Only rows made from one of them are
    used, and no edited or back-off query that asks what another labelled training query asks: a model
    trained without a fold sees nothing of it. kinds: only these (None: all). A row whose word pieces are
    those of the pair it was made from is left out, since no cross-encoder could see the edit (a price,
    capitals, a value behind the last token that is read). Of what is left, groups are drawn until
    `augment.share_max` times the labelled pairs of `queries` is reached. A group is one query text. Rows
    of one edited query or back-off query stand together; an edited product stands beside the product it
    was made from, with its own label, so that the step is about the edit. Each group ends with
    `settings.random_products` products of the set as target 0, none of them judged for it. Returns:
    groups in random order; no group is empty.
    """
    asked_for = set(AUGMENT_KINDS if kinds is None else kinds)
    used = {(query.set, query.query_id): query for query in queries}
    gathered: dict[tuple[str, str, str], list[Augmented]] = defaultdict(list)
    own = [row for row in rows if row.kind in asked_for and row.set in pieces.sets]
    others = [
        Text(query.set, query.query_id, query.split, query.text)
        for query in prepared.queries
        if query.split == TRAIN and query.gains and (query.set, query.query_id) not in used
    ]
    made = {row.query: Text(row.set, row.query_id, TRAIN, row.query) for row in own if row.kind in _NEW_QUERY}
    taken = {leak.train.text for leak in alike(list(made.values()), others, recipe.splits.near_duplicate)}
    for row in own:
        if row.kind in _NEW_QUERY and row.query in taken:
            continue
        if row.kind == BACK_OFF:
            gathered[row.set, row.query_id, ""].append(row)
        elif (row.set, row.source_query) in used:
            # Edited queries stand alone; edited products of one query share a group.
            alone = row.query_id if row.kind in QUERY_KINDS else ""
            gathered[row.set, row.source_query, alone].append(row)
    targets = {one.name: one.targets for one in recipe.data}
    groups: list[tuple[Group, int]] = []
    for (name, key, _), members in gathered.items():
        query = used.get((name, key))
        for start in range(0, len(members), max(1, settings.group // 2)):
            part = members[start : start + max(1, settings.group // 2)]
            group, count = _group(recipe, settings, prepared, pieces, targets, query, part, chooser)
            if group is not None:
                groups.append((group, count))
    labelled = sum(key in pieces.sets.get(query.set, {}) for query in queries for key in query.gains)
    left = recipe.augment.share_max * labelled
    chosen = []
    for at in chooser.permutation(len(groups)):
        group, count = groups[int(at)]
        if count <= left:
            chosen.append(group)
            left -= count
    return chosen


def _group(
    recipe: Recipe,
    settings: CrossRecipe,
    prepared: Prepared,
    pieces: Pieces,
    targets: Mapping[str, Mapping[str, float]],
    query: JudgedQuery | None,
    rows: Sequence[Augmented],
    chooser: np.random.Generator,
) -> tuple[Group | None, int]:
    """One step from rows of one query, and how many of its products are edited pairs."""
    of_set = pieces.sets[rows[0].set]
    fields = recipe.text.cross_fields
    texts = [product_text(row.as_product(), fields) for row in rows]
    made = pieces_of(prepared.tokenizer, texts, recipe.text.cross_tokens_max)
    asked = pieces_of(prepared.tokenizer, [rows[0].query], recipe.text.query_tokens_max)[0]
    plain = None
    if query is not None:
        plain = pieces_of(prepared.tokenizer, [query.text], recipe.text.query_tokens_max)[0]
    products: list[list[int]] = []
    wanted: list[float] = []
    beside: set[str] = set()
    for row, product in zip(rows, made, strict=True):
        if not product or (plain == asked and product == of_set.get(row.source_product)):
            continue
        products.append(product)
        wanted.append(row.target)
        if row.kind not in QUERY_KINDS and query is not None:
            beside.add(row.source_product)
    count = len(products)
    if not count or not asked:
        return None, 0
    if query is not None:
        for key in sorted(beside & of_set.keys()):
            products.append(of_set[key])
            wanted.append(target_of(targets[query.set], query.set, query.gains[key]))
    everything = list(of_set)
    known = {row.product_id for row in rows} | set(() if query is None else query.gains)
    for at in chooser.integers(len(everything), size=settings.random_products):
        if everything[int(at)] not in known and of_set[everything[int(at)]]:
            products.append(of_set[everything[int(at)]])
            wanted.append(0.0)
    return Group(asked, products, wanted), count


def target_of(targets: Mapping[str, float], name: str, gain: float) -> float:
    """What a cross-encoder should say for a gain. Raises: RecipeError where the recipe says nothing of it."""
    key = str(float(gain))
    if key not in targets:
        raise RecipeError(f"data.{name}.targets says nothing of the gain {key}")
    return targets[key]


def _sources(recipe: Recipe, prepared: Prepared, name: str) -> list[_Source]:
    targets = next(one.targets for one in recipe.data if one.name == name)
    products = prepared.products[name]
    found = []
    for query in prepared.of(name, TRAIN):
        known = {key: target_of(targets, name, gain) for key, gain in query.gains.items() if key in products}
        if known and query.text.strip():
            found.append(_Source(query, known))
    return found


def _of_kind(
    kind: str,
    sources: Sequence[_Source],
    lexicon: Lexicon,
    settings: AugmentRecipe,
    wanted: int,
    chooser: np.random.Generator,
) -> list[Augmented]:
    effect = Effect(settings.fallen, settings.related)
    if kind == BACK_OFF:
        return _back_offs(sources, lexicon, effect, settings, wanted, chooser)
    if kind in QUERY_KINDS:
        return _edited_queries(kind, sources, lexicon, effect, settings, wanted, chooser)
    rows: list[Augmented] = []
    pairs = [(source, key) for source in sources for key in source.targets]
    kept = 0
    for at in chooser.permutation(len(pairs)):
        if len(rows) >= wanted:
            break
        source, key = pairs[int(at)]
        pair = source.pair(key, lexicon)
        edited = PAIR_EDITS[kind](pair, lexicon, effect, chooser)
        if edited is None:
            continue
        if kind in VALUE_KINDS and edited.target == pair.target:
            if kept >= _KEPT_SHARE * wanted:
                continue
            kept += 1
        rows.append(_row(kind, source, key, edited, f"{source.query.query_id}~{kind}-{len(rows)}"))
    return rows


def _edited_queries(
    kind: str,
    sources: Sequence[_Source],
    lexicon: Lexicon,
    effect: Effect,
    settings: AugmentRecipe,
    wanted: int,
    chooser: np.random.Generator,
) -> list[Augmented]:
    """Rows in which one edited text stands for its query, with up to `group` of its products."""
    rows: list[Augmented] = []
    seen: set[tuple[str, str]] = set()
    for _ in range(_TRIES):
        before = len(rows)
        for at in chooser.permutation(len(sources)):
            if len(rows) >= wanted:
                return rows
            source = sources[int(at)]
            keys = list(source.targets)
            chooser.shuffle(keys)
            first = PAIR_EDITS[kind](source.pair(keys[0], lexicon), lexicon, effect, chooser)
            if first is None or (source.query.query_id, first.query) in seen:
                continue
            seen.add((source.query.query_id, first.query))
            name = f"{source.query.query_id}~{kind}-{len(rows)}"
            for key in keys[: min(settings.group, wanted - len(rows))]:
                edited = Pair(
                    first.query, lexicon.products[key], source.targets[key], frozenset(), first.note
                )
                rows.append(_row(kind, source, key, edited, name))
        if len(rows) == before:
            break
    return rows


def _back_offs(
    sources: Sequence[_Source],
    lexicon: Lexicon,
    effect: Effect,
    settings: AugmentRecipe,
    wanted: int,
    chooser: np.random.Generator,
) -> list[Augmented]:
    name = sources[0].query.set
    keys = list(lexicon.products)
    rows: list[Augmented] = []
    seen: set[str] = set()
    for at in chooser.permutation(len(keys)):
        if len(rows) >= wanted:
            break
        product = lexicon.products[keys[int(at)]]
        pairs = back_off(product, lexicon, effect, chooser, neighbours=settings.neighbours)
        if not pairs or pairs[0].query in seen:
            continue
        seen.add(pairs[0].query)
        rows += [
            Augmented(
                set=name,
                query_id=f"~{BACK_OFF}-{product.product_id}",
                query=pair.query,
                product_id=pair.product.product_id,
                product=pair.product.SerializeToString(deterministic=True),
                target=pair.target,
                kind=BACK_OFF,
                source_query="",
                source_product=product.product_id,
                source_target=1.0,
                note=pair.note,
            )
            for pair in pairs[: max(1, wanted - len(rows))]
        ]
    return rows


def _row(kind: str, source: _Source, key: str, edited: Pair, query_id: str) -> Augmented:
    return Augmented(
        set=source.query.set,
        query_id=query_id,
        query=edited.query,
        product_id=edited.product.product_id,
        product=edited.product.SerializeToString(deterministic=True),
        target=edited.target,
        kind=kind,
        source_query=source.query.query_id,
        source_product=key,
        source_target=source.targets[key],
        note=edited.note,
    )


def _without_leaks(rows: Sequence[Augmented], prepared: Prepared, near_duplicate: float) -> list[Augmented]:
    """Rows whose query is new and like none outside the training split are kept, as are unedited queries."""
    made = {
        row.query: Text(row.set, row.query_id, TRAIN, row.query) for row in rows if row.kind in _NEW_QUERY
    }
    outside = [
        Text(query.set, query.query_id, query.split, query.text)
        for query in prepared.queries
        if query.split not in (TRAIN, UNLABELLED)
    ]
    leaked = {leak.train.text for leak in alike(list(made.values()), outside, near_duplicate)}
    return [row for row in rows if row.query not in leaked or row.query not in made]


def _example(row: Augmented) -> dict[str, Any]:
    return {
        "set": row.set,
        "query": row.query,
        "title": row.as_product().title,
        "target": row.target,
        "was": row.source_target,
        "note": row.note,
    }


def _write(folder: Path, rows: Sequence[Augmented], summary: Mapping[str, Any]) -> None:
    """Both files beside their places, then moved: the report last, as the sign that all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "pairs.parquet.part"
    pq.write_table(
        pa.Table.from_pylist([vars(row) for row in rows], schema=_SCHEMA), part, compression="zstd"
    )
    report = folder / "report.json.part"
    report.write_text(json.dumps(summary, indent=2, ensure_ascii=False), encoding="utf-8")
    (folder / "report.json").unlink(missing_ok=True)
    part.replace(folder / "pairs.parquet")
    report.replace(folder / "report.json")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    arguments = stage_arguments("Edited copies of the labelled pairs.", argv)
    summary = augment(arguments.recipe, arguments.run, note=lambda text: print(text, file=sys.stderr))
    print(json.dumps(summary, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
