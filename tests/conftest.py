"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A busy machine is slow; an example that took long is no fault of the code under test.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Drills that tests run are none of the drills of this checkout.
os.environ["MUSTER_DRILL_RECORDS"] = ""
