"""Prepare: products, queries, labels, classes and behaviour as one checked table set, and the vocabulary.

Writes `prepared/` in the run folder: products.parquet (set, product_id, serialised Product), judgements.json,
classes.parquet and sequences.parquet where the recipe has such sets, tokenizer.json (the pretrained one, cut
to the language of the data), vocabulary.json (old token ids in new order, -1 for added characters), data.json
(counts, lengths, hashes, and what the leakage check found) and data_card.md (the same for people). The folder
is complete or absent: it is written beside its place and then renamed.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer
from tqdm import tqdm  # type: ignore[import-untyped]

from muster.products.errors import ProductError
from muster.v1 import catalogue_pb2
from training.data.adapters import read_set
from training.data.card import card_markdown, leakage_facts, set_facts
from training.data.checks import check_tables
from training.data.leakage import Text, alike, find_leaks
from training.data.splits import split_of
from training.data.tables import DEV, TEST, TRAIN, ClassText, DataTables, JudgedQuery, UserSequence
from training.data.vocabulary import cut_vocabulary
from training.models.networks import NEW_ROW
from training.recipe import DataSet, Recipe, RecipeError, stage_arguments

__all__ = [
    "ClassText",
    "JudgedQuery",
    "Prepared",
    "UserSequence",
    "load_classes",
    "load_prepared",
    "load_sequences",
    "prepare",
]


@dataclass(frozen=True)
class Prepared:
    """What `prepare` wrote. products: set name to product id to product.

    kept_tokens: old token ids in the order of the new vocabulary, -1 for characters that were added.
    """

    products: Mapping[str, Mapping[str, catalogue_pb2.Product]]
    queries: Sequence[JudgedQuery]
    tokenizer: Tokenizer
    kept_tokens: Sequence[int]

    def of(self, name: str, split: str) -> list[JudgedQuery]:
        """The queries of one set and split."""
        return [query for query in self.queries if query.set == name and query.split == split]


def prepare(recipe: Recipe, data: Path, run: Path) -> dict[str, Any]:
    """Read, check and write everything. Returns what data.json says.

    Raises: ProductFileError naming file, row and column; RecipeError where the recipe asks for what the data
    does not hold.
    """
    tables = {
        one.name: _with_splits(recipe, one, read_set(one, data))
        for one in tqdm(recipe.data, desc="reading sets", disable=None)
    }
    texts = []
    for found in tables.values():
        texts += [Text(one.set, one.query_id, one.split, one.text) for one in found.queries]
        texts += [Text(one.set, one.text_id, one.split, one.text) for one in found.classes]
    dev, test = ([text for text in texts if text.split == split] for split in (DEV, TEST))
    near_duplicate = recipe.splits.near_duplicate
    leaks, shared = find_leaks(texts, near_duplicate), alike(dev, test, near_duplicate)
    # A training text that repeats one of dev would let the models see dev: it is dropped, and counted.
    dropped = {(leak.train.set, leak.train.key) for leak in leaks}
    for found in tables.values():
        found.queries = [one for one in found.queries if (one.set, one.query_id) not in dropped]
        found.classes = [one for one in found.classes if (one.set, one.text_id) not in dropped]
    check_tables(recipe, tables)
    vocabulary, kept = cut_vocabulary(
        recipe,
        (product for found in tables.values() for product in found.products.values()),
        (query for found in tables.values() for query in found.queries),
        (text.text for found in tables.values() for text in found.classes),
    )
    tokenizer = Tokenizer.from_str(vocabulary)
    summary: dict[str, Any] = {
        "sets": {
            one.name: set_facts(recipe, one, tables[one.name], tokenizer, data)
            for one in tqdm(recipe.data, desc="counting", disable=None)
        },
        "dropped_for_leakage": len(leaks),
        "leakage": leakage_facts(leaks, shared, near_duplicate),
        "vocabulary": len(kept),
        "vocabulary_added": sum(token == NEW_ROW for token in kept),
    }
    _write(run / "prepared", recipe, tables, vocabulary, kept, summary)
    return summary


def load_prepared(run: Path) -> Prepared:
    """What `prepare` wrote. Raises: FileNotFoundError, saying which stage comes first."""
    folder = _complete(run)
    products: dict[str, dict[str, catalogue_pb2.Product]] = {}
    for row in pq.read_table(folder / "products.parquet").to_pylist():
        products.setdefault(row["set"], {})[row["product_id"]] = catalogue_pb2.Product.FromString(
            row["product"]
        )
    queries = [JudgedQuery(**row) for row in json.loads((folder / "judgements.json").read_text())]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Prepared(products, queries, tokenizer, json.loads((folder / "vocabulary.json").read_text()))


def load_classes(run: Path) -> list[ClassText]:
    """The classed texts that `prepare` wrote, none where the recipe has no such set.

    Raises: FileNotFoundError, saying which stage comes first.
    """
    path = _complete(run) / "classes.parquet"
    return [ClassText(**row) for row in pq.read_table(path).to_pylist()] if path.is_file() else []


def load_sequences(run: Path) -> list[UserSequence]:
    """The behaviour that `prepare` wrote, none where the recipe has no such set.

    Raises: FileNotFoundError, saying which stage comes first.
    """
    path = _complete(run) / "sequences.parquet"
    if not path.is_file():
        return []
    rows = pq.read_table(path).to_pylist()
    return [UserSequence(row["set"], row["user_id"], tuple(row["items"])) for row in rows]


def _complete(run: Path) -> Path:
    folder, part, old = _places(run / "prepared")
    if old.exists() and not folder.exists() and (part / "data.json").is_file():
        # Killed between the two renames: what was written is complete, only not yet in its place.
        part.rename(folder)
    if not (folder / "data.json").is_file():
        raise FileNotFoundError(f"{folder} is not complete: run `python -m training.prepare` first")
    return folder


def _with_splits(recipe: Recipe, one: DataSet, found: DataTables) -> DataTables:
    """Give each query and text without a split one."""

    def chosen(text: str) -> str:
        # Nothing is measured on texts that nobody judged, so none of them needs to be held out.
        return TRAIN if one.role == "queries" else split_of(text, recipe.splits, recipe.seed)

    found.queries = [each if each.split else replace(each, split=chosen(each.text)) for each in found.queries]
    found.classes = [each if each.split else replace(each, split=chosen(each.text)) for each in found.classes]
    found.queries.sort(key=lambda query: query.split)
    return found


def _places(folder: Path) -> tuple[Path, Path, Path]:
    """The folder, where it is written, and where the older one waits until the new one is in its place."""
    return folder, folder.with_name(f"{folder.name}.part"), folder.with_name(f"{folder.name}.old")


def _write(
    folder: Path,
    recipe: Recipe,
    tables: Mapping[str, DataTables],
    tokenizer: str,
    kept: Sequence[int],
    summary: Mapping[str, Any],
) -> None:
    folder, part, old = _places(folder)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    text = pa.string()
    products = [
        {"set": name, "product_id": key, "product": product.SerializeToString()}
        for name, found in tables.items()
        for key, product in found.products.items()
    ]
    schema = pa.schema({"set": text, "product_id": text, "product": pa.binary()})
    pq.write_table(pa.Table.from_pylist(products, schema), part / "products.parquet", compression="zstd")
    classes = [vars(one) for found in tables.values() for one in found.classes]
    if classes:
        schema = pa.schema(dict.fromkeys(("set", "text_id", "split", "text", "label"), text))
        pq.write_table(pa.Table.from_pylist(classes, schema), part / "classes.parquet", compression="zstd")
    sequences = [vars(one) for found in tables.values() for one in found.sequences]
    if sequences:
        schema = pa.schema({"set": text, "user_id": text, "items": pa.list_(text)})
        rows = pa.Table.from_pylist(sequences, schema)
        pq.write_table(rows, part / "sequences.parquet", compression="zstd")
    queries = [query for found in tables.values() for query in found.queries]
    (part / "judgements.json").write_text(
        json.dumps([vars(query) | {"gains": dict(query.gains)} for query in queries])
    )
    (part / "tokenizer.json").write_text(tokenizer)
    (part / "vocabulary.json").write_text(json.dumps(kept))
    (part / "data_card.md").write_text(card_markdown(recipe.name, summary))
    (part / "data.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False))
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    try:
        arguments = stage_arguments("Prepare the data sets and the vocabulary.", argv)
        summary = prepare(arguments.recipe, arguments.data, arguments.run)
    except (RecipeError, ProductError, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 2
    print(card_markdown(arguments.recipe.name, summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
