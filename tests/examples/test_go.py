"""The example in Go is built from the contract alone, and goes on while the primary is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples import takeover


@pytest.mark.timeout(1200)  # the first build compiles gRPC
def test_the_example_in_go_survives_a_takeover(tmp_path: Path) -> None:
    program = takeover.build("go") / "shop"
    command = [str(program), "-targets", "TARGETS", "-query", "coffee mug", "-deadline", "5s"]
    command += ["-write-deadline", "60s", "-writes", str(takeover.WRITES)]
    takeover.check(takeover.run_over_a_takeover(command, "example-go-kettle", tmp_path))
