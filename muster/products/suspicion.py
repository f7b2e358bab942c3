"""What looks wrong in a product that could be loaded: broken encoding, markup, stuffing, prices of another
scale.

Each rule looks at one product and is cheap; a rule that fires is a suspicion, no proof. What cannot become a
product at all is refused by the readers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from muster.v1 import catalogue_pb2

_MARKUP = re.compile(r"<[a-zA-Z!/][^<>]{0,500}>|&(?:[a-zA-Z]{2,8}|#\d{1,6}|#x[0-9a-fA-F]{1,5});")
_SCRIPT = re.compile(r"<(?:script|style|iframe|html|body|table|div|span)\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")
_LETTERS = re.compile(r"[^\W\d_]{2}")
_LIKE_AN_ADDRESS = re.compile(r"^(?:https?://|www\.)\S+$")
# Control characters but tabs and line ends; marks that turn the direction of text, and marks without a width:
# they hide text or change how it reads.
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)

STUFFED_WORDS_LEAST = 12
STUFFED_SHARE = 0.5
"""Of a title's words, those that are repetitions."""
STUFFED_REPEATS = 5
"""Times that one word of a title occurs."""
TITLE_CHARACTERS_USUAL = 600
TEXT_CHARACTERS_USUAL = 20_000
BRAND_WORDS_USUAL = 8
PRICE_DEVIATIONS = 6.0
"""A price further from the median than so many deviations is out of scale."""


@dataclass(frozen=True)
class Suspicion:
    """field: of the product. rule: one of RULES. detail: what was seen, in words."""

    field: str
    rule: str
    detail: str


RULES: tuple[str, ...] = (
    "mojibake",
    "replacement",
    "control",
    "markup",
    "no_word",
    "swapped",
    "stuffed",
    "huge",
    "price_zero",
    "price_scale",
    "repeated_text",
)
"""All that a product can be suspected of; `repeated_text` and `price_scale` are told by its file alone."""


@dataclass(frozen=True)
class PriceScale:
    """Where the logarithms of a file's prices lie: their median, and 1.4826 times their median deviation,
    which is the standard deviation of a normal distribution (Rousseeuw & Croux 1993). At least
    `DEVIATION_LEAST`: of prices that are all alike none is out of scale for a small difference."""

    median: float
    deviation: float

    def z(self, price: float) -> float:
        """Deviations from the median; price above 0."""
        return (math.log(price) - self.median) / self.deviation


DEVIATION_LEAST = 0.5


def price_scale(logarithms: Sequence[float]) -> PriceScale | None:
    """The scale of prices above 0, given their natural logarithms; None of fewer than 20."""
    if len(logarithms) < 20:
        return None
    middle = median(logarithms)
    deviation = 1.4826 * median([abs(one - middle) for one in logarithms])
    return PriceScale(middle, max(DEVIATION_LEAST, deviation))


def suspicions(product: catalogue_pb2.Product) -> list[Suspicion]:
    """All that looks wrong in one product by itself, by field."""
    found: list[Suspicion] = []
    for field, text in _texts(product):
        found += _of_text(field, text)
    found += _of_title(product)
    if product.HasField("price") and product.price <= 0:
        found.append(Suspicion("price", "price_zero", f"the price is {product.price:g}"))
    size = sum(len(text) for _, text in _texts(product))
    if size > TEXT_CHARACTERS_USUAL:
        found.append(Suspicion("description", "huge", f"{size:,} characters of text"))
    return found


def _texts(product: catalogue_pb2.Product) -> Iterator[tuple[str, str]]:
    yield "title", product.title
    if product.brand:
        yield "brand", product.brand
    if product.description:
        yield "description", product.description
    for bullet in product.bullets:
        yield "bullets", bullet
    for name in product.category:
        yield "category", name


def _of_text(field: str, text: str) -> Iterator[Suspicion]:
    if not text.isascii():
        if "\ufffd" in text:
            yield Suspicion(field, "replacement", "a replacement character stands for what was lost")
        mended = unbroken(text)
        if mended is not None:
            yield Suspicion(field, "mojibake", f"reads {_short(mended)} when decoded once more")
    if _CONTROL.search(text) is not None:
        yield Suspicion(field, "control", "control characters or hidden marks")
    # A description may be formatted; a title is shown as it stands.
    markup = _MARKUP.search(text) if field != "description" and field != "bullets" else _SCRIPT.search(text)
    if markup is not None:
        yield Suspicion(field, "markup", f"markup: {_short(markup.group())}")


def _of_title(product: catalogue_pb2.Product) -> Iterator[Suspicion]:
    title = product.title
    if not _LETTERS.search(title) or _LIKE_AN_ADDRESS.match(title):
        yield Suspicion("title", "no_word", f"no word in {_short(title)}")
    words = [word.casefold() for word in _WORD.findall(title)]
    if len(title) > TITLE_CHARACTERS_USUAL:
        yield Suspicion("title", "huge", f"{len(title):,} characters")
    if len(words) >= STUFFED_WORDS_LEAST:
        counts = Counter(words)
        repeated = 1.0 - len(counts) / len(words)
        word, times = counts.most_common(1)[0]
        if repeated >= STUFFED_SHARE or times >= STUFFED_REPEATS + len(words) // 20:
            yield Suspicion("title", "stuffed", f"{repeated:.0%} of its words repeat, {word!r} {times} times")
    if len(_WORD.findall(product.brand)) > BRAND_WORDS_USUAL:
        yield Suspicion("brand", "swapped", f"a brand of many words: {_short(product.brand)}")


def off_scale(price: float, prices: PriceScale) -> Suspicion | None:
    """What is wrong with a price above 0 beside others; None: nothing."""
    z = prices.z(price)
    if abs(z) <= PRICE_DEVIATIONS:
        return None
    return Suspicion("price", "price_scale", f"{price:g} is {z:+.1f} deviations from the median")


def unbroken(text: str) -> str | None:
    """The text as it was before UTF-8 was read as Latin-1 or Windows-1252 and written again; None where that
    is not what happened to it."""
    for encoding in ("cp1252", "latin-1"):
        try:
            mended = text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
        if mended != text:
            return mended
    return None


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
