"""What a catalogue teaches about its own words: types, colours, numbers, brands, synonyms.

Nothing here comes from a word list: colours are what the colour attributes say, a type is what sellers put
last in a title, synonyms are words that keep the same company. Only how measures and quantities are written
is given, as patterns.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from muster.v1 import catalogue_pb2

COLOUR, SIZE, QUANTITY = "colour", "size", "quantity"

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_LATIN = re.compile(r"[a-z\u00df-\u00f6\u00f8-\u024f]+(?:['\u2019][a-z]+)*")
# What ends the part of a title that names the product: what follows says what it is for or how it is sold.
_TITLE_END = re.compile(r"[,;:|(\[\u2013\u2014/]|\s-\s|\b(?:for|with|by|and|in|of|from|w/)\b", re.IGNORECASE)

_UNITS = {
    "inch": ("inches", "inch", "in", '"', "″", "''", "”"),
    "cm": ("cm",),
    "mm": ("mm",),
    "m": ("meters", "metres", "meter", "metre", "m"),
    "ft": ("feet", "foot", "ft"),
    "l": ("liters", "litres", "liter", "litre", "l"),
    "ml": ("ml",),
    "oz": ("ounces", "ounce", "oz"),
    "gallon": ("gallons", "gallon", "gal"),
    "quart": ("quarts", "quart", "qt"),
    "lb": ("pounds", "pound", "lbs", "lb"),
    "kg": ("kg",),
    "g": ("grams", "gram", "g"),
    "mg": ("mg",),
    "gb": ("gb",),
    "tb": ("tb",),
    "mb": ("mb",),
    "w": ("watts", "watt", "w"),
    "v": ("volts", "volt", "v"),
    "mah": ("mah",),
}
_UNIT_OF = {written: unit for unit, ways in _UNITS.items() for written in ways}
_NUMBER = r"(?<![\w.,/])(?P<number>\d+(?:[.,]\d+|/\d+)?)"
_MEASURE = re.compile(
    _NUMBER
    + r"[\s-]?(?P<unit>"
    + "|".join(re.escape(one) for one in sorted(_UNIT_OF, key=len, reverse=True))
    # "2 in 1" names no inches.
    + r")(?!\w)(?!\s*\d)",
    re.IGNORECASE,
)
_SIZE_WORDS = ("small", "medium", "large", "xs", "xl", "xxl", "2xl", "3xl", "x-small", "x-large", "xx-large")
_SIZE_WORD = re.compile(
    r"(?<![\w-])(?:"
    + "|".join(re.escape(one) for one in sorted(_SIZE_WORDS, key=len, reverse=True))
    + r")(?![\w-])",
    re.IGNORECASE,
)
_QUANTITY = re.compile(
    r"\b(?:pack|set|box|case|bag)s? of (?P<after>\d+)\b|(?<![\w.,/])(?P<before>\d+)[\s-]?"
    r"(?:packs?|pk|counts?|ct|pcs?|pc\(s\)|pieces?|pairs?|tablets|capsules|sheets|rolls|cards)"
    r"(?!\w)(?! of\b)",
    re.IGNORECASE,
)

_COLOUR_PRODUCTS_MIN = 5
_COLOUR_SHARE_MIN = 0.002
_COLOUR_AGREED_MIN = 0.25
_TYPE_PRODUCTS_MIN = 8
_TYPE_BRANDS_MIN = 2
_TYPE_APART_MAX = 0.6
_ALIKE = 0.6
_SYNONYM_PRODUCTS_MIN = 8
_SYNONYM_WORDS_MAX = 5000
_SYNONYM_NEAREST = 5
_SYNONYM_SIMILAR_MIN = 0.25
_SYNONYM_TOGETHER_MAX = 0.4
_FORM_SIMILAR_MIN = 0.15
_TOLD_MIN = 2
_TOLD_LIFT_MIN = 1.25
_SHELF_MIN = 4
_CONTEXT_WORDS = 2000
_CONTEXT_WORDS_MAX = 120


@dataclass(frozen=True)
class Named:
    """One value that a text names. key: the value without its spelling; start, end: where it stands."""

    kind: str
    key: str
    start: int
    end: int


@dataclass(frozen=True)
class Lexicon:
    """What one catalogue teaches.

    products: by id. words: all words of titles and descriptions, lower case. shelves: shelf to the ids of its
    products, where a shelf is a category path or, without one, what a title says the product is. brands:
    shelf to brands by falling count. colours: by falling count. numbers: unit (or "quantity") to the
    numbers written before it. brand_words: word to the one brand whose products alone carry it. synonyms:
    word to others, best first. frequency: shelf to word to share of the shelf's products that have the
    word.
    """

    products: Mapping[str, catalogue_pb2.Product]
    words: frozenset[str]
    shelves: Mapping[str, Sequence[str]]
    brands: Mapping[str, Sequence[str]]
    colours: Sequence[str]
    numbers: Mapping[str, Sequence[str]]
    brand_words: Mapping[str, str]
    synonyms: Mapping[str, Sequence[str]]
    frequency: Mapping[str, Mapping[str, float]]
    types: Mapping[str, str] = field(repr=False)
    """Product id to what it is, one or two words as in its title; absent where the title does not say."""
    shelf: Mapping[str, str] = field(repr=False)
    """Product id to shelf; absent where neither category nor title says."""

    def named(self, text: str, kind: str) -> list[Named]:
        """Values of one kind (colour, size or quantity) that a text names, in its order."""
        if kind == COLOUR:
            known = set(self.colours)
            return [
                Named(kind, word.group().lower(), word.start(), word.end())
                for word in _WORD.finditer(text)
                if word.group().lower() in known
            ]
        if kind == QUANTITY:
            return [
                Named(kind, str(int(one.group("after") or one.group("before"))), one.start(), one.end())
                for one in _QUANTITY.finditer(text)
            ]
        if kind != SIZE:
            raise ValueError(f"no value is of the kind {kind!r}")
        found = [
            Named(kind, one.group().lower(), one.start(), one.end()) for one in _SIZE_WORD.finditer(text)
        ]
        for one in _MEASURE.finditer(text):
            number = one.group("number").replace(",", ".")
            key = f"{number} {_UNIT_OF[one.group('unit').lower()]}"
            found.append(Named(kind, key, one.start(), one.end()))
        return sorted(found, key=lambda named: named.start)


def words_of(text: str) -> list[str]:
    """Words of a text in lower case; a run of characters without spaces is one word."""
    return [word.lower() for word in _WORD.findall(text)]


def whole_text(product: catalogue_pb2.Product) -> str:
    """Everything that a product says in words, one line a part, so nothing spans two of them."""
    return "\n".join(
        (
            product.title,
            product.brand,
            *product.category,
            *product.bullets,
            product.description,
            *(product.attributes[name] for name in sorted(product.attributes)),
        )
    )


def alike(first: str, second: str) -> bool:
    """Whether two words are spelt so alike that they may mean the same (gray, grey; multi, multicolor)."""
    return difflib.SequenceMatcher(None, first, second).ratio() >= _ALIKE


def one_word(first: str, second: str) -> bool:
    """Whether two words are spelt as forms of one: sandal, sandals; theater, theatre; womens, women's."""
    shorter = min(len(first), len(second))
    same = itertools.takewhile(lambda two: two[0] == two[1], zip(first, second, strict=False))
    beginning = sum(1 for _ in same)
    further = max(len(first), len(second)) - shorter
    # mount, mounting; battery, batteries; but not wired, wireless.
    if shorter < 4 or further > (3 if beginning == shorter else 2):
        return False
    return beginning >= max(4, shorter - 1) or (beginning >= 3 and sorted(first) == sorted(second))


def singular(word: str) -> str:
    """A word without the s of plural or possession, to compare by; not always a word."""
    word = word.replace("'", "").replace("\u2019", "")
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def learn(products: Iterable[catalogue_pb2.Product], *, synonyms: bool = True) -> Lexicon:
    """Learn from one catalogue. synonyms: False leaves them out, which is most of the time it takes."""
    table = {product.product_id: product for product in products}
    colours = _learn_colours(list(table.values()))
    types = _learn_types(list(table.values()), colours)
    shelf = {}
    for key, product in table.items():
        if product.category:
            shelf[key] = " > ".join(product.category)
        elif key in types:
            shelf[key] = types[key].split()[-1]
    shelves: dict[str, list[str]] = defaultdict(list)
    brand_counts: dict[str, Counter[str]] = defaultdict(Counter)
    for key, name in shelf.items():
        shelves[name].append(key)
        if table[key].brand:
            brand_counts[name][table[key].brand] += 1
    words: set[str] = set()
    carriers: dict[str, Counter[str]] = defaultdict(Counter)
    holders: dict[str, Counter[str]] = defaultdict(Counter)
    numbers: dict[str, Counter[str]] = defaultdict(Counter)
    for key, product in table.items():
        here = set(words_of(whole_text(product)))
        words |= here
        for word in set(words_of(product.title)):
            carriers[word][product.brand.lower()] += 1
        if key in shelf:
            holders[shelf[key]].update({singular(word) for word in here})
        for one in _MEASURE.finditer(product.title):
            numbers[_UNIT_OF[one.group("unit").lower()]][one.group("number")] += 1
        for one in _QUANTITY.finditer(product.title):
            numbers[QUANTITY][str(int(one.group("after") or one.group("before")))] += 1
    lexicon = Lexicon(
        products=table,
        words=frozenset(words),
        shelves=dict(shelves),
        brands={name: [brand for brand, _ in counts.most_common()] for name, counts in brand_counts.items()},
        colours=colours,
        numbers={
            unit: [number for number, count in counts.most_common() if count >= 2]
            for unit, counts in numbers.items()
        },
        brand_words={
            word: counts.most_common(1)[0][0]
            for word, counts in carriers.items()
            if counts.total() >= 3
            and counts.most_common(1)[0][0]
            and counts.most_common(1)[0][1] >= 0.9 * counts.total()
        },
        synonyms={},
        frequency={
            name: {word: count / len(shelves[name]) for word, count in counts.items()}
            for name, counts in holders.items()
        },
        types=types,
        shelf=shelf,
    )
    if synonyms:
        found = _learn_synonyms(lexicon)
        return Lexicon(**{**vars(lexicon), "synonyms": found})
    return lexicon


def _learn_types(products: Sequence[catalogue_pb2.Product], colours: Sequence[str]) -> dict[str, str]:
    """What each title says the product is: its last plain word, with the word before it where that is
    usual."""
    heads: Counter[str] = Counter()
    brands: dict[str, set[str]] = defaultdict(set)
    pairs: Counter[tuple[str, str]] = Counter()
    seen: Counter[str] = Counter()
    described: Counter[str] = Counter()
    apart: Counter[str] = Counter()
    rows: dict[str, list[str]] = {}
    for product in products:
        own = {*words_of(product.brand), *colours, *_SIZE_WORDS}
        # A word after a number is its unit; "" marks what is not a plain word, and the start.
        row = [""]
        for word in words_of(_TITLE_END.split(product.title, maxsplit=1)[0]):
            plain = _LATIN.fullmatch(word) and word not in own and not row[-1].isdigit()
            row.append(word if plain or word.isdigit() else "")
        row = [word for word in row if not word.isdigit()]
        while row and not row[-1]:
            row.pop()
        rows[product.product_id] = row
        seen.update({word for word in row if word})
        apart.update({word for before, word in itertools.pairwise(row) if word and not before})
        pairs.update({(first, second) for first, second in itertools.pairwise(row) if first and second})
        if row:
            heads[row[-1]] += 1
            brands[row[-1]].add(product.brand.lower())
        for value in product.attributes.values():
            described.update({part.strip() for part in re.split(r"[,/;&+]", value.lower())})
    usual = {
        word
        for word, count in heads.items()
        if count >= _TYPE_PRODUCTS_MIN
        # "original" and "black" end titles too, yet are oftener a value than a thing; "box" follows numbers.
        and count >= described[word]
        and apart[word] <= _TYPE_APART_MAX * seen[word]
        and len(brands[word]) >= _TYPE_BRANDS_MIN
        and len(word) >= 3
    }
    types = {}
    for key, row in rows.items():
        places = [at for at, word in enumerate(row) if word in usual]
        if not places:
            continue
        at = max(places, key=lambda place: (heads[row[place]] / seen[row[place]], place))
        if at and row[at - 1] and pairs[row[at - 1], row[at]] >= _TYPE_PRODUCTS_MIN:
            types[key] = f"{row[at - 1]} {row[at]}"
        else:
            types[key] = row[at]
    return types


def _learn_colours(products: Sequence[catalogue_pb2.Product]) -> list[str]:
    """Single words that colour attributes hold, by falling count.

    A word is a colour where many products hold it, and where a title that has the word often belongs to a
    product whose colour it is: "original" stands in colour attributes too, yet mostly means something else.
    """
    counts: Counter[str] = Counter()
    titles: Counter[str] = Counter()
    agreed: Counter[str] = Counter()
    coloured = 0
    for product in products:
        found: set[str] = set()
        for name, value in product.attributes.items():
            if "colour" in name.lower() or "color" in name.lower():
                found |= {part.strip() for part in re.split(r"[,/;&+()]|\band\b", value.lower())}
        found = {word for word in found if len(word) >= 3 and _LATIN.fullmatch(word)}
        title = set(words_of(product.title))
        coloured += bool(found)
        counts.update(found)
        agreed.update(found & title)
        if found:
            titles.update(title)
    enough = max(_COLOUR_PRODUCTS_MIN, _COLOUR_SHARE_MIN * coloured)
    return [
        word
        for word, count in counts.most_common()
        if count >= enough and agreed[word] >= max(2.0, _COLOUR_AGREED_MIN * titles[word])
    ]


def _learn_synonyms(lexicon: Lexicon) -> dict[str, list[str]]:
    """Words that may stand for each other, best first.

    Two words keep like company where their neighbours, in order, and their shelves are alike, weighted by
    positive pointwise mutual information. That alone also joins red and blue, wall and ceiling; so two words
    are taken for synonyms only where they are also spelt as forms of one word (sandal, sandals; theater,
    theatre), or where each is the other's nearest and sellers use both of one and the same product, in one
    shelf more often than chance has it. Values, units and brands have no synonyms.
    Source: Turney & Pantel 2010, arXiv:1003.1141, section 4 (word-context matrices).
    """
    texts: list[tuple[str, list[list[str]]]] = []
    counts: Counter[str] = Counter()
    titles: dict[str, set[str]] = defaultdict(set)
    holders: dict[str, set[str]] = defaultdict(set)
    for key, product in lexicon.products.items():
        rows = [words_of(line) for line in (product.title, *product.bullets, product.description)]
        rows = [row[:_CONTEXT_WORDS_MAX] for row in rows]
        texts.append((key, rows))
        for row in rows:
            counts.update(set(row))
            for word in row:
                holders[word].add(key)
        for word in rows[0]:
            titles[word].add(key)
    kept_out = {*lexicon.colours, *_SIZE_WORDS, *_UNIT_OF, *lexicon.brand_words}
    kept_out |= {word for product in lexicon.products.values() for word in words_of(product.brand)}
    known = [
        word
        for word, count in counts.most_common(_SYNONYM_WORDS_MAX)
        if count >= _SYNONYM_PRODUCTS_MIN
        and len(titles[word]) >= _SYNONYM_PRODUCTS_MIN // 3
        and len(word) >= 3
        and _LATIN.fullmatch(word)
        and word not in kept_out
    ]
    if not known:
        return {}
    near = _nearest(_mutual_information(_company(lexicon, texts, counts, known)), _SYNONYM_NEAREST)

    def accepted(at: int, other: int, similar: float) -> bool:
        word, second = known[at], known[other]
        if one_word(word, second):
            return similar >= _FORM_SIMILAR_MIN
        return (
            similar >= _SYNONYM_SIMILAR_MIN
            and near[at][0][0] == other
            and near[other][0][0] == at
            and len(titles[word] & titles[second])
            <= _SYNONYM_TOGETHER_MAX * min(len(titles[word]), len(titles[second]))
            and _used_of_one(lexicon, titles, holders, word, second)
            and _used_of_one(lexicon, titles, holders, second, word)
        )

    found: dict[str, list[str]] = {}
    for at, word in enumerate(known):
        chosen = [known[other] for other, similar in near[at] if accepted(at, other, similar)]
        if chosen:
            found[word] = chosen
    return found


def _company(
    lexicon: Lexicon,
    texts: Sequence[tuple[str, Sequence[Sequence[str]]]],
    counts: Counter[str],
    known: Sequence[str],
) -> NDArray[np.float32]:
    """How often each known word met each context: a word before it, a word after it, a shelf. [words,
    contexts]"""
    row_of = {word: at for at, word in enumerate(known)}
    neighbours = [word for word, _ in counts.most_common(_CONTEXT_WORDS)]
    column_of = {f"<{word}": at for at, word in enumerate(neighbours)}
    column_of |= {f">{word}": len(neighbours) + at for at, word in enumerate(neighbours)}
    for name in lexicon.shelves:
        column_of[f"={name}"] = len(column_of)
    met = np.zeros((len(known), len(column_of)), dtype=np.float32)
    for key, rows in texts:
        shelf = column_of.get(f"={lexicon.shelf.get(key)}")
        for number, row in enumerate(rows):
            for at, word in enumerate(row):
                mine = row_of.get(word)
                if mine is None:
                    continue
                if at and (column := column_of.get(f"<{row[at - 1]}")) is not None:
                    met[mine, column] += 1
                if at + 1 < len(row) and (column := column_of.get(f">{row[at + 1]}")) is not None:
                    met[mine, column] += 1
                if shelf is not None and number == 0:
                    met[mine, shelf] += 2
    return met


def _used_of_one(
    lexicon: Lexicon,
    titles: Mapping[str, set[str]],
    holders: Mapping[str, set[str]],
    word: str,
    other: str,
) -> bool:
    """Whether products titled `word` say `other` further down more often than the rest of their shelf
    says it."""
    said, expected = 0.0, 0.0
    for key in titles[word] - titles[other]:
        beside = len(lexicon.shelves.get(lexicon.shelf.get(key, ""), ())) - 1
        if beside < _SHELF_MIN:
            continue
        here = key in holders[other]
        said += here
        share = lexicon.frequency[lexicon.shelf[key]].get(singular(other), 0.0)
        expected += (share * (beside + 1) - here) / beside
    return said >= _TOLD_MIN and said >= _TOLD_LIFT_MIN * expected


def _mutual_information(met: NDArray[np.float32]) -> NDArray[np.float32]:
    """Counts [words, contexts] to positive pointwise mutual information, rows of length 1.

    Contexts count with the power .75, which holds back rare ones (Levy et al. 2015, TACL 3, section 3.1).
    """
    total = met.sum()
    words = met.sum(1, keepdims=True)
    contexts = met.sum(0, keepdims=True) ** 0.75
    contexts = contexts / max(float(contexts.sum()), 1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.log((met / total) / (words / total * contexts))
    gain = np.where(np.isfinite(gain), np.maximum(gain, 0.0), 0.0).astype(np.float32)
    return np.asarray(gain / np.maximum(np.linalg.norm(gain, axis=1, keepdims=True), 1e-9), dtype=np.float32)


def _nearest(rows: NDArray[np.float32], count: int) -> list[list[tuple[int, float]]]:
    """For each unit row the `count` rows of greatest cosine beside itself, best first, with the cosine."""
    similar = rows @ rows.T
    np.fill_diagonal(similar, -1.0)
    found = []
    for row in similar:
        best = np.argsort(-row, kind="stable")[:count]
        found.append([(int(at), float(row[at])) for at in best])
    return found
