"""Which variant a shopper gets: the same one each time, without a list. Standard library alone."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_KEY = re.compile(r"[A-Za-z0-9._-]{1,64}")


class ExperimentRefused(ValueError):
    """The experiment cannot be what was written; the message says what to change."""


@dataclass(frozen=True)
class Experiment:
    """key: names the experiment, 1 to 64 letters, digits, dots, hyphens or underscores; it salts the
    assignment, so that two experiments split the same shoppers independently. shares: of each variant,
    above 0, in sum 1.
    Raises: ExperimentRefused.
    """

    key: str
    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        if not _KEY.fullmatch(self.key):
            raise ExperimentRefused(
                "an experiment key has 1 to 64 letters, digits, dots, hyphens or underscores"
            )
        if len(self.shares) < 2:
            raise ExperimentRefused("an experiment needs two variants or more")
        if any(not _KEY.fullmatch(name) for name in self.shares):
            raise ExperimentRefused("a variant is named like an experiment key")
        if not all(math.isfinite(share) and share > 0 for share in self.shares.values()):
            raise ExperimentRefused("each variant needs a share above 0")
        if abs(sum(self.shares.values()) - 1) > 1e-9:
            raise ExperimentRefused("the shares of the variants must add up to 1")

    def variant(self, pseudonym: str) -> str:
        """The variant of a shopper, by a salted hash (BLAKE2b, 64 bits) of the pseudonym.

        Raises: ExperimentRefused where the pseudonym is empty: all who are unknown would get one variant.
        """
        if not pseudonym:
            raise ExperimentRefused("a shopper without a pseudonym cannot be assigned")
        digest = hashlib.blake2b(
            pseudonym.encode(), digest_size=8, key=hashlib.sha256(self.key.encode()).digest()
        ).digest()
        place = int.from_bytes(digest, "big") / 2**64
        total = 0.0
        for name, share in self.shares.items():
            total += share
            if place < total:
                return name
        return name


@dataclass(frozen=True)
class Interleaved:
    """order: what is shown. team: of each product of it, "a" or "b"."""

    order: tuple[str, ...]
    team: tuple[str, ...]


def team_draft(a: Iterable[str], b: Iterable[str], *, places: int, coin: Iterable[bool]) -> Interleaved:
    """Two orders in one, each of which has the same chance at each place.

    a, b: product ids, best first. coin: True where `a` picks first in that round; it must not run out before
    `places` picks. Source: Radlinski, Kurup & Joachims 2008, "How Does Clickthrough Data Reflect Retrieval
    Quality?", algorithm 2.
    """
    left = {"a": list(dict.fromkeys(a)), "b": list(dict.fromkeys(b))}
    at = {"a": 0, "b": 0}
    order: list[str] = []
    team: list[str] = []
    taken: set[str] = set()
    flips = iter(coin)
    while len(order) < places:
        before = len(order)
        for name in ("a", "b") if next(flips) else ("b", "a"):
            while at[name] < len(left[name]) and left[name][at[name]] in taken:
                at[name] += 1
            if at[name] < len(left[name]) and len(order) < places:
                taken.add(left[name][at[name]])
                order.append(left[name][at[name]])
                team.append(name)
        if len(order) == before:
            break
    return Interleaved(tuple(order), tuple(team))


def credit(shown: Interleaved, clicked: Iterable[str]) -> int:
    """1: more clicks fell to `a`; -1: to `b`; 0: as many. A product counts once."""
    teams = dict(zip(shown.order, shown.team, strict=True))
    votes = [teams[product] for product in set(clicked) if product in teams]
    difference = votes.count("a") - votes.count("b")
    return (difference > 0) - (difference < 0)
