"""Durations as people write them on a command line."""

from __future__ import annotations

import re

_UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1_000.0, "m": 60_000.0}


def parse_duration_ms(text: str, *, bare_unit: str = "") -> float:
    """Milliseconds of a duration such as 50ms, 2s, 1.5s, 250us or 1m.

    bare_unit: the unit of a number that carries none; "": a number must carry one.
    Raises: ValueError unless it is a number above 0 with a unit.
    """
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(us|ms|s|m|)\s*", text, re.ASCII)
    unit = (match[2] or bare_unit) if match else ""
    value_ms = float(match[1]) * _UNITS_MS[unit] if match and unit else 0.0
    if not value_ms > 0:
        raise ValueError(f"{text!r} is not a duration above 0; write it with its unit, like 50ms or 2s")
    return value_ms
