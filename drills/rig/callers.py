"""What the drill's own clients show and believe for a while: the variables of `muster.client.Credentials`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

_OURS = ("MUSTER_TLS_", "MUSTER_TOKEN")


@contextlib.contextmanager
def callers(variables: Mapping[str, str]) -> Iterator[None]:
    """While it lasts clients of this process do what these variables say, and nothing that others said."""
    before = {name: value for name, value in os.environ.items() if name.startswith(_OURS)}
    for name in before:
        del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)
