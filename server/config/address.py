"""Addresses as settings name them."""

from __future__ import annotations

import re


def split_address(value: str) -> tuple[str, int]:
    """``host:port`` (``[::1]:port`` for IPv6) as a pair. Raises: ValueError with the reason."""
    host, colon, port = value.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"must be host:port with a port from 0 to 65535, not {value!r}")
    return host, int(port)
