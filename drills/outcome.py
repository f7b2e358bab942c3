"""The command line that all drills share, and how an outcome is told.

With `--json` standard output carries exactly one object: the drill's figures, and `reason` where the verdict
is not held. People get sentences; both get the exit code of the verdict.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc

from drills.experiment import Inconclusive, Judgement, Verdict
from drills.journal import machine, write_result
from drills.judges.alerts import over_parts, sentences
from drills.report.noise import machine_noise
from drills.report.records import Records, RecordsError, Run, default_path
from drills.report.summary import telling_history
from drills.rig.cluster import ClusterError, interrupted_by_sigterm

USAGE_EXIT_CODE = 2
RUNS_FOLDER = Path("run/drills")

logger = logging.getLogger("drills")


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """The options that every drill has."""
    options = argparse.ArgumentParser(prog=f"python -m drills.{name}", description=description)
    options.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    options.add_argument(
        "--journal",
        type=Path,
        metavar="DIR",
        help=f"where the record goes (default: {RUNS_FOLDER}/{name}-TIME)",
    )
    options.add_argument(
        "--bundle", type=Path, metavar="DIR", help="the model bundle (default: models/muster-base)"
    )
    options.add_argument("--seed", type=int, default=1, help="of arrivals, queries and synthetic products")
    options.add_argument(
        "--keep-data", action="store_true", help="keep the replicas' data folder after the run"
    )
    return options


def machine_options(options: argparse.ArgumentParser) -> None:
    """The options of the drills that measure what a machine can do."""
    options.add_argument("--workers", type=positive(int), default=None, help="ranking workers of a replica")
    options.add_argument(
        "--products",
        type=positive(int),
        default=None,
        help="use a synthetic catalogue of this size (default: real data)",
    )


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """An argparse type: a number above 0."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
        return value

    return parse


def run_folder(given: Path | None, name: str) -> Path:
    """The folder of this run; made. A folder that holds a result already is not overwritten: the run gets a
    numbered one beside its content."""
    base = given if given is not None else RUNS_FOLDER / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = base, 1
    while (folder / "result.json").exists():
        number += 1
        folder = base / f"again-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def say(text: str) -> None:
    """Progress for people: standard error, so that `--json` stays clean."""
    print(text, file=sys.stderr, flush=True)


def tell(name: str, judgement: Judgement, *, as_json: bool, folder: Path, details: dict[str, Any]) -> int:
    """Writes result.json, keeps the run in the records, prints the outcome, returns the exit code.

    details: goes to result.json beside the figures (settings, single runs, files).
    """
    result = keep_result(name, judgement, folder, details)
    if as_json:
        print(json.dumps(result), flush=True)
    else:
        print(f"{name}: {judgement.verdict}")
        for key, value in judgement.figures.items():
            if key == "alerts":
                continue
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            print(f"  {key.replace('_', ' '):22} {shown}")
        for sentence in sentences(result["alerts"]) if "alerts" in result else ():
            print(f"  {'alert':22} {sentence}")
        for reason in judgement.reasons:
            print(f"  - {reason}")
        print(f"  record: {folder}")
    return judgement.verdict.exit_code


def _alerts(details: dict[str, Any]) -> dict[str, Any]:
    """The alerts of all runs, of all parts where a drill has several."""
    parts = [details, *(part for part in details.values() if isinstance(part, dict))]
    return over_parts([part["alerts"] for part in parts if part.get("alerts")])


def keep_result(name: str, judgement: Judgement, folder: Path, details: dict[str, Any]) -> dict[str, Any]:
    """Writes result.json and keeps the run in the records; returns what `--json` prints."""
    if alerts := _alerts(details):
        judgement = replace(judgement, figures={**judgement.figures, "alerts": alerts})
    result = {"drill": name, "verdict": str(judgement.verdict), **judgement.figures}
    if judgement.verdict is not Verdict.HELD:
        result["reason"] = "; ".join(judgement.reasons)
    write_result(folder, {**result, "details": details})
    _keep(name, judgement, folder, details)
    return result


def _keep(name: str, judgement: Judgement, folder: Path, details: dict[str, Any]) -> None:
    path = default_path()
    if path is None:
        return
    noise = machine_noise(folder, telling_history(folder, details.get("each") or []))
    run = Run(
        drill=name,
        verdict=str(judgement.verdict),
        reason="; ".join(judgement.reasons),
        ended_unix_s=time.time(),
        folder=str(folder),
        version=version("muster"),
        figures=judgement.figures,
        details=details,
        machine=machine(),
        noise=noise.plain(),
    )
    try:
        Records(path).add(run)
    except (RecordsError, OSError) as error:
        # The verdict stands without it.
        say(f"{name}: this run is not kept: {error}")


def guarded(
    name: str, body: Callable[[], int], *, as_json: bool, empty: dict[str, Any], kind: str = "drill"
) -> int:
    """Runs a drill's body; what kept it from telling anything becomes the verdict inconclusive, with the
    reason.

    empty: the figures as they are before anything was measured. kind: the key of the name in the object.
    """
    try:
        with interrupted_by_sigterm():
            return body()
    except (Inconclusive, ClusterError, OSError) as error:
        reason = str(error)
    except grpc.RpcError as error:
        # While a cluster is filled, say: a busy machine may change its primary.
        reason = f"a replica did not answer, apart from any fault: {error}"
    except KeyboardInterrupt:
        reason = "interrupted"
    result = {kind: name, "verdict": str(Verdict.INCONCLUSIVE), **empty, "reason": reason}
    if as_json:
        print(json.dumps(result), flush=True)
    else:
        print(f"{name}: {Verdict.INCONCLUSIVE}\n  - {reason}", flush=True)
    return Verdict.INCONCLUSIVE.exit_code
