"""Leakage between splits: a training text that asks what a text outside training asks too.

Two texts count as the same where the Jaccard similarity of their word sets reaches a threshold: 1 means the
same words in any order. Only pairs that share one of their rarest words are compared, which finds every pair
above the threshold (prefix filtering: Chaudhuri, Ganti & Kaushik 2006; Bayardo, Ma & Srikant 2007).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from training.data.tables import TRAIN, UNLABELLED

# Chinese and Japanese are written without spaces: each such character is a word of its own.
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")


@dataclass(frozen=True)
class Text:
    """What the check compares: a text of a set and split, by its key."""

    set: str
    key: str
    split: str
    text: str


@dataclass(frozen=True)
class Leak:
    """A training text and one outside training that asks the same. similarity: Jaccard, up to 1."""

    train: Text
    other: Text
    similarity: float

    @property
    def kind(self) -> str:
        """One of "same words" and "near duplicate", with ", other set" where the sets differ."""
        kind = "same words" if self.similarity >= 1.0 else "near duplicate"
        return kind if self.train.set == self.other.set else f"{kind}, other set"


@lru_cache(maxsize=1 << 16)
def words(text: str) -> frozenset[str]:
    """The words of a text, without case and width; the text itself where it has none."""
    plain = unicodedata.normalize("NFKC", text).lower()
    return frozenset(_WORD.findall(plain)) or frozenset([plain.strip()])


def find_leaks(texts: Iterable[Text], near_duplicate: float = 1.0) -> list[Leak]:
    """Texts of the splits train and unlabelled that are like one of another split, each with its likest.

    near_duplicate: Jaccard similarity, above 0 and at most 1, from which on two texts are the same question.
    """
    texts = list(texts)
    seen = [one for one in texts if one.split in (TRAIN, UNLABELLED)]
    return alike(seen, [one for one in texts if one.split not in (TRAIN, UNLABELLED)], near_duplicate)


def alike(texts: Sequence[Text], others: Sequence[Text], near_duplicate: float) -> list[Leak]:
    """Those of `texts` that are like one of `others`, each with its likest. Raises: ValueError."""
    if not 0.0 < near_duplicate <= 1.0:
        raise ValueError(f"a similarity is above 0 and at most 1, not {near_duplicate}")
    counts: Counter[str] = Counter()
    for one in (*texts, *others):
        counts.update(words(one.text))
    index: dict[str, list[int]] = {}
    for at, other in enumerate(others):
        for word in _rarest(other, counts, near_duplicate):
            index.setdefault(word, []).append(at)
    leaks = []
    for one in texts:
        near = {at for word in _rarest(one, counts, near_duplicate) for at in index.get(word, ())}
        likest, best = None, 0.0
        for at in sorted(near):
            similarity = jaccard(words(one.text), words(others[at].text))
            if similarity >= near_duplicate - 1e-9 and similarity > best:
                likest, best = others[at], similarity
        if likest is not None:
            leaks.append(Leak(one, likest, best))
    return leaks


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Share of the words of both that are common, 0 to 1."""
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)


def _rarest(one: Text, counts: Counter[str], near_duplicate: float) -> list[str]:
    # Two sets this alike share one of these first words, whatever the rest is.
    ordered = sorted(words(one.text), key=lambda word: (counts[word], word))
    return ordered[: len(ordered) - math.ceil(near_duplicate * len(ordered) - 1e-9) + 1]
