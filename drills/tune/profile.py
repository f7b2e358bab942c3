"""What a tune measures and weighs: read from a TOML file of profiles, checked as a whole."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from drills.tune.space import BY_NAME

STANDARD = "standard"
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]


class ProfileError(Exception):
    """The profile cannot be used; the text says what is wrong with it."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Weights(_Part):
    """Points that a configuration costs, for each second, percent and replica."""

    unavailable_per_s: Weight = 1.0
    missed_per_percent: Weight = 0.1
    quality_per_percent: Weight = 0.1
    replica_each: Weight = 0.1


class Limits(_Part):
    """extra_load_share_max: of second sendings. runs_min: of each side of a comparison. confidence: of all
    decisions of a tune together. replica_runs: drills that a number of replicas must hold, of each kind.
    """

    extra_load_share_max: Share = 0.1
    runs_min: int = Field(default=10, ge=3, le=1000)
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    replicas_min: int = Field(default=3, ge=2, le=8)
    replicas_max: int = Field(default=5, ge=2, le=8)
    replica_runs: int = Field(default=1, ge=1, le=100)


class NoiseBounds(_Part):
    """Above any of these nothing can be recommended. stall_max_ms, late_share_max: of the load's
    generator, in one run, beside faults and in the flood; such a run is done again.
    patience_s: how long a quieter moment is waited for.
    """

    fsync_p99_ms: Positive = 60.0
    wait_p99_ms: Positive = 15.0
    wait_max_ms: Positive = 100.0
    cpu_pressure_max: Share = 0.3
    stall_max_ms: Positive = 100.0
    late_share_max: Share = 0.2
    patience_s: Weight = 60.0


class Profile(_Part):
    """One run's faults and load, and how its outcomes are weighed. `profiles.toml` explains each."""

    kills: int = Field(default=1, ge=1, le=20)
    hangs: int = Field(default=1, ge=0, le=20)
    hang_max_s: float = Field(default=4.0, gt=0, le=120)
    pauses: int = Field(default=3, ge=0, le=100)
    harmless_pause_ms: float = Field(default=150.0, gt=0, le=60_000)
    reads_per_s: Positive = 60.0
    writes_per_s: Positive = 20.0
    read_deadline_ms: Positive = 200.0
    read_within_ms: Positive = 100.0
    flood_s: Positive = 3.0
    flood_factor: Positive = 2.0
    flood_deadline_ms: Positive = 50.0
    products: int = Field(default=2000, ge=10, le=1_000_000)
    weights: Weights = Weights()
    limits: Limits = Limits()
    noise: NoiseBounds = NoiseBounds()
    ranges: dict[str, tuple[float, float]] = {}

    @field_validator("ranges")
    @classmethod
    def _known(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (low, high) in ranges.items():
            setting = BY_NAME.get(name)
            if setting is None or not setting.searched:
                known = ", ".join(sorted(name for name, one in BY_NAME.items() if one.searched))
                raise ValueError(f"{name!r} is no setting that is searched; there are: {known}")
            least = max(low, setting.low)
            if low < setting.low or high > setting.high or (high and high < least):
                raise ValueError(
                    f"{name}: from {low:g} to {high:g} is not a range within {setting.low:g} to"
                    f" {setting.high:g}"
                )
        return ranges


def load_profile(name: str, path: Path | None = None) -> Profile:
    """A profile by its name. path: a file of one's own; None: those that come with the drills. What a profile
    leaves out is as in the `standard` one that comes with them.

    Raises: ProfileError.
    """
    shipped = _read(resources.files("drills.tune").joinpath("profiles.toml"))
    profiles = shipped if path is None else _read(path)
    if not isinstance(profiles.get(name), dict):
        raise ProfileError(
            f"no profile {name!r} in {path or 'the shipped profiles'}; there are:"
            f" {', '.join(sorted(profiles)) or 'none'}"
        )
    try:
        return Profile.model_validate(_over(shipped[STANDARD], profiles[name]))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {str(one['msg']).removeprefix('Value error, ')}"
            for one in error.errors()
        )
        raise ProfileError(f"the profile {name!r} cannot be used: {problems}") from error


def _read(source: Any) -> dict[str, Any]:
    try:
        return tomllib.loads(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProfileError(f"{source} cannot be read as profiles: {error}") from error


def _over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        # A list of ranges replaces the whole one: what it leaves out is not searched.
        if key != "ranges" and isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = {**merged[key], **value}
        else:
            merged[key] = value
    return merged
