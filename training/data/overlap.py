"""Products that share words with a text: where hard negatives and candidates come from before any index."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# Letters and digits, and each Chinese, Japanese or Korean character as a word of its own.
_WORD = re.compile(
    r"[\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]|[^\W_\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]+"
)
_SATURATION = 1.2
_LENGTH = 0.75


def words_of(text: str) -> list[str]:
    """Lower-case words of a text, a plural s cut off so that "shoes" meets "shoe"."""
    return [
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
        for word in _WORD.findall(text.lower())
    ]


class WordOverlap:
    """BM25 over one field (Robertson & Zaragoza 2009), k1 1.2, b 0.75."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """texts: key to text."""
        self.keys = list(texts)
        self.at = {key: row for row, key in enumerate(self.keys)}
        counted = [Counter(words_of(text)) for text in texts.values()]
        self.words = [frozenset(one) for one in counted]
        lengths = np.array([sum(one.values()) for one in counted], dtype=np.float32)
        mean = float(lengths.mean()) if len(lengths) else 1.0
        rows: dict[str, list[int]] = {}
        times: dict[str, list[int]] = {}
        for row, one in enumerate(counted):
            for word, count in one.items():
                rows.setdefault(word, []).append(row)
                times.setdefault(word, []).append(count)
        self._postings: dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}
        for word, holders in rows.items():
            place = np.array(holders, dtype=np.int64)
            often = np.array(times[word], dtype=np.float32)
            norm = _SATURATION * (1 - _LENGTH + _LENGTH * lengths[place] / max(mean, 1e-9))
            rarity = math.log(1 + (len(counted) - len(place) + 0.5) / (len(place) + 0.5))
            weight = rarity * often * (_SATURATION + 1) / (often + norm)
            self._postings[word] = (place, weight.astype(np.float32))

    def holders(self, word: str) -> int:
        """How many products hold a word."""
        found = self._postings.get(word)
        return 0 if found is None else len(found[0])

    def scores(self, text: str) -> NDArray[np.float32]:
        """Score of every key, float32 [keys], 0 where no word is shared."""
        found = np.zeros(len(self.keys), dtype=np.float32)
        for word, times in Counter(words_of(text)).items():
            if word in self._postings:
                place, weight = self._postings[word]
                found[place] += weight * times
        return found

    def best(self, text: str, count: int) -> list[str]:
        """At most count keys that share a word with the text, best first, ties in the order of the keys."""
        scores = self.scores(text)
        order = np.argsort(-scores, kind="stable")[:count]
        return [self.keys[row] for row in order if scores[row] > 0]

    def holds(self, words: Sequence[str] | frozenset[str], key: str) -> bool:
        """Whether a product holds all of the words (False for no words)."""
        return bool(words) and self.words[self.at[key]].issuperset(words)
