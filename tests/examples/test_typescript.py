"""The example in TypeScript is built from the contract alone, and goes on while the primary is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples import takeover


@pytest.mark.timeout(600)  # the first build fetches packages
def test_the_example_in_typescript_survives_a_takeover(tmp_path: Path) -> None:
    program = takeover.build("typescript") / "out" / "shop.js"
    command = ["node", str(program), "--targets", "TARGETS", "--query", "coffee mug", "--deadline-ms", "5000"]
    command += ["--write-deadline-ms", "60000", "--writes", str(takeover.WRITES)]
    takeover.check(takeover.run_over_a_takeover(command, "example-typescript-kettle", tmp_path))
