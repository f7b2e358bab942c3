"""A synthetic catalogue of any size, with queries whose relevance is known by construction.

Every product is a pure function of the seed and its number, so the first thousand products of a catalogue of
a million are those of one of a thousand, nothing is kept in memory, and the same seed gives the same
bytes. Relevance is decided on facts (type, brand, attributes), never on text, while the text is varied:
synonyms, word orders, left-out words, brands that are given only in their field.

Grades: 3 the type and all wishes of the query hold; 2 the type holds and all wishes but one; 1 the type holds
with fewer wishes, or another type of the same shelf with all of them; 0 everything else. Gain = grade.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from muster.products.judgements import Judgements
from muster.v1 import catalogue_pb2

Item = TypeVar("Item")

SPLIT_SHARES = (("train", 0.6), ("dev", 0.8), ("test", 1.0))
_BATCH_ROWS = 4_096


@dataclass(frozen=True)
class ProductType:
    """One kind of product. names: the first is what sellers write most; any of them may be asked for."""

    names: tuple[str, ...]
    department: str
    shelf: str
    price: float
    attributes: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """What is true of one product, whatever its text says. attributes: name to value."""

    number: int
    type: int
    brand: str
    attributes: dict[str, str]


@dataclass(frozen=True)
class Query:
    """One query and what it wants. wishes: ("brand", value) or (attribute name, value)."""

    query_id: str
    text: str
    split: str
    type: int
    wishes: tuple[tuple[str, str], ...]


_VALUES: dict[str, tuple[str, ...]] = {
    "color": ("black", "white", "navy", "red", "green", "grey", "beige", "teal", "brown", "silver"),
    "material": ("cotton", "wool", "leather", "linen", "polyester", "bamboo"),
    "body": ("stainless steel", "glass", "plastic", "ceramic", "aluminium", "oak"),
    "size": ("small", "medium", "large", "extra large"),
    "capacity": ("0.5 litre", "1 litre", "1.7 litre", "3 litre", "5 litre"),
    "length": ("0.5 m", "1 m", "2 m", "3 m", "5 m"),
    "power": ("cordless", "corded", "battery powered", "rechargeable", "solar"),
    "connection": ("bluetooth", "usb-c", "wifi", "hdmi", "wired"),
    "pack": ("single", "pack of 2", "pack of 4", "pack of 6", "pack of 12"),
    "audience": ("women", "men", "kids", "unisex"),
    "style": ("modern", "vintage", "rustic", "minimalist", "classic"),
    "use": ("outdoor", "indoor", "travel", "office", "kitchen"),
}

_CATALOGUE: tuple[tuple[str, str, tuple[tuple[str, float, str], ...]], ...] = (
    (
        "Home & Kitchen",
        "Small appliances",
        (
            ("electric kettle|water boiler", 38, "capacity body color"),
            ("toaster|bread toaster", 34, "color body style"),
            ("blender|smoothie maker", 55, "capacity power color"),
            ("coffee grinder|burr mill", 42, "power body capacity"),
            ("rice cooker|rice steamer", 48, "capacity color body"),
        ),
    ),
    (
        "Home & Kitchen",
        "Cookware and table",
        (
            ("frying pan|skillet", 29, "size body color"),
            ("knife set|kitchen knives", 61, "pack body style"),
            ("water bottle|drinking flask", 18, "capacity body color"),
            ("coffee mug|tea cup", 11, "color body pack"),
            ("cutting board|chopping board", 16, "size body style"),
        ),
    ),
    (
        "Home & Kitchen",
        "Furniture",
        (
            ("sofa|couch", 640, "color material style"),
            ("desk lamp|reading light", 33, "power color style"),
            ("bookshelf|bookcase", 120, "size body style"),
            ("office chair|desk chair", 150, "color material use"),
            ("area rug|carpet", 95, "size color material"),
        ),
    ),
    (
        "Electronics",
        "Audio",
        (
            ("headphones|headset", 74, "connection color use"),
            ("earbuds|in-ear headphones", 52, "connection color power"),
            ("portable speaker|boom box", 66, "connection color use"),
            ("microphone|mic", 58, "connection style use"),
            ("record player|turntable", 140, "connection color style"),
        ),
    ),
    (
        "Electronics",
        "Computer accessories",
        (
            ("keyboard|typing board", 49, "connection color style"),
            ("computer mouse|mouse", 24, "connection color power"),
            ("laptop sleeve|notebook case", 22, "size material color"),
            ("charging cable|charger cord", 12, "length connection pack"),
            ("monitor stand|screen riser", 35, "body color size"),
        ),
    ),
    (
        "Clothing",
        "Tops and outerwear",
        (
            ("t-shirt|tee", 17, "audience size color"),
            ("hoodie|hooded sweatshirt", 38, "audience size color"),
            ("rain jacket|waterproof coat", 79, "audience size color"),
            ("sweater|jumper", 44, "audience material color"),
            ("dress shirt|button-down", 41, "audience size material"),
        ),
    ),
    (
        "Clothing",
        "Shoes and accessories",
        (
            ("running shoes|trainers", 85, "audience color use"),
            ("backpack|rucksack", 56, "size color use"),
            ("winter gloves|mittens", 19, "audience size material"),
            ("scarf|neck wrap", 21, "material color style"),
            ("leather belt|waist belt", 27, "audience size color"),
        ),
    ),
    (
        "Garden & Tools",
        "Tools",
        (
            ("drill|power driver", 92, "power use pack"),
            ("screwdriver set|hand drivers", 28, "pack body style"),
            ("flashlight|torch", 23, "power body size"),
            ("extension cord|power lead", 20, "length color use"),
            ("tool box|tool chest", 47, "size body color"),
        ),
    ),
    (
        "Garden & Tools",
        "Garden",
        (
            ("garden hose|watering hose", 31, "length color pack"),
            ("plant pot|planter", 19, "size body color"),
            ("string lights|fairy lights", 18, "length power use"),
            ("lawn mower|grass cutter", 260, "power size color"),
            ("patio chair|garden seat", 88, "body color style"),
        ),
    ),
)

TYPES: tuple[ProductType, ...] = tuple(
    ProductType(tuple(names.split("|")), department, shelf, float(price), tuple(attributes.split()))
    for department, shelf, entries in _CATALOGUE
    for names, price, attributes in entries
)

_ADJECTIVES = (
    "premium",
    "everyday",
    "compact",
    "heavy duty",
    "lightweight",
    "eco",
    "pro",
    "slim",
    "deluxe",
    "basic",
)
_BENEFITS = (
    "Made to last, with a two year warranty.",
    "Easy to clean and simple to store.",
    "Tested by our own workshop before it ships.",
    "A thoughtful gift for any occasion.",
    "Comes in recyclable packaging.",
    "Assembled in minutes, no tools needed.",
    "Loved by families and professionals alike.",
    "Replacement parts stay available for years.",
)
_STARTS = (
    "al",
    "bren",
    "cor",
    "del",
    "el",
    "fen",
    "gar",
    "hol",
    "ix",
    "jor",
    "kal",
    "lum",
    "mer",
    "nor",
    "or",
    "pel",
)
_MIDDLES = ("a", "e", "i", "o", "u", "ar", "en", "il", "on", "ur")
_ENDS = ("dale", "fex", "go", "lin", "mark", "nova", "rix", "ton", "vance", "well", "wick", "zen")


class _Draw:
    """Random choices from `random()` alone, whose values are the same on every Python version."""

    def __init__(self, *key: object) -> None:
        self.random: Callable[[], float] = random.Random(":".join(map(str, key))).random

    def below(self, most: int) -> int:
        return int(self.random() * most)

    def pick(self, items: Sequence[Item]) -> Item:
        return items[int(self.random() * len(items))]

    def chance(self, share: float) -> bool:
        return self.random() < share

    def normal(self) -> float:
        """Standard normal, by Box and Muller."""
        return math.sqrt(-2.0 * math.log(1.0 - self.random())) * math.cos(2.0 * math.pi * self.random())


@lru_cache(maxsize=8)
def _brands(seed: int) -> tuple[tuple[str, ...], ...]:
    """Twelve brands for each shelf; a brand may be on several shelves."""
    draw = _Draw(seed, "brands")
    names: list[str] = []
    while len(names) < 240:
        name = (draw.pick(_STARTS) + draw.pick(_MIDDLES) + draw.pick(_ENDS)).capitalize()
        if name not in names:
            names.append(name)
    return tuple(tuple(draw.pick(names) for _ in range(12)) for _ in _CATALOGUE)


def _shelf(type_number: int) -> int:
    return type_number // 5


class SyntheticCatalogue:
    """A catalogue of `size` products for one seed. Cheap to make; products are computed when asked for."""

    def __init__(self, size: int, seed: int = 1) -> None:
        if size < 1:
            raise ValueError(f"a catalogue needs at least one product, not {size}")
        self.size = size
        self.seed = seed

    def facts(self, number: int) -> Facts:
        """The facts of product `number`, 0 to size - 1."""
        return self._facts(number, _Draw(self.seed, "product", number))

    def _facts(self, number: int, draw: _Draw) -> Facts:
        kind = draw.below(len(TYPES))
        brands = _brands(self.seed)[_shelf(kind)]
        brand = brands[int(len(brands) * draw.random() ** 2)]  # the first brands of a shelf sell most
        attributes = {name: draw.pick(_VALUES[name]) for name in TYPES[kind].attributes}
        return Facts(number, kind, brand, attributes)

    def product(self, number: int) -> catalogue_pb2.Product:
        """Product `number`, 0 to size - 1."""
        draw = _Draw(self.seed, "product", number)
        facts = self._facts(number, draw)
        kind = TYPES[facts.type]
        product = catalogue_pb2.Product(product_id=f"S{number:08d}", brand=facts.brand)
        product.category.extend((kind.department, kind.shelf, kind.names[0].capitalize()))
        product.title = _title(draw, facts, kind)
        for name, value in facts.attributes.items():
            if draw.chance(0.85):
                product.bullets.append(f"{name.capitalize()}: {value}")
            product.attributes[name] = value
        product.bullets.append(draw.pick(_BENEFITS))
        product.attributes["model"] = f"{facts.brand[:2].upper()}-{100 + draw.below(900)}"
        if draw.chance(0.8):
            name = draw.pick(kind.names)
            details = " and ".join(facts.attributes.values())
            product.description = f"The {facts.brand} {name} in {details}. {draw.pick(_BENEFITS)}"
        popularity = math.exp(2.0 + 1.6 * draw.normal())
        product.popularity = round(popularity, 2)
        price = kind.price * math.exp(0.35 * draw.normal())
        if draw.chance(0.95):
            product.price = round(price, 2)
        if draw.chance(0.9):
            product.stock = (
                0 if draw.chance(0.08) else 1 + int(40 * draw.random() ** 2 * (1 + math.log1p(popularity)))
            )
        if draw.chance(0.9):
            product.rating_count = int(popularity * (0.5 + draw.random()))
            if product.rating_count:
                product.rating = round(min(5.0, max(1.0, 4.2 + 0.5 * draw.normal())), 1)
        return product

    def products(self) -> Iterator[catalogue_pb2.Product]:
        """All products in order."""
        return map(self.product, range(self.size))

    def queries(self, count: int) -> list[Query]:
        """The first `count` queries for this seed. Each is made from a product, so its best grade exists."""
        found = []
        for number in range(count):
            draw = _Draw(self.seed, "query", number)
            facts = self.facts(draw.below(self.size))
            kind = TYPES[facts.type]
            known = [("brand", facts.brand), *facts.attributes.items()]
            wanted = (0, 1, 1, 2, 2, 3)[draw.below(6)]
            wishes: list[tuple[str, str]] = []
            while len(wishes) < wanted:
                wish = draw.pick(known)
                if wish not in wishes:
                    wishes.append(wish)
            split_at = draw.random()
            found.append(
                Query(
                    query_id=f"Q{number:05d}",
                    text=_query_text(draw, kind, wishes),
                    split=next(name for name, share in SPLIT_SHARES if split_at < share),
                    type=facts.type,
                    wishes=tuple(wishes),
                )
            )
        return found

    def judgements(self, queries: Sequence[Query]) -> Judgements:
        """Every product with a grade above 0 for each query. Some two in a hundred products are judged for a
        query, so the result grows with the catalogue; `grades` has the same without keeping it.
        """
        gains: dict[str, dict[str, float]] = {query.query_id: {} for query in queries}
        for number, query_id, value in self.grades(queries):
            gains[query_id][f"S{number:08d}"] = float(value)
        return Judgements({query.query_id: query.text for query in queries}, gains)

    def grades(self, queries: Sequence[Query]) -> Iterator[tuple[int, str, int]]:
        """Number of a product, query id and grade, for each grade above 0; one pass over the products."""
        by_shelf: dict[int, list[Query]] = {}
        for query in queries:
            by_shelf.setdefault(_shelf(query.type), []).append(query)
        for number in range(self.size):
            facts = self.facts(number)
            for query in by_shelf.get(_shelf(facts.type), ()):
                value = grade(query, facts)
                if value:
                    yield number, query.query_id, value


def grade(query: Query, facts: Facts) -> int:
    """Relevance of a product to a query, 0 to 3, as the module's text defines it."""
    if _shelf(query.type) != _shelf(facts.type):
        return 0
    missed = sum(
        (facts.brand if name == "brand" else facts.attributes.get(name)) != value
        for name, value in query.wishes
    )
    if query.type != facts.type:
        return 1 if missed == 0 else 0
    return 3 if missed == 0 else 2 if missed == 1 else 1


def _title(draw: _Draw, facts: Facts, kind: ProductType) -> str:
    name = kind.names[0] if draw.chance(0.7) else draw.pick(kind.names)
    shown = [value for value in facts.attributes.values() if draw.chance(0.7)]
    parts = [facts.brand] if draw.chance(0.75) else []
    if draw.chance(0.4):
        parts.append(draw.pick(_ADJECTIVES))
    order = draw.below(3)
    if order == 0:
        parts += [*shown, name]
    elif order == 1:
        parts += [name, *shown]
    else:
        parts += [*shown[:1], name, *(f"- {value}" for value in shown[1:])]
    title = " ".join(parts)
    return title.title() if draw.chance(0.5) else title[0].upper() + title[1:]


def _query_text(draw: _Draw, kind: ProductType, wishes: Sequence[tuple[str, str]]) -> str:
    name = draw.pick(kind.names)
    values = [value for _, value in wishes]
    if not values:
        return name
    if draw.chance(0.6):
        return " ".join([*values, name])
    if draw.chance(0.5):
        return f"{name} {' '.join(values)}"
    return f"{values[0]} {name} {' '.join(values[1:])}".strip()


def write_synthetic(
    folder: str | Path,
    *,
    products: int,
    queries: int = 100,
    seed: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write products.parquet, queries.parquet and labels.parquet, readable with the map `plain`.

    All is streamed: memory does not grow with the catalogue. progress: called with the number of products
    written so far and, once all are, with that and the number of those judged so far, up to twice all.
    Returns: the folder. Files are complete or absent: each is written beside its place and then renamed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    catalogue = SyntheticCatalogue(products, seed)
    tell = progress or (lambda done: None)
    text, number = pa.string(), pa.float64()
    schema = pa.schema(
        {
            "product_id": text,
            "title": text,
            "brand": text,
            "category": pa.list_(text),
            "bullets": pa.list_(text),
            "description": text,
            "attributes": pa.map_(text, text),
            "price": number,
            "stock": pa.int64(),
            "rating": number,
            "rating_count": pa.int64(),
            "popularity": number,
        }
    )

    def product_rows() -> Iterator[dict[str, object]]:
        for done, product in enumerate(catalogue.products(), start=1):
            yield _row(product)
            if done % _BATCH_ROWS == 0 or done == products:
                tell(done)

    asked = catalogue.queries(queries)

    def label_rows() -> Iterator[dict[str, object]]:
        told = 0
        for product, query_id, value in catalogue.grades(asked):
            if product - told >= _BATCH_ROWS:
                told = product
                tell(products + told)
            yield {"query_id": query_id, "product_id": f"S{product:08d}", "gain": float(value)}
        tell(2 * products)

    query_rows: Iterator[dict[str, object]] = (
        {"query_id": q.query_id, "query": q.text, "split": q.split} for q in asked
    )
    query_schema = pa.schema([("query_id", text), ("query", text), ("split", text)])
    label_schema = pa.schema([("query_id", text), ("product_id", text), ("gain", number)])
    _write(folder / "products.parquet", schema, product_rows())
    _write(folder / "queries.parquet", query_schema, query_rows)
    _write(folder / "labels.parquet", label_schema, label_rows())
    return folder


def _row(product: catalogue_pb2.Product) -> dict[str, object]:
    row: dict[str, object] = {
        "product_id": product.product_id,
        "title": product.title,
        "brand": product.brand,
        "category": list(product.category),
        "bullets": list(product.bullets),
        "description": product.description,
        "attributes": sorted(product.attributes.items()),
    }
    for name in ("price", "stock", "rating", "rating_count", "popularity"):
        row[name] = getattr(product, name) if product.HasField(name) else None
    return row


def _write(path: Path, schema: pa.Schema, rows: Iterator[dict[str, object]]) -> None:
    part = path.with_name(path.name + ".part")
    try:
        with pq.ParquetWriter(part, schema, compression="zstd") as writer:
            while batch := list(itertools.islice(rows, _BATCH_ROWS)):
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
