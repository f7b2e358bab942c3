"""The smallest files that make a bundle: enough for its format, useless for ranking."""

from __future__ import annotations

import json
from typing import Any

FIELDS = ("title", "brand", "category", "bullets", "description", "attributes")


def text() -> dict[str, Any]:
    return {
        "product": {
            "dense_fields": ["title", "brand"],
            "token_fields": ["title", "brand"],
            "cross_fields": ["title"],
        },
        "dense_tokens_max": 40,
        "late_tokens_max": 32,
        "cross_tokens_max": 40,
        "query_tokens_max": 32,
    }


def lexical() -> dict[str, Any]:
    return {
        "boosts": dict.fromkeys(FIELDS, 1.0),
        "fusion": {"kind": "rrf", "rrf_k": 60, "weights": {"lexical": 1.0, "dense": 1.0}},
    }


def plan(tier: str = "late", depth: int = 50, **other: Any) -> dict[str, Any]:
    return {
        "tier": tier,
        "depth": depth,
        "width": 200,
        "expected_ndcg": 0.6,
        "low": 0.5,
        "high": 0.7,
        "cost_ms": 3.0,
    } | other


def golden() -> dict[str, Any]:
    case = {"query": "lamp", "product": {"product_id": "1", "title": "Lamp"}, "dense": 0.5, "late": 0.6}
    return {"tolerance": {"dense": 0.03, "late": 0.03, "cross": 0.25}, "cases": [case | {"cross": None}]}


def ranker() -> str:
    return "tree\nversion=v4\nfeature_names=bm25 dense\n\nTree=0\n\nend of trees\n"


def bundle_files(**changed: Any) -> dict[str, bytes]:
    """Files of a valid bundle; keyword arguments replace JSON contents ("text", "plans"...)."""
    contents: dict[str, Any] = {
        "tokenizer": {"model": {"type": "WordPiece"}},
        "text": text(),
        "lexical": lexical(),
        "plans": {"plans": [plan("lexical", 0), plan("hybrid", 0), plan()]},
        "golden": golden(),
        "card": {"seed": 1},
    } | changed
    files = {f"{name}.json": json.dumps(value).encode() for name, value in contents.items()}
    return files | {
        "encoder/model.onnx": b"weights of the encoder",
        "ranker/late.txt": ranker().encode(),
        "card.md": b"# A bundle\n",
    }
