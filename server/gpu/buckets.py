"""Fixed shapes for pairs of any length: a GPU replays what was recorded for a shape, so shapes are few.

A batch is cut into blocks of at most ``ROWS[-1]`` pairs, longest first, so that pairs of like length share
one and little is padding; each block has the smallest recorded shape that holds it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ROWS = (8, 16, 32, 64, 128)
"""Pairs of a shape."""

_LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


@dataclass(frozen=True, order=True)
class Shape:
    """rows: pairs; length: tokens of each, special ones and padding included."""

    rows: int
    length: int


@dataclass(frozen=True)
class Buckets:
    """Lengths of the shapes, ascending; the last one is that of the longest possible pair."""

    lengths: tuple[int, ...]

    @classmethod
    def up_to(cls, longest: int) -> Buckets:
        """Buckets for pairs of at most so many tokens; none is longer: a model has no positions beyond."""
        return cls((*(length for length in _LENGTHS if length < longest), longest))

    def shapes(self) -> Iterator[Shape]:
        """All shapes."""
        for length in self.lengths:
            for rows in ROWS:
                yield Shape(rows, length)

    def count(self, lengths: Sequence[int]) -> tuple[int, ...]:
        """How many pairs fall into each bucket. Raises: ValueError for one that is too long."""
        counts = [0] * len(self.lengths)
        for length in lengths:
            place = bisect_left(self.lengths, length)
            if place == len(counts):
                raise ValueError(
                    f"a pair of {length} tokens; the longest expected one has {self.lengths[-1]}"
                )
            counts[place] += 1
        return tuple(counts)

    def blocks(self, counts: Sequence[int]) -> list[tuple[Shape, int]]:
        """Shapes for so many pairs of each bucket, with the pairs in each, longest first."""
        blocks = []
        rest, length = 0, 0
        for place in range(len(counts) - 1, -1, -1):
            pairs = counts[place]
            if rest == 0 and pairs:
                length = self.lengths[place]
            rest += pairs
            while rest >= ROWS[-1]:
                blocks.append((Shape(ROWS[-1], length), ROWS[-1]))
                rest -= ROWS[-1]
                # What is left of this bucket begins the next block.
                length = self.lengths[place]
        if rest:
            blocks.append((Shape(ROWS[bisect_left(ROWS, rest)], length), rest))
        return blocks
