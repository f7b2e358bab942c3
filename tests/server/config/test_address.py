"""Addresses."""

from __future__ import annotations

import pytest

from server import config


@pytest.mark.parametrize(
    ("address", "parts"), [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:7461", ("[::1]", 7461))]
)
def test_an_address_is_split_at_its_last_colon(address: str, parts: tuple[str, int]) -> None:
    assert config.split_address(address) == parts
