"""Train: every stage from the data to a bundle, one process a stage, taken up again where it was interrupted.

    muster train [--data DIR] [--out BUNDLE] [--recipe FILE] [--run DIR] [--deadline 50ms]

Writes `stages.json` in the run folder: for each stage that has ended, its seconds and the most memory it
held. A stage that is there is not run again; a run folder belongs to the recipe that it was begun with. Where
the recipe searches the cross-encoder for a deadline, the stages after the search follow the recipe that it
wrote; where nothing learns from teachers, none are trained. For another deadline only the search and what
follows are run again, and the search knows what it has measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from training.data.whole_files import write_report
from training.options import RECOMMEND, asked_task
from training.recipe import (
    DEFAULT_RECIPE,
    Recipe,
    RecipeError,
    deadline_ms,
    load_recipe,
    searched_recipe,
)

STAGES = (
    "prepare",
    "baselines",
    "augment",
    "teacher",
    "unlabelled",
    "encoder",
    "search",
    "distil",
    "prune",
    "quantise",
    "draft",
    "rank",
    "earn",
    "calibrate",
    "export",
)
RECORD = "stages.json"
EXIT_BAD_INPUT = 2


class TrainingFailed(Exception):
    """A stage ended with an error; what the stages before it wrote is intact."""


@dataclass(frozen=True)
class Order:
    """What is to be trained.

    out: folder of the bundle, which must not exist yet. deadline_ms: of a request, for which the
    cross-encoder is searched; None: the recipe's, if it searches one.
    """

    recipe: Path
    data: Path
    run: Path
    out: Path
    deadline_ms: float | None = None


def command(order: Order, stage: str) -> list[str]:
    """Command line of one stage."""
    module = "export" if stage == "draft" else stage
    searched = searched_recipe(order.run)
    follows = stage in STAGES[STAGES.index("search") + 1 :] and searched.is_file()
    line = [
        sys.executable,
        "-m",
        f"training.{module}",
        "--recipe",
        str(searched if follows and load_recipe(order.recipe).search.trials else order.recipe),
        "--run",
        str(order.run),
    ]
    if stage == "draft":
        return [*line, "--draft"]
    if stage == "export":
        return [*line, "--out", str(order.out)]
    line += ["--data", str(order.data)]
    if stage == "search" and order.deadline_ms is not None:
        line += ["--deadline", f"{order.deadline_ms:.9g}ms"]
    return line


def train(order: Order, note: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the stages that have not ended yet. Returns what stages.json says.

    Raises: RecipeError where the recipe cannot be read, the run folder was begun with another recipe, the
    bundle's folder exists, or a deadline and a search lack each other; TrainingFailed naming the stage, its
    exit code and how to go on.
    """
    recipe = load_recipe(order.recipe)
    deadline = _deadline_ms(order, recipe)
    if not order.data.is_dir():
        raise RecipeError(
            f"--data {order.data} is not a folder; it holds one folder for each set of the recipe"
        )
    if order.out.exists():
        raise RecipeError(f"--out {order.out} exists already; name another folder, or remove it")
    order.run.mkdir(parents=True, exist_ok=True)
    record = _record(order, deadline)
    # Teachers are the dearest stage by far.
    left_out = {
        "baselines": not recipe.plans.baselines,
        "search": not recipe.search.trials,
        "teacher": not recipe.asks_teachers(),
    }
    stages = [stage for stage in STAGES if not left_out.get(stage)]
    for number, stage in enumerate(stages, start=1):
        if stage in record["stages"]:
            note(f"{number}/{len(stages)} {stage}: done before")
            continue
        note(f"{number}/{len(stages)} {stage}")
        record["stages"][stage] = _run(order, stage)
        write_report(order.run / RECORD, record)
        done = record["stages"][stage]
        note(f"{number}/{len(stages)} {stage}: {done['seconds']:.0f} s, at most {done['memory_max_mib']} MiB")
    return record


def _deadline_ms(order: Order, recipe: Recipe) -> float | None:
    """Of a request, for the search; None where the recipe searches nothing."""
    if not recipe.search.trials:
        if order.deadline_ms is not None:
            raise RecipeError(
                f"--deadline: {order.recipe} searches no cross-encoder for it; set search.trials above 0"
            )
        return None
    deadline = order.deadline_ms or recipe.search.deadline_ms
    if not deadline:
        raise RecipeError(
            f"{order.recipe} searches the cross-encoder for a deadline: name it with --deadline, like 50ms, "
            "or set search.deadline_ms"
        )
    return deadline


def _record(order: Order, deadline: float | None) -> dict[str, Any]:
    digest = hashlib.sha256(order.recipe.read_bytes()).hexdigest()
    path = order.run / RECORD
    if not path.is_file():
        return {"recipe_sha256": digest, "deadline_ms": deadline, "stages": {}}
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if record["recipe_sha256"] != digest:
        raise RecipeError(
            f"{order.run} was begun with another recipe than {order.recipe}: name a new folder with --run, "
            "or remove that one to begin again"
        )
    # Only what is missing is made again, so a bundle can be written to another place.
    again: Sequence[str] = ("export",)
    if record.get("deadline_ms") != deadline:
        again = STAGES[STAGES.index("search") :]
    for stage in again:
        record["stages"].pop(stage, None)
    if record.get("deadline_ms") != deadline:
        record["deadline_ms"] = deadline
        # At once: after a kill, what was made for the old deadline must not pass for the new one's.
        write_report(path, record)
    return record


def _run(order: Order, stage: str) -> dict[str, Any]:
    began_s = time.monotonic()
    process = subprocess.Popen(command(order, stage), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        # wait4 tells the memory of this one child; the resource module only knows the largest of all.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode != 0:
        raise TrainingFailed(
            f"the stage {stage} ended with code {process.returncode}; see what it wrote above. "
            f"What was made before is kept in {order.run}: the same command goes on from there"
        )
    return {
        "seconds": round(time.monotonic() - began_s, 1),
        "memory_max_mib": usage.ru_maxrss // 1024,
        "ended_unix_s": int(time.time()),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run it from a command line. Returns 0; 1 where a stage failed; 2 where it cannot begin as asked."""
    task, argv = asked_task(sys.argv[1:] if argv is None else argv)
    if task == RECOMMEND:
        # Loaded here: search needs none of it.
        from training.recommend.train import main as recommend

        return recommend(argv)
    parser = argparse.ArgumentParser(
        prog="muster train",
        description="Train every model of a bundle, measure, gate and export it.",
        epilog="--task recommend trains next-item recommendation instead, with options of its own.",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("MUSTER_DATA"),
        help="folder that holds the data sets (default: what MUSTER_DATA names)",
    )
    parser.add_argument(
        "--out", type=Path, help="folder of the bundle to be written (default: `bundle` in the run folder)"
    )
    parser.add_argument(
        "--recipe", type=Path, default=DEFAULT_RECIPE, help="TOML file (default: the shipped one)"
    )
    parser.add_argument(
        "--run",
        type=Path,
        help="folder for everything in between (default: run/training/<name of the recipe>)",
    )
    parser.add_argument(
        "--deadline",
        type=deadline_ms,
        metavar="DURATION",
        help="of a request, like 50ms: search the cross-encoder for it (default: search.deadline_ms)",
    )
    parser.add_argument("--json", action="store_true", help="print the record of the stages as JSON")
    parsed = parser.parse_args(argv)
    console = Console(stderr=True)
    try:
        if parsed.data is None:
            raise RecipeError("name the folder that holds the data sets with --data or MUSTER_DATA")
        run = parsed.run or Path("run") / "training" / load_recipe(parsed.recipe).name
        order = Order(parsed.recipe, parsed.data, run, parsed.out or run / "bundle", parsed.deadline)
        record = train(order, note=lambda text: console.print(text, highlight=False))
    except RecipeError as error:
        print(f"train: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except TrainingFailed as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    if parsed.json:
        print(json.dumps({"bundle": str(order.out), "run": str(order.run), **record}))
        return 0
    table = Table("stage", "seconds", "MiB at most", box=None)
    for stage, done in record["stages"].items():
        table.add_row(stage, f"{done['seconds']:.0f}", str(done["memory_max_mib"]))
    Console().print(table)
    print(f"bundle {order.out}; its card: {order.out / 'card.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
