"""What every section of the settings is made of: a field keeps its unit for the reference page."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def setting(default: Any, unit: str, description: str, **limits: Any) -> Any:
    """A field with its unit kept for the reference page."""
    return Field(default, description=description, json_schema_extra={"unit": unit}, **limits)


class Section(BaseModel):
    """Settings under one name. Frozen; what it does not know is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def texts(value: Any) -> Any:
    """A list of texts, which a flag can only hold joined by commas."""
    return tuple(filter(None, value.split(","))) if isinstance(value, str) else value
