"""Prepare: products, queries and labels of every data set as one checked table set, and the vocabulary.

Writes `prepared/` in the run folder: products.parquet (set, product_id, serialised Product), judgements.json,
tokenizer.json (the pretrained one, cut to the language of the catalogues), vocabulary.json (old token ids in
new order) and data.json (counts, and what the leakage check found).
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from muster.products import read_judgements, read_products
from muster.v1 import catalogue_pb2
from training.data.text import product_text
from training.models.networks import pretrained_folder
from training.recipe import DataSet, Recipe, RecipeError, stage_arguments

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_COUNTED_TOKENS_MAX = 96


@dataclass(frozen=True)
class JudgedQuery:
    """One query with what is known about its products. gains: product id to gain, as in the file."""

    set: str
    query_id: str
    split: str
    text: str
    gains: Mapping[str, float]


@dataclass(frozen=True)
class Prepared:
    """What `prepare` wrote. products: set name to product id to product."""

    products: Mapping[str, Mapping[str, catalogue_pb2.Product]]
    queries: Sequence[JudgedQuery]
    tokenizer: Tokenizer
    kept_tokens: Sequence[int]

    def of(self, name: str, split: str) -> list[JudgedQuery]:
        """The queries of one set and split."""
        return [query for query in self.queries if query.set == name and query.split == split]


def prepare(recipe: Recipe, data: Path, run: Path) -> dict[str, Any]:
    """Read, check and write everything. Returns what data.json says.

    Raises: ProductFileError; RecipeError where a query of the training split is also in another split.
    """
    out = run / "prepared"
    out.mkdir(parents=True, exist_ok=True)
    products: dict[str, dict[str, catalogue_pb2.Product]] = {}
    queries: list[JudgedQuery] = []
    for one in recipe.data:
        folder = _filtered(one, data / one.folder, out / "filtered" / one.name)
        if one.role != "queries":
            products[one.name] = {
                product.product_id: product for product in read_products(folder, one.map or None)
            }
        queries.extend(_read_queries(one, folder))
    leaks = find_leaks(queries)
    # A pair that repeats a judged dev query would let the models see dev: it is dropped, and counted.
    queries = [query for query in queries if (query.set, query.query_id) not in leaks]
    if not any(query.split == "train" and query.gains for query in queries):
        raise RecipeError("no labelled training query is left")
    tokenizer, kept = cut_vocabulary(
        recipe, (product for table in products.values() for product in table.values()), queries
    )
    rows = [
        (name, key, one.SerializeToString()) for name, table in products.items() for key, one in table.items()
    ]
    columns = list(zip(*rows, strict=True))
    pq.write_table(
        pa.table({"set": columns[0], "product_id": columns[1], "product": columns[2]}),
        out / "products.parquet",
        compression="zstd",
    )
    (out / "judgements.json").write_text(
        json.dumps([vars(query) | {"gains": dict(query.gains)} for query in queries])
    )
    (out / "tokenizer.json").write_text(tokenizer)
    (out / "vocabulary.json").write_text(json.dumps(kept))
    summary: dict[str, Any] = {
        "sets": {
            one.name: {
                "products": len(products.get(one.name, {})),
                "queries": dict(Counter(query.split for query in queries if query.set == one.name)),
                "labels": sum(len(query.gains) for query in queries if query.set == one.name),
                "licence": one.licence,
                "source": one.source,
            }
            for one in recipe.data
        },
        "dropped_for_leakage": len(leaks),
        "vocabulary": len(kept),
    }
    (out / "data.json").write_text(json.dumps(summary, indent=2))
    return summary


def load_prepared(run: Path) -> Prepared:
    """What `prepare` wrote. Raises: FileNotFoundError, saying which stage comes first."""
    folder = run / "prepared"
    if not (folder / "data.json").is_file():
        raise FileNotFoundError(f"{folder} is not complete: run `python -m training.prepare` first")
    products: dict[str, dict[str, catalogue_pb2.Product]] = {}
    for row in pq.read_table(folder / "products.parquet").to_pylist():
        products.setdefault(row["set"], {})[row["product_id"]] = catalogue_pb2.Product.FromString(
            row["product"]
        )
    queries = [JudgedQuery(**row) for row in json.loads((folder / "judgements.json").read_text())]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Prepared(products, queries, tokenizer, json.loads((folder / "vocabulary.json").read_text()))


def find_leaks(queries: Iterable[JudgedQuery]) -> set[tuple[str, str]]:
    """Training queries (set, id) whose words are those of a query outside the training split."""
    queries = list(queries)
    kept_out = {_words(query.text) for query in queries if query.split != "train"}
    return {
        (query.set, query.query_id)
        for query in queries
        if query.split == "train" and _words(query.text) in kept_out
    }


def cut_vocabulary(
    recipe: Recipe, products: Iterable[catalogue_pb2.Product], queries: Iterable[JudgedQuery]
) -> tuple[str, list[int]]:
    """Cut the pretrained WordPiece vocabulary to what products and queries use.

    Kept: special tokens, single ASCII and Latin-1 characters (so any such word still has pieces), the pieces
    of all queries, then the commonest pieces of the products. Returns: the tokenizer as JSON, and old token
    ids in the order of the new ones.
    """
    folder = pretrained_folder(recipe.pretrained)
    value = json.loads((folder / "tokenizer.json").read_text())
    value["padding"] = value["truncation"] = None
    whole = Tokenizer.from_str(json.dumps(value))
    vocabulary: dict[str, int] = value["model"]["vocab"]
    counts: Counter[int] = Counter()
    texts = [product_text(one, ("title", "brand", "category", "description", "bullets")) for one in products]
    for encoding in whole.encode_batch(texts, add_special_tokens=False):
        counts.update(encoding.ids[:_COUNTED_TOKENS_MAX])
    asked: set[int] = set()
    for encoding in whole.encode_batch([query.text for query in queries], add_special_tokens=False):
        asked.update(encoding.ids)
    kept = {vocabulary[token] for token in SPECIAL_TOKENS}
    kept |= {
        number
        for token, number in vocabulary.items()
        if len(token.removeprefix("##")) == 1 and ord(token[-1]) < 0x250
    }
    kept |= asked
    for number, count in counts.most_common():
        if len(kept) >= recipe.vocabulary.tokens_max or count < recipe.vocabulary.count_min:
            break
        kept.add(number)
    order = sorted(kept)
    renumbered = {old: new for new, old in enumerate(order)}
    value["model"]["vocab"] = {
        token: renumbered[number]
        for token, number in sorted(vocabulary.items(), key=lambda item: item[1])
        if number in renumbered
    }
    value["added_tokens"] = [
        one | {"id": renumbered[one["id"]]} for one in value["added_tokens"] if one["id"] in renumbered
    ]
    processor = value.get("post_processor") or {}
    for special in processor.get("special_tokens", {}).values():
        special["ids"] = [renumbered[number] for number in special["ids"]]
    for part in ("cls", "sep"):
        if part in processor:
            processor[part] = [processor[part][0], renumbered[processor[part][1]]]
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")), order


def _words(text: str) -> tuple[str, ...]:
    return tuple(sorted(re.findall(r"\w+", text.lower())))


def _filtered(one: DataSet, folder: Path, out: Path) -> Path:
    if not one.where:
        return folder
    out.mkdir(parents=True, exist_ok=True)
    for name in ("products.parquet", "queries.parquet", "labels.parquet"):
        table = pq.read_table(folder / name)
        for column, wanted in one.where.items():
            if column not in table.column_names:
                raise RecipeError(f"data.{one.name}.where: {folder / name} has no column {column!r}")
            table = table.filter(pc.equal(table[column], wanted))
        pq.write_table(table, out / name)
    return out


def _read_queries(one: DataSet, folder: Path) -> list[JudgedQuery]:
    table = pq.read_table(folder / "queries.parquet")
    splits = sorted(set(table["split"].to_pylist())) if "split" in table.column_names else ["train"]
    found = []
    for split in splits:
        if one.role == "queries":
            rows = (
                table.filter(pc.equal(table["split"], split)).to_pylist()
                if "split" in table.column_names
                else table.to_pylist()
            )
            found += [JudgedQuery(one.name, str(row["query_id"]), split, row["query"], {}) for row in rows]
            continue
        judgements = read_judgements(folder, split)
        found += [
            JudgedQuery(one.name, key, split, text, dict(judgements.gains[key]))
            for key, text in judgements.queries.items()
        ]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    arguments = stage_arguments("Prepare the data sets and the vocabulary.", argv)
    print(json.dumps(prepare(arguments.recipe, arguments.data, arguments.run), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
