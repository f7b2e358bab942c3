"""How soon each planted mistake is caught, as the table in docs/reliability.md.

python -m tests.simulation.table
"""

from __future__ import annotations

import statistics
import sys

from tests.simulation.invariants import InvariantBroken
from tests.simulation.mistakes import MISTAKES, Mistake
from tests.simulation.simulation import Case, Simulation

SEEDS = range(10)
STEPS = 200_000


def steps_until_caught(mistake: Mistake, seed: int, steps: int = STEPS) -> tuple[int, str] | None:
    """Steps of the run until an invariant broke, and its sentence; None: it did not.

    Raises: AssertionError where anything else happened than a breach of an invariant.
    """
    simulation = Simulation(Case(mistake.world, mistake.faults, seed, steps), mistake.parts)
    try:
        simulation.run()
    except InvariantBroken as broken:
        return simulation.steps, str(broken)
    return None


def row(mistake: Mistake) -> str:
    """One line of the table: the median and the most steps over the seeds."""
    found = [steps_until_caught(mistake, seed) for seed in SEEDS]
    caught = sorted(one[0] for one in found if one is not None)
    if len(caught) < len(found):
        return f"| {mistake.name} | caught with {len(caught)} of {len(found)} seeds | | |"
    sentences = [one[1] for one in found if one is not None]
    example = next((sentence for sentence in sentences if mistake.breach in sentence), sentences[0])
    return f"| {mistake.name} | {example} | {statistics.median(caught):,.0f} | {caught[-1]:,} |"


def main() -> int:
    """Print the table; 1 if a mistake went unseen."""
    print("| planted mistake | for example | median steps | most |")
    print("|---|---|---|---|")
    missed = 0
    for mistake in MISTAKES:
        line = row(mistake)
        missed += "caught with" in line
        print(line, flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
