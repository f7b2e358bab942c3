"""Where values come from: a file, the environment, flags; merged, then checked at once."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsError

from server.catalogue.location import without_passwords
from server.config.settings import NESTED, PREFIX, ConfigurationError, Settings, flattened
from server.protection import PATHS


def load(config_path: Path | str | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read, merge and check every setting.

    config_path: TOML file; None: no file. overrides: flags, keys dotted ("lease.ttl_ms") or nested; a value
    of None counts as not given.
    Raises: ConfigurationError, with every problem found, each naming the setting and where it was set.
    """
    layers: list[tuple[str, dict[str, Any]]] = []
    if config_path is not None:
        layers.append((f"file {config_path}", _read_file(Path(config_path))))
    try:
        layers.append(("environment", dict(EnvSettingsSource(Settings)())))
    except SettingsError as error:
        raise ConfigurationError([f"environment: {error}"]) from error
    layers.append(("flag", _nested(overrides or {})))

    merged: dict[str, Any] = {}
    source: dict[str, str] = {}
    for name, layer in layers:
        _merge(merged, layer)
        for key, _ in flattened(layer):
            source[key] = (
                f"environment {PREFIX}{key.upper().replace('.', NESTED)}" if name == "environment" else name
            )
    try:
        return _Merged(**merged)
    except ValidationError as error:
        raise ConfigurationError([_problem(detail, source) for detail in error.errors()]) from error


class _Merged(Settings):
    """Settings from the layers ``load`` has merged already: no source but the arguments is read again."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError([f"file {path}: no such file"]) from error
    except OSError as error:
        raise ConfigurationError([f"file {path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"file {path}: not UTF-8 at byte {error.start}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([f"file {path}: not TOML: {error}"]) from error
    _resolve(path.parent, values, ("bundle", "data_dir", "port_file"))
    named = {"catalogue": ("store_password_file",), "privacy": ("secrets_file", "erased_file"), **PATHS}
    for section, names in named.items():
        if isinstance(values.get(section), dict):
            _resolve(path.parent, values[section], names)
    catalogue = values.get("catalogue")
    if isinstance(catalogue, dict) and not str(catalogue.get("encryption_keys") or "env:").startswith("env:"):
        _resolve(path.parent, catalogue, ("encryption_keys",))
    return values


def _resolve(folder: Path, values: dict[str, Any], names: Iterable[str]) -> None:
    """Paths of a settings file are relative to its folder."""
    for name in names:
        if isinstance(values.get(name), str):
            values[name] = str(folder / Path(values[name]).expanduser())


def _nested(flags: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in flags.items():
        if value is None:
            continue
        *outer, last = key.split(".")
        place = result
        for part in outer:
            place = place.setdefault(part, {})
        if isinstance(value, Mapping):
            _merge(place.setdefault(last, {}), dict(value))
        else:
            place[last] = value
    return result


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _problem(detail: Any, source: Mapping[str, str]) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "missing":
        return f"{name}: required"
    if detail["type"] == "extra_forbidden":
        message = "no such setting"
    if not name:
        return message
    where = source.get(name) or next((text for key, text in source.items() if key.startswith(f"{name}.")), "")
    given = "" if detail["type"] == "extra_forbidden" else f" = {without_passwords(repr(detail['input']))}"
    return f"{name}{given}{f' (from {where})' if where else ''}: {message}"
