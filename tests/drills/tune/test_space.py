"""Points and the settings that they set."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drills.tune.space import (
    BY_NAME,
    CHECK,
    CHUNK,
    CLIENT,
    REPLICAS,
    SETTINGS,
    TTL,
    WORKERS,
    file_sections,
    group_of,
    searched_ranges,
    shipped,
    sound,
    starting_point,
)
from muster.client import ClientSettings
from server import config


def test_defaults_and_bounds_are_those_of_replicas_and_clients() -> None:
    client = {field.name: field.default for field in fields(ClientSettings)}
    settings = config.Settings.model_fields
    for setting in SETTINGS:
        section, _, name = setting.name.partition(".")
        if section == CLIENT:
            assert client[name] == setting.default
        elif name:
            field = settings[section].annotation.model_fields[name]  # type: ignore[union-attr]
            assert field.default == setting.default, setting.name
            low = next(item.ge for item in field.metadata if hasattr(item, "ge"))
            high = next(item.le for item in field.metadata if hasattr(item, "le"))
            assert low <= setting.low < setting.high <= high, setting.name


@given(ttl_ms=st.integers(100, 60_000), check_ms=st.integers(5, 15_000))
def test_a_sound_point_is_one_that_a_replica_takes(ttl_ms: int, check_ms: int) -> None:
    point = sound({**shipped(), TTL: ttl_ms, CHECK: check_ms})
    replica, client = file_sections(point)
    flags = {
        f"{section}.{name}": value for section, values in replica.items() for name, value in values.items()
    }
    settings = config.load(None, {"bundle": "b", "data_dir": "d", **flags})
    assert settings.lease.ttl_ms == ttl_ms
    ClientSettings(**dict[str, Any](client))


def test_a_starting_point_takes_what_the_files_set_and_leaves_the_rest_as_shipped() -> None:
    point = starting_point({"lease": {"ttl_ms": 3000}, "log": {"level": "info"}}, {"hedge_after_ms": 200}, 5)
    assert point == {**shipped(), TTL: 3000, "client.hedge_after_ms": 200, REPLICAS: 5}


def test_a_value_that_is_no_number_is_named() -> None:
    with pytest.raises(ValueError, match=r"lease.ttl_ms = 'soon' is no number"):
        starting_point({"lease": {"ttl_ms": "soon"}}, {}, None)


def test_every_setting_belongs_to_one_group() -> None:
    point = shipped()
    together = [name for group in {setting.group for setting in SETTINGS} for name in group_of(point, group)]
    assert sorted(together) == sorted(BY_NAME)


def test_what_cannot_show_here_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = {WORKERS: (1, 0), CHUNK: (1, 16), TTL: (200, 5000)}
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert searched_ranges(ranges, cross_encoder=False) == {WORKERS: (1, 4), TTL: (200, 5000)}
    assert CHUNK in searched_ranges(ranges, cross_encoder=True)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    assert WORKERS not in searched_ranges(ranges, cross_encoder=False)
