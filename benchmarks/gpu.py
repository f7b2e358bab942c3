"""The GPU path beside the processor's, plain torch and ONNX Runtime's CUDA provider, on the same pairs.

``python -m benchmarks.gpu BUNDLE`` measures in a process of its own (``python -m server.gpu.measure``, whose
text says what is counted), prints a table, and writes the figures with machine, commit and bundle where
``--out`` says. A bundle with a cross-encoder is needed. Exit code 20: inconclusive, with the reason.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drills.experiment import Verdict
from drills.journal import machine
from drills.rig.cluster import ROOT

_NO_FIGURE = "-"


def table(report: dict[str, Any]) -> str:
    """The figures as text. report: as ``server.gpu.measure`` prints it."""
    lines = [f"{'tier':<12} {'pairs':>5} {'runner':<10} {'p50 ms':>9} {'p95 ms':>9} {'x gpu':>7} {'gap':>8}"]
    for row in report["rows"]:
        gpu_ms = next(
            one["p50_ms"]
            for one in report["rows"]
            if (one["tier"], one["pairs"], one["runner"]) == (row["tier"], row["pairs"], "gpu")
        )
        ratio = f"{row['p50_ms'] / gpu_ms:.2f}" if gpu_ms else _NO_FIGURE
        lines.append(
            f"{row['tier']:<12} {row['pairs']:>5} {row['runner']:<10} {row['p50_ms']:>9.3f}"
            f" {row['p95_ms']:>9.3f} {ratio:>7} {row['gap']:>8.4f}"
        )
    lines += [
        f"{row['tier']}, many callers, {row['runner']}: {row['pairs_per_s']:,.0f} pairs/s"
        for row in report["many"]
    ]
    for row in report.get("dense", []):
        if "missing" in row:
            lines.append(f"dense search not measured: {row['missing']}")
        else:
            lines.append(f"dense search, {row['products']:,} products, {row['runner']}: {row['p50_ms']} ms")
    lines += [f"{runner} not measured: {why}" for runner, why in report["missing"].items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code of a verdict, 0 or 20, or 1 where the measuring process failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("bundle", type=Path, help="a bundle with a cross-encoder")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each runner")
    parser.add_argument("--out", type=Path, help="file for the figures, JSON")
    flags = parser.parse_args(arguments)
    line = [sys.executable, "-m", "server.gpu.measure", str(flags.bundle), "--rounds", str(flags.rounds)]
    done = subprocess.run(line, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, Verdict.INCONCLUSIVE.exit_code):
        print(f"the measuring process ended with {done.returncode}", file=sys.stderr)
        return 1
    report = json.loads(done.stdout)
    if "inconclusive" in report:
        print(f"inconclusive: {report['inconclusive']}")
        return Verdict.INCONCLUSIVE.exit_code
    print(table(report))
    if flags.out is not None:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()
        record = {**report, "machine": machine(), "commit": commit}
        flags.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
