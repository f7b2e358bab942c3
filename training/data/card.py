"""The data card: what the sets of a run hold, in numbers, for `data.json` and for people."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter, methodcaller
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from training.data.leakage import Leak, Text
from training.data.tables import DataTables
from training.data.text import product_text
from training.data.vocabulary import unknown_characters
from training.recipe import DataSet, Recipe

_EXAMPLES = 5
_PRODUCT_FIELDS = (
    *("title", "brand", "category", "bullets", "description", "attributes"),
    *("price", "stock", "rating", "rating_count"),
)
_LIVE = ("price", "stock", "rating", "rating_count")
# First code point of a block and its script; what lies between named blocks is "other".
_BLOCKS = (
    (0x41, "Latin"),
    (0x250, "other"),
    (0x370, "Greek"),
    (0x400, "Cyrillic"),
    (0x530, "other"),
    (0x590, "Hebrew"),
    (0x600, "Arabic"),
    (0x780, "other"),
    (0x900, "Indic"),
    (0xE00, "Thai"),
    (0xE80, "other"),
    (0x1100, "Hangul"),
    (0x1200, "other"),
    (0x1E00, "Latin"),
    (0x1F00, "Greek"),
    (0x2000, "other"),
    (0x3040, "Kana"),
    (0x3100, "other"),
    (0x3400, "Han"),
    (0xA000, "other"),
    (0xAC00, "Hangul"),
    (0xD7B0, "other"),
    (0xF900, "Han"),
    (0xFB00, "other"),
    (0x20000, "Han"),
    (0x2FA20, "other"),
)
_STARTS = [start for start, _ in _BLOCKS]


def set_facts(
    recipe: Recipe, one: DataSet, found: DataTables, tokenizer: Tokenizer, data: Path
) -> dict[str, Any]:
    """What data.json says of one set, after the leakage check. data: folder that file names are relative to.

    Lengths count characters and word pieces; `cut` is the share of texts longer than the recipe lets through.
    `unknown_characters` is the share of characters without word pieces. `scripts` is the share of texts whose
    letters are mostly of a script.
    """
    facts: dict[str, Any] = {
        "role": one.role,
        "products": len(found.products),
        "queries": dict(sorted(Counter(query.split for query in found.queries).items())),
        "labels": sum(len(query.gains) for query in found.queries),
        "licence": one.licence,
        "source": one.source,
        "files": {_relative(path, data): file_facts(path) for path in dict.fromkeys(found.files)},
        "lengths": {},
        "unknown_characters": {},
    }
    titles = [product.title for product in found.products.values()]
    questions = [query.text for query in found.queries]
    classed = [text.text for text in found.classes]
    if found.products:
        facts["missing"] = missing_shares(found)
        texts = [product_text(product, recipe.text.dense_fields) for product in found.products.values()]
        _measure(facts, "products", texts, tokenizer, recipe.text.dense_tokens_max)
    if questions:
        _measure(facts, "queries", questions, tokenizer, recipe.text.query_tokens_max)
        facts["grades"] = _nested(
            Counter(
                (str(float(gain)), query.split) for query in found.queries for gain in query.gains.values()
            )
        )
        facts["grades_without_labels"] = sorted(set(one.targets) - set(facts["grades"]))
        facts["unlabelled_queries"] = dict(Counter(each.split for each in found.queries if not each.gains))
        facts["labels_repeated"] = found.repeated_labels
        facts["labels_of_unknown_queries"] = found.unknown_queries
        facts["labels_of_unknown_products"] = found.unknown_products
    if classed:
        _measure(facts, "texts", classed, tokenizer, recipe.text.dense_tokens_max)
        facts["classes"] = _nested(Counter((text.label or "none", text.split) for text in found.classes))
        facts["texts"] = dict(sorted(Counter(text.split for text in found.classes).items()))
        facts["texts_repeated"] = found.repeated_labels
    if found.sequences:
        lengths = [len(sequence.items) for sequence in found.sequences]
        facts["behaviour"] = {
            "users": len(lengths),
            "items": len({item for sequence in found.sequences for item in sequence.items}),
            "interactions": sum(lengths),
            "length": _spread(lengths),
        }
    facts["scripts"] = script_shares([*titles, *questions, *classed])
    return facts


def leakage_facts(leaks: Sequence[Leak], held_out: Sequence[Leak], near_duplicate: float) -> dict[str, Any]:
    """What data.json says of leaks. held_out: texts of dev that are like one of test (they stay)."""
    by_kind: dict[str, list[Leak]] = {}
    for leak in leaks:
        by_kind.setdefault(leak.kind, []).append(leak)
    return {
        "near_duplicate": near_duplicate,
        "dropped": len(leaks),
        "dropped_by_set": dict(sorted(Counter(leak.train.set for leak in leaks).items())),
        "kinds": {
            kind: {
                "dropped": len(found),
                "examples": [
                    {
                        "dropped": _named(leak.train),
                        "because_of": _named(leak.other),
                        "similarity": round(leak.similarity, 3),
                    }
                    for leak in found[:_EXAMPLES]
                ],
            }
            for kind, found in sorted(by_kind.items())
        },
        "shared_by_dev_and_test": len(held_out),
    }


def file_facts(path: Path) -> dict[str, Any]:
    """sha256 and size of an input file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def missing_shares(found: DataTables) -> dict[str, float]:
    """Share of the products that lack a field, 0 to 1, for every field."""
    shares = {}
    for name in _PRODUCT_FIELDS:
        # A live column that is 0 is known; `HasField` knows only live columns.
        known: Callable[[Any], Any] = methodcaller("HasField", name) if name in _LIVE else attrgetter(name)
        lacking = sum(not known(product) for product in found.products.values())
        shares[name] = round(lacking / len(found.products), 4)
    return shares


def script_of(text: str) -> str:
    """The script that most letters of a text are of; "none" for a text without letters."""
    counts: Counter[str] = Counter()
    for character in text:
        if character.isalpha():
            counts[_BLOCKS[bisect_right(_STARTS, ord(character)) - 1][1]] += 1
    return counts.most_common(1)[0][0] if counts else "none"


def script_shares(texts: Sequence[str]) -> dict[str, float]:
    """Script to the share of the texts that are written in it, greatest first."""
    counts = Counter(script_of(text) for text in texts)
    return {script: round(count / len(texts), 4) for script, count in counts.most_common()}


def card_markdown(name: str, summary: Mapping[str, Any]) -> str:
    """data_card.md, from what data.json says."""
    lines = [
        f"# Data of {name}",
        "",
        f"Vocabulary: {summary['vocabulary']} word pieces, {summary['vocabulary_added']} of them characters "
        "that the pretrained model lacked.",
        "",
        "| set | role | products | train | dev | test | unlabelled | labels | licence |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, facts in summary["sets"].items():
        unlabelled = Counter(facts.get("unlabelled_queries", {}))
        splits = Counter(facts["queries"]) - unlabelled + Counter(facts.get("texts", {}))
        splits["unlabelled"] += unlabelled.total()
        cells = [splits[split] for split in ("train", "dev", "test", "unlabelled")]
        lines.append(
            f"| {key} | {facts['role']} | {facts['products']} | {' | '.join(map(str, cells))} | "
            f"{facts['labels']} | {facts['licence']} |"
        )
    lines += ["", "Train, dev and test count queries with labels; of sets of classes, texts.", ""]
    lines += _leakage_lines(summary["leakage"])
    for key, facts in summary["sets"].items():
        lines += ["", f"## {key}", "", f"Source: {facts['source']}. Licence: {facts['licence']}.", ""]
        lines += _set_lines(facts)
    return "\n".join(lines) + "\n"


def _leakage_lines(leakage: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Leakage between splits",
        "",
        f"{leakage['dropped']} training texts were dropped because a text of another split, of any set, has "
        f"at least {leakage['near_duplicate']:.0%} of the words in common (Jaccard). "
        f"{leakage['shared_by_dev_and_test']} texts of dev are like one of test; they stay.",
    ]
    if leakage["kinds"]:
        lines += ["", "| kind | dropped |", "|---|---|"]
        lines += [f"| {kind} | {found['dropped']} |" for kind, found in leakage["kinds"].items()]
    return lines


def _set_lines(facts: Mapping[str, Any]) -> list[str]:
    lines = []
    scripts = ", ".join(f"{script} {share:.1%}" for script, share in facts["scripts"].items())
    if scripts:
        lines += [f"Languages, by the script of a text: {scripts}.", ""]
    if facts["lengths"]:
        lines += [
            "| text | characters p50 / p95 / most | pieces p50 / p95 / most | cut | without pieces |",
            "|---|---|---|---|---|",
        ]
        for kind, found in facts["lengths"].items():
            spreads = (
                " / ".join(str(found[unit][at]) for at in ("p50", "p95", "max"))
                for unit in ("characters", "pieces")
            )
            unknown = facts["unknown_characters"][kind]
            lines.append(f"| {kind} | {' | '.join(spreads)} | {found['cut']:.1%} | {unknown:.2%} |")
        lines.append("")
    for title, key in (("gain", "grades"), ("class", "classes")):
        if facts.get(key):
            splits = sorted({split for counts in facts[key].values() for split in counts})
            lines += [f"| {title} | {' | '.join(splits)} |", "|---" * (len(splits) + 1) + "|"]
            lines += [
                f"| {value} | {' | '.join(str(counts.get(split, 0)) for split in splits)} |"
                for value, counts in facts[key].items()
            ]
            lines.append("")
    if "missing" in facts:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in facts["missing"].items())
        lines += [f"Products without: {shares}.", ""]
    if "behaviour" in facts:
        found, length = facts["behaviour"], facts["behaviour"]["length"]
        lines += [
            f"{found['users']} users, {found['items']} items, {found['interactions']} interactions; "
            f"length p50 {length['p50']}, p95 {length['p95']}, most {length['max']}.",
            "",
        ]
    oddities = (
        ("grades_without_labels", "Declared gains that no label has"),
        ("labels_repeated", "Labels said twice"),
        ("texts_repeated", "Texts said twice"),
        ("labels_of_unknown_queries", "Labels of queries that the set lacks, left out"),
        ("labels_of_unknown_products", "Labels of products that the set lacks"),
    )
    for key, words in oddities:
        if facts.get(key):
            value = ", ".join(facts[key]) if isinstance(facts[key], list) else facts[key]
            lines += [f"{words}: {value}.", ""]
    lines += ["| file | bytes | sha256 |", "|---|---|---|"]
    lines += [f"| {path} | {file['bytes']} | `{file['sha256']}` |" for path, file in facts["files"].items()]
    return lines


def _measure(facts: dict[str, Any], kind: str, texts: Sequence[str], tokenizer: Tokenizer, most: int) -> None:
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    pieces = [len(one.ids) for one in encodings]
    characters = sum(len(text) - sum(map(text.count, (" ", "\n", "\t"))) for text in texts)
    unknown = sum(unknown_characters(tokenizer, one) for one in encodings)
    facts["lengths"][kind] = {
        "characters": _spread([len(text) for text in texts]),
        "pieces": _spread(pieces),
        "cut": round(sum(count > most for count in pieces) / len(pieces), 4),
    }
    facts["unknown_characters"][kind] = round(unknown / max(1, characters), 5)


def _spread(values: Sequence[int]) -> dict[str, int]:
    return {
        "p50": int(np.percentile(values, 50)),
        "p95": int(np.percentile(values, 95)),
        "max": int(max(values)),
    }


def _nested(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (value, split), count in sorted(counts.items()):
        nested.setdefault(value, {})[split] = count
    return nested


def _named(text: Text) -> dict[str, str]:
    return {"set": text.set, "id": text.key, "split": text.split, "text": text.text}


def _relative(path: Path, data: Path) -> str:
    try:
        return path.relative_to(data).as_posix()
    except ValueError:
        return path.as_posix()
