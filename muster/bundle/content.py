"""What the JSON files of a bundle must say: checked when a bundle is written and when it is read."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

from muster.bundle.errors import BundleContentError

TIERS = ("lexical", "hybrid", "late", "cross_small", "cross_large")
CROSS_TIERS = ("cross_small", "cross_large")
TEXT_FIELDS = ("title", "brand", "category", "bullets", "description", "attributes")
TOKENS_MAX = 512
DEPTH_MAX = 1000
WIDTH_MAX = 1000
# Far above any model that could answer in time: a reader stops here instead of filling the memory.
MODEL_BYTES_MAX = 512 << 20
_CHUNK_BYTES = 1 << 20


def parse_object(file: str, text: str | bytes) -> dict[str, Any]:
    """A JSON object without NaN or infinities. Raises: BundleContentError naming the file."""

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise BundleContentError(file, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BundleContentError(file, "not a JSON object")
    return value


def check_text(value: Mapping[str, Any]) -> None:
    """text.json: field lists and token limits. Raises: BundleContentError."""
    product = value.get("product")
    if not isinstance(product, dict):
        raise BundleContentError("text.json", "product is missing")
    for key in ("dense_fields", "token_fields", "cross_fields"):
        fields = product.get(key)
        if (
            not isinstance(fields, list)
            or not fields
            or len(set(map(str, fields))) != len(fields)
            or any(field not in TEXT_FIELDS for field in fields)
        ):
            raise BundleContentError(
                "text.json", f"product.{key} must name some of {', '.join(TEXT_FIELDS)}, each once"
            )
    if product["token_fields"] != product["dense_fields"]:
        raise BundleContentError(
            "text.json", "product.token_fields must equal dense_fields: both come out of one forward pass"
        )
    for key in ("dense_tokens_max", "late_tokens_max", "cross_tokens_max", "query_tokens_max"):
        _whole("text.json", key, value.get(key), 1, TOKENS_MAX)
    if value["late_tokens_max"] > value["dense_tokens_max"]:
        raise BundleContentError("text.json", "late_tokens_max is above dense_tokens_max")


def check_lexical(value: Mapping[str, Any]) -> None:
    """lexical.json: a boost for each field, and how retrievals are fused. Raises: BundleContentError."""
    boosts = value.get("boosts")
    if not isinstance(boosts, dict) or set(boosts) != set(TEXT_FIELDS):
        raise BundleContentError("lexical.json", f"boosts must name exactly {', '.join(TEXT_FIELDS)}")
    for field, boost in boosts.items():
        _number("lexical.json", f"boosts.{field}", boost, 0.0, 1e3)
    fusion = value.get("fusion")
    if not isinstance(fusion, dict) or fusion.get("kind") not in ("rrf", "weighted"):
        raise BundleContentError("lexical.json", "fusion.kind must be 'rrf' or 'weighted'")
    _number("lexical.json", "fusion.rrf_k", fusion.get("rrf_k"), 1.0, 1e4)
    weights = fusion.get("weights")
    if not isinstance(weights, dict) or set(weights) != {"lexical", "dense"}:
        raise BundleContentError("lexical.json", "fusion.weights must name exactly lexical, dense")
    for part, weight in weights.items():
        _number("lexical.json", f"fusion.weights.{part}", weight, 0.0, 1e3)


def check_plans(value: Mapping[str, Any], files: Mapping[str, object]) -> None:
    """plans.json: at least one plan, each of a tier whose model is there. Raises: BundleContentError."""
    plans = value.get("plans")
    if not isinstance(plans, list) or not plans:
        raise BundleContentError("plans.json", "there must be at least one plan")
    seen: set[tuple[str, int, int]] = set()
    for number, plan in enumerate(plans):
        where = f"plans[{number}]"
        if not isinstance(plan, dict) or plan.get("tier") not in TIERS:
            raise BundleContentError("plans.json", f"{where}.tier must be one of {', '.join(TIERS)}")
        tier = plan["tier"]
        _whole("plans.json", f"{where}.depth", plan.get("depth"), 0, DEPTH_MAX)
        _whole("plans.json", f"{where}.width", plan.get("width"), 1, WIDTH_MAX)
        reranks = tier not in ("lexical", "hybrid")
        if reranks != (plan["depth"] > 0):
            raise BundleContentError(
                "plans.json", f"{where}.depth must be {'above 0' if reranks else '0'} for the tier {tier}"
            )
        if tier in CROSS_TIERS and cross_file(tier, files) is None:
            raise BundleContentError("plans.json", f"{where} needs {tier}/model.onnx.gz, which is not there")
        for key in ("low", "expected_ndcg", "high"):
            _number("plans.json", f"{where}.{key}", plan.get(key), 0.0, 1.0)
        if not plan["low"] <= plan["expected_ndcg"] <= plan["high"]:
            raise BundleContentError("plans.json", f"{where}.expected_ndcg is outside its own interval")
        _number("plans.json", f"{where}.cost_ms", plan.get("cost_ms"), 0.0, 1e6)
        settled_max = DEPTH_MAX if tier in CROSS_TIERS else 0
        _whole("plans.json", f"{where}.settled_pairs", plan.get("settled_pairs", 0), 0, settled_max)
        key_of_plan = (tier, plan["depth"], plan["width"])
        if key_of_plan in seen:
            raise BundleContentError("plans.json", f"{where} repeats an earlier plan")
        seen.add(key_of_plan)


def cross_file(tier: str, files: Mapping[str, object]) -> str | None:
    """Where the cross-encoder of a tier is: compressed, or plain as in older bundles; None: there is none.

    Raises: BundleContentError where there are both, for nobody could tell which one serves.
    """
    found = [name for name in (f"{tier}/model.onnx.gz", f"{tier}/model.onnx") if name in files]
    if len(found) > 1:
        raise BundleContentError(found[0], f"{found[1]} is there as well, and a tier has one model")
    return found[0] if found else None


def check_compressed(file: str, data: bytes, *, bytes_max: int = MODEL_BYTES_MAX) -> None:
    """A .gz file: whole, one member, not far larger than any model. Raises: BundleContentError."""
    reader = zlib.decompressobj(wbits=31)
    size = 0
    rest = data
    try:
        while rest and not reader.eof:
            size += len(reader.decompress(rest, _CHUNK_BYTES))
            rest = reader.unconsumed_tail
            if size > bytes_max:
                raise BundleContentError(file, f"inflates to more than {bytes_max} bytes")
    except zlib.error as error:
        raise BundleContentError(file, f"not a whole gzip file: {error}") from error
    if not reader.eof:
        raise BundleContentError(file, "not a whole gzip file: it ends too soon")
    if reader.unused_data:
        raise BundleContentError(file, f"{len(reader.unused_data)} bytes after the end of the gzip file")


def check_golden(value: Mapping[str, Any]) -> None:
    """golden.json: tolerances, and at least one case. Raises: BundleContentError."""
    tolerance = value.get("tolerance")
    if not isinstance(tolerance, dict) or set(tolerance) != {"dense", "late", "cross"}:
        raise BundleContentError("golden.json", "tolerance must name exactly dense, late, cross")
    for part, most in tolerance.items():
        _number("golden.json", f"tolerance.{part}", most, 0.0, 10.0)
    cases = value.get("cases")
    if not isinstance(cases, list) or not cases:
        raise BundleContentError("golden.json", "there must be at least one case")
    for number, case in enumerate(cases):
        where = f"cases[{number}]"
        if not isinstance(case, dict) or not isinstance(case.get("query"), str) or not case["query"].strip():
            raise BundleContentError("golden.json", f"{where} has no query")
        if not isinstance(case.get("product"), dict):
            raise BundleContentError("golden.json", f"{where} has no product")
        for part in ("dense", "late"):
            _number("golden.json", f"{where}.{part}", case.get(part), -1.01, 1.01)
        if {"cross", "cross_small"} <= set(case):
            raise BundleContentError(
                "golden.json", f"{where} has cross, which is cross_small by its old name"
            )
        for part in ("cross", *CROSS_TIERS):
            if case.get(part) is not None:
                _number("golden.json", f"{where}.{part}", case[part], -1e6, 1e6)


def check_ranker(file: str, text: str | bytes) -> None:
    """ranker/<tier>.txt: whole (LightGBM ends its trees with a marker). Raises: BundleContentError."""
    data = text.encode() if isinstance(text, str) else text
    tier = file.removeprefix("ranker/").removesuffix(".txt")
    if tier not in TIERS:
        raise BundleContentError(file, f"no tier is called {tier!r}")
    if not data.startswith(b"tree") or b"\nend of trees" not in data or b"\nfeature_names=" not in data:
        raise BundleContentError(file, "not a whole LightGBM text model")


def _whole(file: str, key: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BundleContentError(file, f"{key} must be a whole number from {least} to {most}")


def _number(file: str, key: str, value: object, least: float, most: float) -> None:
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not math.isfinite(value)
        or not least <= value <= most
    ):
        raise BundleContentError(file, f"{key} must be a number from {least:g} to {most:g}")
