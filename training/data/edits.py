"""Edits of labelled pairs: each changes a query or a product a little, and knows what that does to the label.

An edit is a pure function `edit(pair, lexicon, effect, chooser)`: it returns a new pair, or None where it
does not apply; the pair it was given stays as it is, and everything random comes from the numpy
Generator. A target only ever falls, and only where the edit says so; an edited product keeps its id. Text
without spaces (Chinese, say) is left as it is wherever an edit works on words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from muster.v1 import catalogue_pb2
from training.data.lexicon import (
    COLOUR,
    QUANTITY,
    SIZE,
    Lexicon,
    Named,
    alike,
    singular,
    whole_text,
    words_of,
)

_KEY_ROWS = (("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75))
# What turns a word of a query into something that is not wanted.
_NEGATIONS = frozenset(("not", "no", "without", "except", "non", "free"))
_PLAIN_WORD = re.compile(r"(?<!\w)[A-Za-z]+(?!\w)")
_TYPO_LETTERS_MIN = 4
_TYPO_TRIES = 8
_PRICE_FACTOR_MAX = 1.6
_BRAND_WORD_LETTERS_MIN = 3
_USUAL_IN_SHELF = 0.5
_SUBSTITUTE_TRIES = 12


@dataclass(frozen=True)
class Pair:
    """A query and a product. target: what a cross-encoder should say, 0 to 1. judged: ids of all products
    whose label for this query is known. note: what an edit did, for people."""

    query: str
    product: catalogue_pb2.Product
    target: float
    judged: frozenset[str] = frozenset()
    note: str = ""


@dataclass(frozen=True)
class Effect:
    """Targets that a label falls to. fallen: of the right type, but not as asked (another colour, another
    brand). related: of the same shelf, and no more."""

    fallen: float = 0.25
    related: float = 0.1


Edit = Callable[[Pair, Lexicon, Effect, np.random.Generator], Pair | None]


# -- edits of the query ----------------------------------------------------------------------------------


def substitute_word(
    pair: Pair, lexicon: Lexicon, effect: Effect, chooser: np.random.Generator
) -> Pair | None:
    """Put a learnt synonym in place of one word of the query. Label: kept."""
    places = [word for word in _PLAIN_WORD.finditer(pair.query) if lexicon.synonyms.get(word.group().lower())]
    if not places:
        return None
    word = places[int(chooser.integers(len(places)))]
    choices = lexicon.synonyms[word.group().lower()]
    other = _in_case_of(word.group(), choices[int(chooser.integers(len(choices)))])
    query = pair.query[: word.start()] + other + pair.query[word.end() :]
    return replace(pair, query=query, note=f"{word.group()} -> {other}")


def typo(pair: Pair, lexicon: Lexicon, effect: Effect, chooser: np.random.Generator) -> Pair | None:
    """One slip of the keyboard in one word of four or more Latin letters. Label: kept.

    Never makes another word of the catalogue: shirt does not become skirt.
    """
    query = mistyped(pair.query, lexicon.words, chooser)
    return None if query is None else replace(pair, query=query, note=f"{pair.query} -> {query}")


def mistyped(query: str, known: frozenset[str], chooser: np.random.Generator) -> str | None:
    """A query with one slip: a key beside the right one, two letters swapped, one left out, or one doubled.

    known: words, lower case, that the slip must not make. Returns: None where no word is long enough.
    """
    places = [word for word in _PLAIN_WORD.finditer(query) if len(word.group()) >= _TYPO_LETTERS_MIN]
    if not places:
        return None
    for _ in range(_TYPO_TRIES):
        word = places[int(chooser.integers(len(places)))]
        slipped = _slip(word.group(), chooser)
        if slipped != word.group() and slipped.lower() not in known:
            return query[: word.start()] + slipped + query[word.end() :]
    return None


def change_case(pair: Pair, lexicon: Lexicon, effect: Effect, chooser: np.random.Generator) -> Pair | None:
    """Write the query in capitals, with capital initials, or one word of it in capitals. Label: kept."""
    places = list(_PLAIN_WORD.finditer(pair.query))
    if not places:
        return None
    word = places[int(chooser.integers(len(places)))]
    queries = (
        _PLAIN_WORD.sub(lambda one: one.group().upper(), pair.query),
        _PLAIN_WORD.sub(lambda one: one.group().capitalize(), pair.query),
        pair.query[: word.start()] + word.group().upper() + pair.query[word.end() :],
    )
    query = queries[int(chooser.integers(len(queries)))]
    return None if query == pair.query else replace(pair, query=query, note=f"{pair.query} -> {query}")


# -- edits of the product --------------------------------------------------------------------------------


def substitute_product(
    pair: Pair, lexicon: Lexicon, effect: Effect, chooser: np.random.Generator
) -> Pair | None:
    """Another product of the same shelf, not judged for this query. Label: falls to `effect.fallen`.

    Only where the query names something that the product has, the other has not, and most of the shelf has
    not either; a query for the whole shelf (guitar) is as well served by the other.
    """
    shelf = lexicon.shelf.get(pair.product.product_id)
    if shelf is None or pair.target <= effect.fallen or _negated(pair.query):
        return None
    keys = lexicon.shelves[shelf]
    usual = lexicon.frequency[shelf]
    asked = {singular(word) for word in words_of(pair.query)}
    asked = {word for word in asked if usual.get(word, 0.0) <= _USUAL_IN_SHELF}
    asked &= _stems(pair.product)
    for _ in range(_SUBSTITUTE_TRIES):
        key = keys[int(chooser.integers(len(keys)))]
        if key == pair.product.product_id or key in pair.judged:
            continue
        missing = asked - _stems(lexicon.products[key])
        if missing:
            note = f"another of {shelf!r}, without {', '.join(sorted(missing))}"
            return replace(pair, product=lexicon.products[key], target=effect.fallen, note=note)
    return None


def change_colour(pair: Pair, lexicon: Lexicon, effect: Effect, chooser: np.random.Generator) -> Pair | None:
    """Another colour of the catalogue. Label: falls to `effect.fallen` where the query names the old one,
    else kept."""
    return _change_value(COLOUR, pair, lexicon, effect, chooser)


def change_size(pair: Pair, lexicon: Lexicon, effect: Effect, chooser: np.random.Generator) -> Pair | None:
    """Another size or measure, in the same unit. Label: falls to `effect.fallen` where the query names
    the old one, else kept."""
    return _change_value(SIZE, pair, lexicon, effect, chooser)


def change_quantity(
    pair: Pair, lexicon: Lexicon, effect: Effect, chooser: np.random.Generator
) -> Pair | None:
    """Another number of pieces. Label: falls to `effect.fallen` where the query names the old one, else
    kept."""
    return _change_value(QUANTITY, pair, lexicon, effect, chooser)


def swap_brand(pair: Pair, lexicon: Lexicon, effect: Effect, chooser: np.random.Generator) -> Pair | None:
    """Another brand of the same shelf, in the field and in the text. Label: falls to `effect.fallen`
    where the query names the brand, else kept.

    Does not apply where the query has only a part of the brand, or a word that this brand alone uses
    (kindle).
    """
    product, brand = pair.product, pair.product.brand
    shelf = lexicon.shelf.get(product.product_id)
    own = words_of(brand)
    if shelf is None or not own:
        return None
    asked = words_of(pair.query)
    named = names_brand(pair.query, brand)
    if named and _negated(pair.query):
        return None
    if not named:
        if any(word in asked for word in own if len(word) >= _BRAND_WORD_LETTERS_MIN):
            return None
        if any(lexicon.brand_words.get(word) == brand.lower() for word in asked):
            return None
    others = [
        other
        for other in lexicon.brands.get(shelf, ())
        if words_of(other)
        and not set(words_of(other)) & {*own, *asked}
        and not alike("".join(words_of(other)), "".join(own))
    ]
    if not others:
        return None
    other = others[int(chooser.integers(len(others)))]
    edited = _rewritten(product, brand, other)
    edited.brand = other
    if _says(whole_text(edited), brand):
        return None
    target = min(pair.target, effect.fallen) if named else pair.target
    return replace(pair, product=edited, target=target, note=f"{brand} -> {other}")


def change_price(pair: Pair, lexicon: Lexicon, effect: Effect, chooser: np.random.Generator) -> Pair | None:
    """A price up to 1.6 times higher or lower. Label: kept."""
    if not pair.product.HasField("price") or pair.product.price <= 0.0:
        return None
    edited = catalogue_pb2.Product()
    edited.CopyFrom(pair.product)
    span = math.log(_PRICE_FACTOR_MAX)
    edited.price = round(pair.product.price * math.exp(chooser.uniform(-span, span)), 2)
    if edited.price in (0.0, pair.product.price):
        return None
    return replace(pair, product=edited, note=f"{pair.product.price:g} -> {edited.price:g}")


# -- queries made from a product -------------------------------------------------------------------------


def back_off(
    product: catalogue_pb2.Product,
    lexicon: Lexicon,
    effect: Effect,
    chooser: np.random.Generator,
    *,
    neighbours: int,
) -> list[Pair]:
    """A query from what a product is and has: its type with brand, colour, both, or alone.

    Label: 1 for the product. Up to `neighbours` others of its shelf follow: 1 where one is of the type
    and has all that is named, `effect.fallen` where it is of the type only, `effect.related` where it is
    another type; one whose colour is unknown is left out of queries that name a colour. Returns: no pair
    where the title does not say what the product is; else the product's own pair first.
    """
    kind = lexicon.types.get(product.product_id)
    shelf = lexicon.shelf.get(product.product_id)
    if kind is None or shelf is None:
        return []
    colours = [one.key for one in lexicon.named(product.title, COLOUR)]
    brand = product.brand if words_of(product.brand) and len(words_of(product.brand)) <= 3 else ""
    forms = [(bool(brand), False), (False, bool(colours)), (bool(brand), bool(colours)), (False, False)]
    with_brand, with_colour = forms[int(chooser.integers(len(forms)))]
    colour = colours[0] if with_colour else ""
    if with_colour and colour in words_of(kind):
        return []
    brand = brand if with_brand else ""
    query = " ".join(part for part in (brand.lower(), colour, kind) if part)
    made = [Pair(query, product, 1.0, note=f"from {product.product_id}")]
    keys = lexicon.shelves[shelf]
    for at in chooser.permutation(len(keys))[: 4 * neighbours]:
        other = lexicon.products[keys[int(at)]]
        if len(made) > neighbours:
            break
        if other.product_id == product.product_id:
            continue
        theirs = {one.key for one in lexicon.named(whole_text(other), COLOUR)}
        if colour and not theirs:
            continue
        if singular(kind.split()[-1]) not in _stems(other):
            target = effect.related
        elif (not brand or other.brand.lower() == brand.lower()) and (not colour or colour in theirs):
            # The type's first word may say more than the shelf does (paddle board, dart board).
            target = 1.0 if {singular(word) for word in kind.split()} <= _stems(other) else effect.fallen
        else:
            target = effect.fallen
        made.append(Pair(query, other, target, note=f"beside {product.product_id}"))
    return made


PAIR_EDITS: Mapping[str, Edit] = {
    "word": substitute_word,
    "typo": typo,
    "case": change_case,
    "product": substitute_product,
    "colour": change_colour,
    "size": change_size,
    "quantity": change_quantity,
    "brand": swap_brand,
    "price": change_price,
}
"""Kind to edit. `back_off` makes whole queries and stands apart."""

QUERY_KINDS = frozenset(("word", "typo", "case"))
"""Kinds that leave the product alone: what they make of a query holds for all its products."""

VALUE_KINDS = frozenset(("colour", "size", "quantity", "brand"))
"""Kinds whose effect depends on whether the query names the value."""


def names_brand(query: str, brand: str) -> bool:
    """Whether a query holds all words of a brand, side by side."""
    asked, own = words_of(query), words_of(brand)
    return bool(own) and any(asked[at : at + len(own)] == own for at in range(len(asked) - len(own) + 1))


def _change_value(
    kind: str, pair: Pair, lexicon: Lexicon, effect: Effect, chooser: np.random.Generator
) -> Pair | None:
    product = pair.product
    held = [one for one in lexicon.named(product.title, kind) if not _inside_brand(one, product)]
    if not held:
        return None
    asked = {one.key for one in lexicon.named(pair.query, kind)}
    named = [one for one in held if one.key in asked]
    # A query that names another value, or one in another unit, says nothing sure about this one.
    if asked and not named:
        return None
    if named and _negated(pair.query):
        return None
    chosen = (named or held)[int(chooser.integers(len(named or held)))]
    if not named and any(char.isdigit() for char in chosen.key):
        # "iphone 11" may ask for the 11 inches of a title, or not.
        bare = set(re.findall(r"\d+", pair.query))
        if bare & set(re.findall(r"\d+", chosen.key)):
            return None
    taken = asked | {one.key for one in lexicon.named(whole_text(product), kind)}
    old = product.title[chosen.start : chosen.end]
    new = _other_value(chosen, old, lexicon, taken, chooser)
    if new is None:
        return None
    edited = _rewritten(product, old, new)
    left = {one.key for one in lexicon.named(whole_text(edited), kind)}
    if chosen.key in left or edited == product:
        return None
    target = min(pair.target, effect.fallen) if named else pair.target
    return replace(pair, product=edited, target=target, note=f"{old} -> {new}")


def _other_value(
    chosen: Named, written: str, lexicon: Lexicon, taken: set[str], chooser: np.random.Generator
) -> str | None:
    """A value of the same kind and unit, none of those taken; a number with the words around the old one."""
    if chosen.kind == COLOUR:
        colours = [one for one in lexicon.colours if one not in taken and not alike(one, chosen.key)]
        return colours[int(chooser.integers(len(colours)))] if colours else None
    digits = re.search(r"\d+(?:[.,]\d+|/\d+)?", written)
    if digits is None:
        sizes = [one for one in ("small", "medium", "large") if one not in taken]
        return sizes[int(chooser.integers(len(sizes)))] if sizes else None
    unit = QUANTITY if chosen.kind == QUANTITY else chosen.key.split()[-1]
    keys = {
        number: number if unit == QUANTITY else f"{number.replace(',', '.')} {unit}"
        for number in lexicon.numbers.get(unit, ())
    }
    numbers = [number for number, key in keys.items() if key not in taken]
    if not numbers:
        return None
    number = numbers[int(chooser.integers(len(numbers)))]
    return written[: digits.start()] + number + written[digits.end() :]


def _rewritten(product: catalogue_pb2.Product, old: str, new: str) -> catalogue_pb2.Product:
    """A copy in which every text says `new` for `old`, whole words only, whatever the case."""
    pattern = _whole(old)

    def changed(text: str) -> str:
        return pattern.sub(lambda found: _in_case_of(found.group(), new), text)

    edited = catalogue_pb2.Product()
    edited.CopyFrom(product)
    edited.title = changed(product.title)
    edited.description = changed(product.description)
    del edited.bullets[:]
    edited.bullets.extend(changed(bullet) for bullet in product.bullets)
    for name in product.attributes:
        edited.attributes[name] = changed(product.attributes[name])
    return edited


def _whole(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(text)}(?!\w)", re.IGNORECASE)


def _says(text: str, phrase: str) -> bool:
    return _whole(phrase).search(text) is not None


def _inside_brand(value: Named, product: catalogue_pb2.Product) -> bool:
    """Whether a value of the title is a part of the brand (Black & Decker, 3M)."""
    return bool(set(words_of(product.title[value.start : value.end])) & set(words_of(product.brand)))


def _negated(query: str) -> bool:
    return not _NEGATIONS.isdisjoint(words_of(query))


def _stems(product: catalogue_pb2.Product) -> set[str]:
    return {singular(word) for word in words_of(whole_text(product))}


def _in_case_of(pattern: str, word: str) -> str:
    if len(pattern) > 1 and pattern.isupper():
        return word.upper()
    return word.capitalize() if pattern[:1].isupper() and word.islower() else word


def _key_place(letter: str) -> tuple[float, float] | None:
    for row, (keys, offset) in enumerate(_KEY_ROWS):
        if letter in keys:
            return keys.index(letter) + offset, float(row)
    return None


def _keys_beside(letter: str) -> Sequence[str]:
    """Letters on keys that touch this one, on a QWERTY keyboard; none for other signs."""
    here = _key_place(letter)
    if here is None:
        return []
    places = {key: _key_place(key) for keys, _ in _KEY_ROWS for key in keys if key != letter}
    return [key for key, at in places.items() if at is not None and math.dist(here, at) < 1.3]


def _slip(word: str, chooser: np.random.Generator) -> str:
    # The first letter is rarely wrong.
    at = int(chooser.integers(1, len(word)))
    kind = int(chooser.integers(4))
    if kind == 0:
        beside = _keys_beside(word[at].lower())
        if not beside:
            return word
        key = beside[int(chooser.integers(len(beside)))]
        return word[:at] + (key.upper() if word[at].isupper() else key) + word[at + 1 :]
    if kind == 1:
        at = min(at, len(word) - 2)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 2:
        return word[:at] + word[at + 1 :]
    return word[:at] + word[at] + word[at:]
