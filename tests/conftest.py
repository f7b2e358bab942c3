"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A busy machine is slow; an example that took long is no fault of the code under test.
_ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples each time: a change is judged by what it changes. For others there is
# `pytest --hypothesis-profile=new`.
settings.register_profile("same", _ANY_MACHINE, derandomize=True)
settings.register_profile("new", _ANY_MACHINE)
settings.load_profile("same")

# Drills that tests run are none of the drills of this checkout.
os.environ["MUSTER_DRILL_RECORDS"] = ""
