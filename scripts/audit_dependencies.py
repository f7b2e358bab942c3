"""Asks whether a dependency has a known weakness: pip-audit for Python, cargo-audit for Rust.

    python -m scripts.audit_dependencies [--json]

Exit codes: 0 both were asked and know of none; 10 there is one; 20 inconclusive, one of them could not be
asked and the other knows of none. No answer is never taken for a good one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from scripts.dependencies import ROOT

_LIMIT_S = 600
SOUND, WEAK, INCONCLUSIVE = 0, 10, 20


@dataclass(frozen=True)
class Answer:
    """What one of them said. weaknesses: package, version and the weakness's name. problem: why it could not
    be asked; empty: it could.
    """

    tool: str
    packages: int = 0
    weaknesses: tuple[str, ...] = ()
    problem: str = ""


Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a tool in the project's folder. Raises: OSError, TimeoutExpired."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_LIMIT_S, check=False)


def python_answer(run: Run = run) -> Answer:
    """What pip-audit knows of the installed packages."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--format", "json"]
    command += ["--progress-spinner", "off"]

    def read(values: dict[str, object]) -> tuple[int, list[str], str]:
        packages = values["dependencies"]
        assert isinstance(packages, list)
        known = [one for one in packages if "vulns" in one]
        # It says that it knows of no weakness also where it could look nothing up.
        unknown = [one for one in packages if "vulns" not in one and "editable" not in one["skip_reason"]]
        weak = [
            f"{one['name']} {one['version']} {weakness['id']}" for one in known for weakness in one["vulns"]
        ]
        problem = f"it could not look up {len(unknown)} of {len(packages)} packages" if unknown else ""
        return len(known), weak, problem

    return _asked("pip-audit", command, read, run)


def rust_answer(run: Run = run) -> Answer:
    """What cargo-audit knows of Cargo.lock."""
    if shutil.which("cargo-audit") is None:
        return Answer("cargo-audit", problem="it is not installed (cargo install cargo-audit)")

    def read(values: dict[str, object]) -> tuple[int, list[str], str]:
        lockfile, found = values["lockfile"], values["vulnerabilities"]
        assert isinstance(lockfile, dict)
        assert isinstance(found, dict)
        return (
            int(lockfile["dependency-count"]),
            [
                f"{one['package']['name']} {one['package']['version']} {one['advisory']['id']}"
                for one in found["list"]
            ],
            "",
        )

    return _asked("cargo-audit", ["cargo", "audit", "--json"], read, run)


def _asked(
    tool: str, command: list[str], read: Callable[[dict[str, object]], tuple[int, list[str], str]], run: Run
) -> Answer:
    try:
        done = run(command)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Answer(tool, problem=f"it could not be run: {error}")
    # Its exit code does not tell a weakness from a failure; only an answer that can be read is one.
    try:
        packages, weaknesses, problem = read(json.loads(done.stdout))
    except (ValueError, KeyError, TypeError, AssertionError):
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return Answer(
            tool, problem=f"it ended with {done.returncode}: {said[-1][:200] if said else 'no answer'}"
        )
    if not packages and not problem:
        problem = "it knows of no package at all"
    return Answer(tool, packages, tuple(weaknesses), problem)


def verdict(answers: Sequence[Answer]) -> int:
    """The exit code."""
    if any(answer.weaknesses for answer in answers):
        return WEAK
    return INCONCLUSIVE if any(answer.problem for answer in answers) else SOUND


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask both and tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parsed = parser.parse_args(arguments)
    answers = [python_answer(), rust_answer()]
    code = verdict(answers)
    if parsed.json:
        print(json.dumps({"code": code, "answers": [asdict(answer) for answer in answers]}, indent=2))
        return code
    for answer in answers:
        told = answer.problem or f"{len(answer.weaknesses)} known weaknesses in {answer.packages} packages"
        print(f"{answer.tool:<12} {told}")
        for weakness in answer.weaknesses:
            print(f"{'':<12} {weakness}")
    print(
        {SOUND: "verdict      none known", WEAK: "verdict      weak"}.get(code, "verdict      inconclusive")
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
