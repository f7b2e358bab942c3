"""Product feeds as they come when something is wrong at the seller: rows garbled in a dozen ways between good
ones.

Written as CSV, byte by byte, because half of what goes wrong cannot be said in a text.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from muster.v1 import catalogue_pb2

MALFORMED = "malformed"
SUSPICIOUS = "suspicious"
GOOD = "good"

_NUMBERS = ("price", "stock", "rating", "rating_count", "popularity")
Fields = dict[str, str | bytes]
Spoil = Callable[[Fields, random.Random, Sequence[str]], None]


@dataclass(frozen=True)
class Garbling:
    """One way to spoil a row. kind: what the loader must see in it. spoil: changes the fields of a row, as
    text or bytes; words: of the queries that are asked."""

    name: str
    kind: str
    spoil: Spoil


def _set(**fields: str) -> Spoil:
    return lambda row, draw, words: row.update(fields)


def _broken_utf8(row: Fields, draw: random.Random, words: Sequence[str]) -> None:
    row["title"] = _text(row, "title").encode() + b" caf\xe9 \xff"


def _another_length(row: Fields, draw: random.Random, words: Sequence[str]) -> None:
    row["extra"] = "one field too many"


def _mojibake(row: Fields, draw: random.Random, words: Sequence[str]) -> None:
    row["title"] = f"{_text(row, 'title')} \u2013 crème".encode().decode("latin-1")


def _markup(row: Fields, draw: random.Random, words: Sequence[str]) -> None:
    row["title"] = f"<div class='t'><b>{_text(row, 'title')}</b></div>"


def _control(row: Fields, draw: random.Random, words: Sequence[str]) -> None:
    row["title"] = "\x01".join(_text(row, "title").split())


def _swapped(row: Fields, draw: random.Random, words: Sequence[str]) -> None:
    title = _text(row, "title")
    row.update(title=_text(row, "price") or "17.5", price="12", brand=f"{title} with a long tail of words")


def _stuffed(row: Fields, draw: random.Random, words: Sequence[str]) -> None:
    query = draw.choice(words)
    row["title"] = " ".join([query] * (40 // max(1, len(query.split()))))[:590]
    row["description"] = row["bullets"] = ""


def _huge(row: Fields, draw: random.Random, words: Sequence[str]) -> None:
    row["description"] = " ".join(draw.choice(words) for _ in range(4_000))


GARBLINGS: tuple[Garbling, ...] = (
    Garbling("broken_utf8", MALFORMED, _broken_utf8),
    Garbling("empty_title", MALFORMED, _set(title="  ")),
    Garbling("negative_price", MALFORMED, _set(price="-4.99")),
    Garbling("no_number", MALFORMED, _set(price="call us")),
    Garbling("another_length", MALFORMED, _another_length),
    Garbling("no_id", MALFORMED, _set(product_id="")),
    Garbling("long_title", MALFORMED, _set(title="x" * 2_100)),
    Garbling("mojibake", SUSPICIOUS, _mojibake),
    Garbling("markup", SUSPICIOUS, _markup),
    Garbling("control", SUSPICIOUS, _control),
    Garbling("price_zero", SUSPICIOUS, _set(price="0")),
    Garbling("price_huge", SUSPICIOUS, _set(price="1e12")),
    Garbling("swapped", SUSPICIOUS, _swapped),
    Garbling("stuffed", SUSPICIOUS, _stuffed),
    Garbling("huge", SUSPICIOUS, _huge),
)
"""Each row of a kind must be seen as that; a repeated product identifier comes on top of them."""


@dataclass(frozen=True)
class Row:
    """A row as it was written. row: its number, from 1. kind: malformed, suspicious or good."""

    row: int
    product_id: str
    kind: str
    garbling: str = ""


def write_feed(
    path: Path,
    products: Sequence[catalogue_pb2.Product],
    queries: Sequence[str],
    *,
    garbled: Sequence[catalogue_pb2.Product],
    seed: int,
) -> list[Row]:
    """Writes a CSV feed with every product as a good row, and among them the garbled ones, each in one of the
    ways in turn; then one good row a second time. Returns what was written, in file order.

    queries: what is asked of the service, for stuffing. garbled: products whose rows are spoiled; none of
    `products`.
    """
    draw = random.Random(seed)
    rows: list[tuple[catalogue_pb2.Product, Garbling | None]] = [(product, None) for product in products]
    rows += [(product, GARBLINGS[place % len(GARBLINGS)]) for place, product in enumerate(garbled)]
    draw.shuffle(rows)
    written: list[Row] = []
    with path.open("wb") as file:
        file.write(",".join(_fields(catalogue_pb2.Product())).encode() + b"\n")
        for number, (product, garbling) in enumerate(rows, start=1):
            fields = _fields(product)
            if garbling is not None:
                garbling.spoil(fields, draw, queries)
            file.write(b",".join(_quoted(value) for value in fields.values()) + b"\n")
            kind, name = (GOOD, "") if garbling is None else (garbling.kind, garbling.name)
            written.append(Row(number, product.product_id, kind, name))
        if products:
            again = _fields(products[0])
            again["title"] = "a second row of one product"
            file.write(b",".join(_quoted(value) for value in again.values()) + b"\n")
            written.append(Row(len(rows) + 1, products[0].product_id, MALFORMED, "repeated_id"))
    return written


def _fields(product: catalogue_pb2.Product) -> Fields:
    """A product as a row of Muster's own columns; a number that it lacks is empty."""
    numbers = {field.name: repr(value) for field, value in product.ListFields() if field.name in _NUMBERS}

    return {
        "product_id": product.product_id,
        "title": product.title,
        "brand": product.brand,
        "category": " > ".join(product.category),
        "bullets": "\n".join(product.bullets),
        "description": product.description,
        "attributes": json.dumps(dict(product.attributes)),
        **{name: numbers.get(name, "") for name in _NUMBERS},
    }


def _text(row: Fields, name: str) -> str:
    value = row[name]
    assert isinstance(value, str)
    return value


def _quoted(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return b'"' + raw.replace(b'"', b'""') + b'"'
