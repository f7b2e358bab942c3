"""Bundles in a folder, and what their cards say, for a comparison side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muster.bundle import BundleError, read_bundle, read_gate

_CARD_BYTES_MAX = 8 << 20


@dataclass(frozen=True)
class Card:
    """One folder. problem: why it cannot be deployed; empty: it is sound. facts: name to text, in order."""

    folder: Path
    bundle_id: str = ""
    problem: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Its folder and, where it is known, its name."""
        return f"{self.folder.name} ({self.bundle_id})" if self.bundle_id else self.folder.name


def find(folder: Path) -> list[Card]:
    """The bundles below a folder, by name; checksums are verified."""
    if not folder.is_dir():
        return []
    places = sorted(place for place in folder.iterdir() if (place / "manifest.json").is_file())
    return [read(place) for place in places]


def read(folder: Path) -> Card:
    """One bundle."""
    try:
        bundle = read_bundle(folder)
        gate = read_gate(folder)
    except BundleError as error:
        return Card(folder, problem=f"It is refused: {error}")
    except OSError as error:
        return Card(folder, problem=f"It cannot be read: {error.strerror or error}")
    size_bytes = sum(place.stat().st_size for place in folder.rglob("*") if place.is_file())
    facts = {
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(bundle.manifest.created_unix_s)),
        "size": f"{size_bytes / 2**20:.1f} MiB",
        "drills": "no gate" if gate is None else ("held" if gate.held else "did not hold"),
        **_card_facts(folder / "card.json"),
        **_plan_facts(folder / "plans.json"),
    }
    return Card(folder.resolve(), bundle.bundle_id, "", facts)


def compare(cards: Sequence[Card]) -> list[tuple[str, list[str], bool]]:
    """Rows of (fact, one text for each card, whether they differ), in the order of the first that has it."""
    names = dict.fromkeys(name for card in cards for name in card.facts)
    table = []
    for name in names:
        texts = [card.facts.get(name, "-") for card in cards]
        table.append((name, texts, len(set(texts)) > 1))
    return table


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > _CARD_BYTES_MAX:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _plan_facts(path: Path) -> dict[str, str]:
    found = _json(path)
    plans = found.get("plans", []) if isinstance(found, dict) else []
    facts = {}
    for plan in plans:
        if isinstance(plan, dict) and {"tier", "depth", "expected_ndcg", "cost_ms"} <= plan.keys():
            span = f" [{plan['low']:.3f}, {plan['high']:.3f}]" if {"low", "high"} <= plan.keys() else ""
            facts[f"plan {plan['tier']}@{plan['depth']}"] = (
                f"nDCG@10 {plan['expected_ndcg']:.3f}{span}, {plan['cost_ms']:.2f} ms"
            )
    return facts


def _card_facts(path: Path) -> dict[str, str]:
    card = _json(path)
    if not isinstance(card, dict):
        return {}
    facts = {}
    for name in ("name", "seed", "folds", "pretrained"):
        if isinstance(card.get(name), str | int):
            facts[name] = str(card[name])
    if isinstance(card.get("licences"), list):
        facts["licences"] = "; ".join(str(licence) for licence in card["licences"])
    data = card.get("data")
    for name, told in data.items() if isinstance(data, dict) else ():
        if isinstance(told, dict):
            facts[f"data {name}"] = f"{told.get('products', '?')} products, {told.get('labels', 0)} labels"
    return facts
