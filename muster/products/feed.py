"""Is a product file fit to be loaded? Its faults row by row, and as a whole beside what is served.

A row that cannot become a product is malformed and named by row and column; one that could, but looks wrong,
is suspicious (`muster.products.suspicion`). The file as a whole is measured: shares of both, and how far its
prices, scripts and titles are from a reference, which is another file or products of the running service.
Each measure has two limits: above the first the check warns, above the second it refuses the file.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from muster.products.columns import ColumnMap
from muster.products.errors import ProductError, ProductFileError
from muster.products.readers import numbered_products
from muster.products.suspicion import RULES, PriceScale, Suspicion, off_scale, price_scale, suspicions
from muster.v1 import catalogue_pb2

# First code point after each block of letters, in order: enough to see a feed change its alphabet.
_SCRIPTS: tuple[tuple[int, str], ...] = (
    (0x0250, "latin"),
    (0x0370, "other"),
    (0x0400, "greek"),
    (0x0530, "cyrillic"),
    (0x0590, "other"),
    (0x0600, "hebrew"),
    (0x0780, "arabic"),
    (0x0E00, "indic"),
    (0x0E80, "thai"),
    (0x1100, "other"),
    (0x1200, "hangul"),
    (0x1E00, "other"),
    (0x1F00, "latin"),
    (0x2000, "greek"),
    (0x2E80, "other"),
    (0x3040, "han"),
    (0x3100, "kana"),
    (0xA000, "han"),
    (0xAC00, "other"),
    (0xD7B0, "hangul"),
    (0x110000, "other"),
)
REPEATED_WORDS_LEAST = 4
"""A title of fewer words, without a description, may well be that of two products."""


class Fitness(StrEnum):
    """What the check says: load it, look at it first, or do not load it."""

    FIT = "fit"
    WARNED = "warned"
    REFUSED = "refused"


@dataclass(frozen=True)
class Limit:
    """warn, refuse: a measure above is warned of, or refused. Shares from 0 to 1, or factors from 1 on."""

    warn: float
    refuse: float


LIMITS: Mapping[str, Limit] = {
    "malformed": Limit(0.01, 0.10),
    "suspicious": Limit(0.10, 0.30),
    **{rule: Limit(0.05, 0.25) for rule in RULES},
    # Colours and sizes of one product are often described alike.
    "repeated_text": Limit(0.10, 0.50),
    "price_missing_shift": Limit(0.10, 0.40),
    "price_factor": Limit(1.5, 3.0),
    "script_shift": Limit(0.05, 0.25),
    "title_words_factor": Limit(1.5, 2.5),
}
"""By measure. `malformed`, `suspicious` and the rules: share of the rows. The others beside a reference:
price_missing_shift: difference of the shares of products without a price. price_factor: of the median prices.
script_shift: total variation distance of the shares of scripts in titles. title_words_factor: of the mean
numbers of words in a title. Factors are at least 1, whichever is greater."""


class FeedLimitsError(ProductError):
    """A file of limits cannot be used. The caller should correct it."""


def read_limits(path: Path) -> dict[str, Limit]:
    """The limits with those of a TOML file in their place: `[limits]`, `name = [warn, refuse]`.

    Raises: FeedLimitsError.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FeedLimitsError(f"{path}: cannot be read as TOML ({error})") from error
    given = content.get("limits")
    if not isinstance(given, dict) or set(content) != {"limits"}:
        raise FeedLimitsError(f"{path}: expected one table [limits] with name = [warn, refuse]")
    limits = dict(LIMITS)
    for name, pair in given.items():
        if name not in LIMITS:
            raise FeedLimitsError(f"{path}: no measure is called {name!r}; there are {', '.join(LIMITS)}")
        numbers = (
            isinstance(pair, list)
            and len(pair) == 2
            and all(isinstance(one, int | float) and not isinstance(one, bool) for one in pair)
        )
        if not numbers or not 0 <= pair[0] <= pair[1]:
            raise FeedLimitsError(f"{path}: {name} must be [warn, refuse], with 0 <= warn <= refuse")
        limits[name] = Limit(float(pair[0]), float(pair[1]))
    return limits


@dataclass(frozen=True)
class Profile:
    """What products look like together.

    prices: None of fewer than 20 with a price above 0. scripts: share of the letters in titles, by script.
    title_words: mean number of words in a title.
    """

    products: int
    prices: PriceScale | None
    price_missing: float
    scripts: Mapping[str, float]
    title_words: float


class Profiler:
    """Takes products one by one; what it keeps of each is one number, where it has a price."""

    def __init__(self) -> None:
        self._products = self._missing = self._words = 0
        self._letters: Counter[str] = Counter()
        self.log_prices: list[float] = []

    def add(self, product: catalogue_pb2.Product) -> None:
        """Counts one product."""
        self._products += 1
        self._words += len(product.title.split())
        if product.title.isascii():
            self._letters["latin"] += sum(map(str.isalpha, product.title))
        else:
            self._letters.update(script for character in product.title if (script := script_of(character)))
        if not product.HasField("price"):
            self._missing += 1
        elif product.price > 0:
            self.log_prices.append(math.log(product.price))

    def profile(self) -> Profile:
        """Of all that was added."""
        letters = sum(self._letters.values())
        count = max(1, self._products)
        return Profile(
            products=self._products,
            prices=price_scale(self.log_prices),
            price_missing=self._missing / count,
            scripts={name: number / letters for name, number in self._letters.items()} if letters else {},
            title_words=self._words / count,
        )


def profile_of(products: Iterable[catalogue_pb2.Product]) -> Profile:
    """The profile of products."""
    profiler = Profiler()
    for product in products:
        profiler.add(product)
    return profiler.profile()


def script_of(character: str) -> str | None:
    """The script of a letter; None for what is no letter."""
    if not character.isalpha():
        return None
    point = ord(character)
    return next(name for end, name in _SCRIPTS if point < end)


@dataclass(frozen=True)
class Suspect:
    """A row that could be loaded, and what looks wrong in it."""

    row: int
    product_id: str
    suspicions: tuple[Suspicion, ...]


@dataclass(frozen=True)
class Measure:
    """One measure of the file, and what its limits make of it."""

    name: str
    value: float
    limit: Limit

    @property
    def fitness(self) -> Fitness:
        if self.value > self.limit.refuse:
            return Fitness.REFUSED
        return Fitness.WARNED if self.value > self.limit.warn else Fitness.FIT

    def describe(self) -> dict[str, Any]:
        """The measure as an object."""
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "warn": self.limit.warn,
            "refuse": self.limit.refuse,
            "fitness": str(self.fitness),
        }


@dataclass
class FeedReport:
    """What the check found. rows: with a product's beginnings in them; malformed and suspects are some of
    them."""

    rows: int
    profile: Profile
    malformed: list[ProductFileError] = field(default_factory=list)
    suspects: list[Suspect] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)

    @property
    def fitness(self) -> Fitness:
        """The worst of all measures."""
        seen = {measure.fitness for measure in self.measures}
        return next((one for one in (Fitness.REFUSED, Fitness.WARNED) if one in seen), Fitness.FIT)

    def describe(self) -> dict[str, Any]:
        """The report as an object, without the single rows."""
        return {
            "fitness": str(self.fitness),
            "rows": self.rows,
            "malformed": len(self.malformed),
            "suspicious": len(self.suspects),
            "measures": [measure.describe() for measure in self.measures],
        }

    def left_out(self) -> Iterator[dict[str, Any]]:
        """One object for each fault or suspicion of a row, as they are written for who mends the feed."""
        for problem in self.malformed:
            yield {
                "kind": "malformed",
                "row": problem.row,
                "column": problem.column,
                "problem": problem.problem,
                "action": problem.action,
            }
        for suspect in self.suspects:
            for one in suspect.suspicions:
                yield {
                    "kind": "suspicious",
                    "row": suspect.row,
                    "product_id": suspect.product_id,
                    "column": one.field,
                    "rule": one.rule,
                    "problem": one.detail,
                }


def inspect(
    path: str | Path,
    mapping: ColumnMap | str | Path | None = None,
    *,
    reference: Profile | None = None,
    limits: Mapping[str, Limit] = LIMITS,
) -> FeedReport:
    """Reads a product file to its end and measures it.

    reference: what its products are compared with; None: nothing. Prices are judged on the reference's scale
    where there is one: a file in another currency is out of scale as a whole. Raises: ProductFileError for
    what is wrong with the file as a whole; ColumnMapError.
    """
    profiler, texts = Profiler(), set[bytes]()
    malformed: list[ProductFileError] = []
    suspected: dict[int, tuple[str, list[Suspicion]]] = {}
    priced: list[tuple[int, str, float]] = []
    count = 0
    for row, product in numbered_products(path, mapping, refuse=malformed.append):
        count += 1
        profiler.add(product)
        found = suspicions(product)
        if (key := _text_key(product)) is not None:
            if key in texts:
                found.append(Suspicion("title", "repeated_text", "text of an earlier row, word for word"))
            texts.add(key)
        if found:
            suspected[row] = (product.product_id, found)
        if product.price > 0:
            priced.append((row, product.product_id, product.price))
    profile = profiler.profile()
    scale = profile.prices if reference is None or reference.prices is None else reference.prices
    if scale is not None:
        for row, product_id, price in priced:
            if (out_of_scale := off_scale(price, scale)) is not None:
                suspected.setdefault(row, (product_id, []))[1].append(out_of_scale)
    suspects = [Suspect(row, name, tuple(found)) for row, (name, found) in sorted(suspected.items())]
    report = FeedReport(count + len(malformed), profile, malformed, suspects)
    report.measures = list(_measures(report, reference, limits))
    return report


def _text_key(product: catalogue_pb2.Product) -> bytes | None:
    described = bool(product.description or product.bullets)
    if not described and len(product.title.split()) < REPEATED_WORDS_LEAST:
        return None
    parts = (product.title, product.brand, product.description, *product.bullets)
    whole = "\x1f".join((*parts, f"{product.price:g}"))
    return hashlib.blake2b(whole.casefold().encode("utf-8"), digest_size=12).digest()


def _measures(
    report: FeedReport, reference: Profile | None, limits: Mapping[str, Limit]
) -> Iterator[Measure]:
    rows = max(1, report.rows)
    by_rule = Counter(
        rule for suspect in report.suspects for rule in {one.rule for one in suspect.suspicions}
    )
    shares = {"malformed": len(report.malformed), "suspicious": len(report.suspects), **by_rule}
    for name in ("malformed", "suspicious", *(rule for rule in RULES if rule in by_rule)):
        yield Measure(name, shares[name] / rows, limits[name])
    if reference is None:
        return
    for name, value in _shifts(report.profile, reference).items():
        yield Measure(name, value, limits[name])


def _shifts(profile: Profile, reference: Profile) -> dict[str, float]:
    scripts = set(profile.scripts) | set(reference.scripts)
    found = {
        "price_missing_shift": abs(profile.price_missing - reference.price_missing),
        "script_shift": 0.5
        * sum(abs(profile.scripts.get(one, 0.0) - reference.scripts.get(one, 0.0)) for one in scripts),
        "title_words_factor": _factor(profile.title_words, reference.title_words),
    }
    if profile.prices is not None and reference.prices is not None:
        # Bounded: a factor is told, not an infinity.
        found["price_factor"] = math.exp(min(50.0, abs(profile.prices.median - reference.prices.median)))
    return found


def _factor(one: float, other: float) -> float:
    low, high = sorted((one, other))
    return high / low if low > 0 else 1.0 if high == 0 else 1e6
