"""Runs that once found something, or come close to what was found, with what it was.

Each is done again in every test run. Where the code was mended, the mistake is planted again beside it: the
run must find it as it did.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.mistakes import ForgetsAnUnknownOutcome
from tests.simulation.simulation import Case, Parts


@dataclass(frozen=True)
class Regression:
    """found: what it was. as_it_was: the parts with that mistake in them."""

    case: Case
    found: str
    as_it_was: Parts


REGRESSIONS = (
    Regression(
        Case("one", "rough", 6, 12_000),
        "a write whose first sending broke off and whose second was shed ended as 'not written'",
        Parts(write=ForgetsAnUnknownOutcome),
    ),
    Regression(
        Case("one", "rough", 9, 12_000),
        "the same, but the first sending was written only after its client had been told that it was not",
        Parts(write=ForgetsAnUnknownOutcome),
    ),
)
