"""What every server is asked: real queries, each with the same 50 candidates.

The candidates are the first 50 of fused retrieval over the whole catalogue, as a shop would have them
re-ranked. A peer gets the query and 50 texts; Muster, whose API it is, the query and 50 product ids. Texts
are those parts of the products that the student reads, cut where it stops reading: sending more would burden
the peers for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer

from drills.rig.shop import Query, ndcg_at_10

CANDIDATES = 50


@dataclass(frozen=True)
class Asked:
    """One query and its candidates, in the order of retrieval. gains: of all judged products of the query."""

    query: str
    product_ids: tuple[str, ...]
    texts: tuple[str, ...]
    gains: Mapping[str, float]

    def ndcg(self, order: Sequence[int]) -> float:
        """nDCG@10 of the candidates in this order, over the whole catalogue: unjudged products count 0."""
        return ndcg_at_10([self.product_ids[at] for at in order[:10]], self.gains) or 0.0


@dataclass(frozen=True)
class Workload:
    """The queries, sent in turn. name: of the catalogue. products: in it. held_back: no model saw the
    queries."""

    name: str
    products: int
    held_back: bool
    asked: tuple[Asked, ...]

    def save(self, path: Path) -> None:
        """As JSON, by rename."""
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self)), encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Workload:
        """What `save` wrote. Raises: OSError, ValueError, KeyError, TypeError on anything else."""
        values = json.loads(path.read_text(encoding="utf-8"))
        asked = [
            Asked(one["query"], tuple(one["product_ids"]), tuple(one["texts"]), one["gains"])
            for one in values.pop("asked")
        ]
        return cls(asked=tuple(asked), **values)


def measured_queries(queries: Sequence[Query], most: int) -> list[Query]:
    """At most so many judged queries, those that no model was trained on where there are such."""
    judged = [query for query in queries if query.relevant()]
    held_back = [query for query in judged if query.held_back]
    return (held_back or judged)[:most]


def cut(tokenizer: Tokenizer, text: str, tokens_max: int) -> str:
    """The beginning of a text that makes up its first word pieces, at most so many."""
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    return text if len(offsets) <= tokens_max else text[: offsets[tokens_max - 1][1]]


def order_of(scores: Sequence[float]) -> list[int]:
    """Places best first; equal scores keep the order of retrieval."""
    return sorted(range(len(scores)), key=lambda at: -scores[at])
