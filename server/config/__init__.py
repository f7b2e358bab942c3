"""Settings of one replica: typed, checked as a whole, read in one order.

The order is default < file (TOML) < environment (``MUSTER_*``) < flag. Nested settings take two underscores
in the environment: ``MUSTER_LEASE__TTL_MS=800``. ``load`` is the only door; it either returns a frozen
``Settings`` or raises ``ConfigurationError`` with one sentence for each thing that is wrong. Run
``python -m server.config`` to print the reference page (``docs/configuration.md``).

``serving`` and ``state`` hold the sections, ``settings`` all of them and what must hold between them,
``layers`` where values come from, ``reference`` the page about them.
"""

from __future__ import annotations

from server.config.address import split_address
from server.config.layers import load
from server.config.reference import reference
from server.config.serving import LogSettings, MetricsSettings, RpcSettings, TracingSettings
from server.config.settings import ConfigurationError, Settings, prepare_data_dir
from server.config.state import GenerationSettings

__all__ = [
    "ConfigurationError",
    "GenerationSettings",
    "LogSettings",
    "MetricsSettings",
    "RpcSettings",
    "Settings",
    "TracingSettings",
    "load",
    "prepare_data_dir",
    "reference",
    "split_address",
]
