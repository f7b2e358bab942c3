"""The tables that a data set becomes, whatever its files looked like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from muster.v1 import catalogue_pb2

TRAIN, DEV, TEST = "train", "dev", "test"
UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class JudgedQuery:
    """One query with what is known about its products. gains: product id to gain, as in the file."""

    set: str
    query_id: str
    split: str
    text: str
    gains: Mapping[str, float]


@dataclass(frozen=True)
class ClassText:
    """One text with its class; label: None where nobody has said (split "unlabelled")."""

    set: str
    text_id: str
    split: str
    text: str
    label: str | None


@dataclass(frozen=True)
class UserSequence:
    """What one shopper chose, in the order of time."""

    set: str
    user_id: str
    items: tuple[str, ...]


@dataclass
class DataTables:
    """One data set as it was read.

    products: by id. queries, classes, sequences: in file order, splits as in the files ("" where the files
    have none). files: every file that was read, in the order of reading. repeated_labels: rows that say again
    what an earlier row said. unknown_queries, unknown_products: labels that name a query or product that the
    set does not have; the former are left out, the latter stay (a judgement of a product nobody can rank).
    """

    products: dict[str, catalogue_pb2.Product] = field(default_factory=dict)
    queries: list[JudgedQuery] = field(default_factory=list)
    classes: list[ClassText] = field(default_factory=list)
    sequences: list[UserSequence] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    repeated_labels: int = 0
    unknown_queries: int = 0
    unknown_products: int = 0
