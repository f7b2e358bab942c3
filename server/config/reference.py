"""The reference page of all settings (``docs/configuration.md``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from server.config.settings import NESTED, PREFIX, Settings
from server.sections import Section


def reference() -> str:
    """The reference page of all settings, Markdown."""
    lines = [
        "# Configuration",
        "",
        "Every setting of a replica. Values are read in the order default < file < environment < flag,",
        "checked as a whole before anything is opened, and logged once at the start with secrets hidden.",
        "A problem stops the start with exit code 2 and one line for each setting that is wrong, naming",
        "where it was set.",
        "",
        "- file: TOML, given with `--config FILE`; `deploy/replica-1.toml` is a commented example.",
        "- environment: `MUSTER_` and the name in upper case, sections joined by two underscores:",
        "  `MUSTER_LEASE__TTL_MS=800`.",
        "- flag: `--listen`, `--replica`, `--bundle`, `--data-dir`, `--port-file`, and",
        "  `--set lease.ttl_ms=800` for any other.",
        "",
        "This page is generated: `python -m server.config > docs/configuration.md`.",
        "",
    ]
    for section, title, fields in _sections():
        lines += [f"## {title}", ""]
        for name, field in fields.items():
            full = f"{section}.{name}" if section else name
            limits = _limits(field)
            lines += [
                f"### `{full}`",
                "",
                f"{_type(field)}, {_unit(field)}; default {_default(field)}{f'; {limits}' if limits else ''}."
                f" Environment: `{PREFIX}{full.upper().replace('.', NESTED)}`.",
                "",
                str(field.description),
                "",
            ]
    return "\n".join(lines).rstrip() + "\n"


def _sections() -> Iterator[tuple[str, str, dict[str, FieldInfo]]]:
    top = {name: field for name, field in Settings.model_fields.items() if not _is_section(field)}
    yield "", "The replica", top
    for name, field in Settings.model_fields.items():
        if _is_section(field):
            assert isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
            yield name, f"`[{name}]` {str(field.description).rstrip('.')}", field.annotation.model_fields


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, Section)


def _unit(field: FieldInfo) -> str:
    assert isinstance(field.json_schema_extra, dict)
    unit = str(field.json_schema_extra["unit"])
    return "no unit" if unit == "-" else unit


def _type(field: FieldInfo) -> str:
    names = {int: "integer", float: "number", bool: "true or false", str: "text", Path: "path"}
    annotation = field.annotation
    if annotation == tuple[str, ...]:
        return "List of texts"
    if annotation in names:
        return names[annotation].capitalize()
    arguments = getattr(annotation, "__args__", ())
    if Path in arguments:
        return "Path"
    return "One of " + ", ".join(f"`{value}`" for value in arguments)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "none (required)"
    value = field.default
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value == ():
        return "empty"
    return f"`{value}`" if value != "" else "empty"


def _limits(field: FieldInfo) -> str:
    low = next((item.ge for item in field.metadata if hasattr(item, "ge")), None)
    high = next((item.le for item in field.metadata if hasattr(item, "le")), None)
    return f"from {low} to {high}" if low is not None and high is not None else ""
