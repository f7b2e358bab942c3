"""Examples that need no judge: titles and the rest of a product, queries from attributes, hard negatives.

A pool is every product of every set under one key, "set/product id", with its word pieces and its words.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from muster.v1 import catalogue_pb2
from training.data.batches import Specials, pieces_of
from training.data.edits import Effect, back_off
from training.data.lexicon import Lexicon, learn
from training.data.overlap import WordOverlap, words_of
from training.data.text import product_text
from training.prepare import JudgedQuery, Prepared
from training.recipe import Recipe, RecipeError

_TITLE_SHARE = 0.4
# Words of titles and categories that no shopper would ask for alone.
_EMPTY = frozenset(
    words_of(
        "a an and the of for with in on to by from or at as is it its no not all new set pack piece pcs inch "
        "size color colour x w h l cm mm ft oz lb gb mb ghz pc original other accessory supply product item"
    )
)
_WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")


@dataclass(frozen=True)
class Example:
    """One query with candidates.

    query: word pieces. asked: its words, to recognise products that would answer it too (empty: do not try).
    keys: of the candidates. rows: their word pieces. targets: 0 or above, one a candidate. open: whether the
    candidates of other examples in the batch serve as negatives.
    """

    query: list[int]
    asked: frozenset[str]
    keys: list[str]
    rows: list[list[int]]
    targets: list[float]
    open: bool = True


class Pool:
    """Every product, tokenised and indexed by its words once.

    held_out: share of the keys and texts that are kept from training; which ones depends on their identity
    alone.
    """

    def __init__(self, recipe: Recipe, prepared: Prepared, *, held_out: float) -> None:
        self.recipe = recipe
        self.tokenizer = prepared.tokenizer
        self.specials = Specials.of(prepared.tokenizer)
        self.products: dict[str, catalogue_pb2.Product] = {
            f"{name}/{key}": one for name, table in prepared.products.items() for key, one in table.items()
        }
        self.held_out = held_out
        texts = [product_text(one, recipe.text.dense_fields) for one in self.products.values()]
        rows = pieces_of(prepared.tokenizer, texts, recipe.text.dense_tokens_max)
        self.rows = dict(zip(self.products, rows, strict=True))
        searched = ("title", "brand", "category", "description", "attributes")
        self.overlap = WordOverlap({key: product_text(one, searched) for key, one in self.products.items()})
        self.sets: dict[str, list[str]] = {}
        for key, row in self.rows.items():
            if row:
                self.sets.setdefault(key.split("/", 1)[0], []).append(key)

        self._lexicons: dict[str, Lexicon] = {}

    def lexicon(self, name: str) -> Lexicon:
        """What the catalogue of a set teaches about its words, learnt when it is first asked for."""
        if name not in self._lexicons:
            own = [one for key, one in self.products.items() if key.startswith(f"{name}/")]
            self._lexicons[name] = learn(own, synonyms=False)
        return self._lexicons[name]

    def asked(self, text: str) -> list[int]:
        """Word pieces of a query text."""
        return pieces_of(self.tokenizer, [text], self.recipe.text.query_tokens_max)[0]

    def is_held_out(self, identity: str) -> bool:
        """Whether a product key or a text belongs to the share that training never sees."""
        digest = hashlib.sha256(f"{self.recipe.seed}/held out/{identity}".encode()).digest()
        return int.from_bytes(digest[:4], "big") < self.held_out * 2**32

    def draw(self, chooser: np.random.Generator, *, held_out: bool) -> str:
        """A random product: sets by the square root of their size, so a large one does not drown the rest.

        Raises: RecipeError where no such product is found.
        """
        names = list(self.sets)
        shares = np.sqrt([len(self.sets[name]) for name in names])
        for _ in range(1000):
            keys = self.sets[names[int(chooser.choice(len(names), p=shares / shares.sum()))]]
            key = keys[int(chooser.integers(len(keys)))]
            if self.is_held_out(key) == held_out:
                return key
        raise RecipeError("unlabelled.held_out leaves no product to learn from or to check on")


def structure_example(
    pool: Pool, chooser: np.random.Generator, *, negatives: int, held_out: bool
) -> Example | None:
    """A product's title as the query, the rest of its text as the answer.

    Hard negatives are the rest of products of the same set whose titles share most words, of the same brand
    or the same category first. None where the product says nothing beside its title.
    """
    key = pool.draw(chooser, held_out=held_out)
    own = pool.products[key]
    answer = _rest(own)
    if not answer or not own.title:
        return None
    near = [
        other
        for other in pool.overlap.best(own.title, 40)
        if other != key
        and _same_set(other, key)
        and pool.is_held_out(other) == held_out
        and pool.products[other].title != own.title
        and _rest(pool.products[other]) not in ("", answer)
    ]
    kin = [other for other in near if _kin(own, pool.products[other])]
    chosen = (kin + [other for other in near if other not in kin])[:negatives]
    keys = [key, *chosen]
    rows = pieces_of(
        pool.tokenizer, [_rest(pool.products[one]) for one in keys], pool.recipe.text.dense_tokens_max
    )
    query = pool.asked(own.title)
    if not query or not rows[0]:
        return None
    kept = [at for at, row in enumerate(rows) if row]
    return Example(
        query,
        frozenset(),
        [keys[at] for at in kept],
        [rows[at] for at in kept],
        [1.0 if at == 0 else 0.0 for at in kept],
    )


def synthetic_example(
    pool: Pool, chooser: np.random.Generator, *, negatives: int, held_out: bool
) -> Example | None:
    """A query that asks for a product, with its whole text as the answer, and others graded against it.

    The query is made from the product's type, brand and colour (`training.data.edits.back_off`, which also
    grades some neighbours of its shelf) or is a run of key words of its title. Hard negatives share words
    with the query, are of the same set, and lack at least one of its words. None where the product has too
    little to ask for.
    """
    key = pool.draw(chooser, held_out=held_out)
    name = key.split("/", 1)[0]
    pairs = []
    if chooser.random() >= _TITLE_SHARE:
        pairs = back_off(pool.products[key], pool.lexicon(name), Effect(), chooser, neighbours=negatives)
    if pairs:
        text = pairs[0].query
        graded = [(f"{name}/{one.product.product_id}", one.target) for one in pairs]
    else:
        title = title_query(pool.products[key], chooser)
        if title is None:
            return None
        text = title
        graded = [(key, 1.0)]
    graded = [one for one in graded if pool.rows[one[0]] and pool.is_held_out(one[0]) == held_out]
    asked = frozenset(words_of(text))
    known = {one for one, _ in graded}
    near = [
        other
        for other in pool.overlap.best(text, 60)
        if other not in known
        and _same_set(other, key)
        and pool.is_held_out(other) == held_out
        and not pool.overlap.holds(asked, other)
        and pool.rows[other]
    ]
    # The very best are often right answers in other words; a random choice among the next is safer.
    near = near[: 4 * negatives + 4]
    graded += [(near[int(at)], 0.0) for at in chooser.permutation(len(near))[:negatives]]
    query = pool.asked(text)
    if not query:
        return None
    return Example(
        query,
        asked,
        [one for one, _ in graded],
        [pool.rows[one] for one, _ in graded],
        [target for _, target in graded],
    )


def title_query(product: catalogue_pb2.Product, chooser: np.random.Generator) -> str | None:
    """Two to four words in a row near the start of a title; a piece of it where it has no spaces.

    None where the title has no word to ask with.
    """
    title = [
        word
        for word in _WORD.findall(product.title)
        if len(word) > 1 and words_of(word) and words_of(word)[0] not in _EMPTY
    ]
    if len(title) >= 2:
        size = int(chooser.integers(2, min(4, len(title)) + 1))
        # The first words of a title say what it is; further on come sizes and praise.
        start = int(chooser.integers(0, max(1, min(len(title), 8) - size + 1)))
        return " ".join(title[start : start + size]).lower()
    if not title:
        return None
    letters: str = title[0]
    start = int(chooser.integers(max(1, len(letters) // 2)))
    return letters[start : start + max(2, len(letters) // 3)].lower()


def labelled_example(
    pool: Pool, query: JudgedQuery, chooser: np.random.Generator, *, candidates: int
) -> Example | None:
    """A judged query with some of its judged products, the best among them; None where it has none.

    Raises: RecipeError where a gain has no target.
    """
    targets = next(one.targets for one in pool.recipe.data if one.name == query.set)
    keys = [key for key in query.gains if pool.rows.get(f"{query.set}/{key}")]
    graded = []
    for key in keys:
        gain = str(float(query.gains[key]))
        if gain not in targets:
            raise RecipeError(f"data.{query.set}.targets says nothing of the gain {gain}")
        graded.append((f"{query.set}/{key}", targets[gain]))
    asked = pool.asked(query.text)
    if not graded or not asked:
        return None
    graded = [graded[at] for at in chooser.permutation(len(graded))]
    # A group that is all of one grade has no order to learn.
    graded.sort(key=lambda one: -one[1])
    if len(graded) > candidates:
        first = candidates // 2
        rest = graded[first:]
        graded = graded[:first] + [
            rest[int(at)] for at in sorted(chooser.permutation(len(rest))[: candidates - first])
        ]
    return Example(
        asked,
        frozenset(words_of(query.text)),
        [key for key, _ in graded],
        [pool.rows[key] for key, _ in graded],
        [target for _, target in graded],
        # Products of several grades have an order to learn; a single one needs others to be told from.
        open=len({target for _, target in graded}) < 2,
    )


def negatives_allowed(pool: Pool, examples: Sequence[Example]) -> list[list[bool]]:
    """Which candidates of a batch, all in one row, each example may be compared with: [examples, candidates].

    Its own always. Those of the others where it is open, unless the product is one of its own, or holds every
    word that was asked for: such a one may be an answer that nobody has labelled.
    """
    found = []
    for one in examples:
        own = set(one.keys)
        row = []
        for other in examples:
            for key in other.keys:
                if other is one:
                    row.append(True)
                else:
                    row.append(one.open and key not in own and not pool.overlap.holds(one.asked, key))
        found.append(row)
    return found


def _same_set(key: str, other: str) -> bool:
    return key.split("/", 1)[0] == other.split("/", 1)[0]


def _rest(product: catalogue_pb2.Product) -> str:
    text = product_text(product, ("category", "description", "bullets"))
    return text if text.strip() != product.title.strip() else ""


def _kin(one: catalogue_pb2.Product, other: catalogue_pb2.Product) -> bool:
    same_brand = bool(one.brand) and one.brand.lower() == other.brand.lower()
    return same_brand or (bool(one.category) and one.category[-1:] == other.category[-1:])
