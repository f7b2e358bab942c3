"""`muster drill tune`: searches a deployment's settings by drills, and writes those that are surely better.

    muster drill tune --minutes 40 --config deploy/replica-1.toml
    muster drill tune --resume                 goes on with the newest one that was interrupted

Exit codes: 0 settings are recommended, or the present ones are to be left alone; 20 it could not be told: the
machine is too noisy, something is missing, or the time is too short; 2 bad usage.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
import tomllib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from drills.experiment import Inconclusive, Judgement, Verdict
from drills.outcome import RUNS_FOLDER, guarded, keep_result, positive, run_folder, say
from drills.report.records import DEFAULT_PATH, Records, RecordsError, default_path
from drills.rig.cluster import ClusterPlan, find_bundle
from drills.rig.shop import choose_shop
from drills.tune.bench import Bench
from drills.tune.kept import Kept, Study, newest_study, read_study
from drills.tune.profile import STANDARD, Profile, ProfileError, load_profile
from drills.tune.quiet import listen
from drills.tune.shown import picture, plain, table, told_point
from drills.tune.space import BY_NAME, CLIENT, starting_point
from drills.tune.study import SEARCH_SEED, Result, Tune, plan_points
from drills.tune.written import write_settings
from muster.client import ClientSettings

NAME = "tune"
MINUTES = 40.0
EMPTY: dict[str, Any] = {"recommended": False, "changed": []}
KEPT_OUT = {"catalogue": ("store", "store_password_file", "cluster_id")}
"""Of the settings file: a tune has a catalogue of its own and never comes near that of the service."""

SECTIONS = ("rpc", "ranking", "catalogue", "lease", "generation", "lifecycle")
"""Of the settings file that a tune's replicas share with those of the service."""


def options() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="muster drill tune", description=(__doc__ or "").partition("\n\n    ")[0]
    )
    found.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    found.add_argument(
        "--minutes", type=positive(float), help=f"what it may take, about (default: {MINUTES:g})"
    )
    found.add_argument("--profile", default=STANDARD, help="what is measured and weighed, by name")
    found.add_argument("--profiles", type=Path, metavar="FILE.toml", help="a file of profiles of your own")
    found.add_argument(
        "--config", type=Path, metavar="FILE.toml", help="settings file of a replica to start from"
    )
    found.add_argument(
        "--client", type=Path, metavar="FILE.toml", help="settings of the client to start from"
    )
    found.add_argument("--replicas", type=int, choices=range(2, 9), help="that there are now (default: 3)")
    found.add_argument(
        "--bundle", type=Path, metavar="DIR", help="the model bundle (default: models/muster-base)"
    )
    found.add_argument("--seed", type=int, default=1, help="of points, arrivals and products")
    found.add_argument(
        "--resume",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="DIR",
        help="go on with an interrupted tune: its folder, or without one the newest",
    )
    found.add_argument(
        "--journal", type=Path, metavar="DIR", help=f"its folder (default: {RUNS_FOLDER}/tune-TIME)"
    )
    return found


def begin(given: argparse.Namespace, folder: Path) -> Study:
    """A new tune. Raises: ProfileError, ValueError for what cannot be used."""
    profile = load_profile(given.profile, given.profiles)
    sections, bundle = _replica_sections(given.config)
    bundle = given.bundle or bundle
    client = _client_values(given.client)
    start = starting_point(sections, client, given.replicas)
    for name in BY_NAME:
        section, _, short = name.partition(".")
        (client if section == CLIENT else sections.get(section, {})).pop(short, None)
    study = Study(
        name=uuid.uuid4().hex,
        seed=given.seed,
        start=start,
        profile=profile.model_dump(mode="json"),
        sections={name: values for name, values in sections.items() if values},
        client=client,
        bundle=str(bundle or ""),
        minutes=given.minutes or MINUTES,
    )
    study.write(folder)
    return study


def _replica_sections(path: Path | None) -> tuple[dict[str, Any], Path | None]:
    values = _read_toml(path)
    bundle = values.get("bundle")
    where = None if path is None or not isinstance(bundle, str) else path.parent / Path(bundle).expanduser()
    sections = {name: dict(values[name]) for name in SECTIONS if isinstance(values.get(name), dict)}
    for section, names in KEPT_OUT.items():
        for name in names:
            sections.get(section, {}).pop(name, None)
    return sections, where


def _client_values(path: Path | None) -> dict[str, Any]:
    if path is not None:
        ClientSettings.from_toml(path)
    return _read_toml(path)


def _read_toml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def tune(study: Study, folder: Path, *, progress: bool) -> Result:
    """Does the study, or what is left of it. Raises: Inconclusive; ClusterError, grpc.RpcError where a
    replica does not do as it should; RecordsError."""
    profile = Profile.model_validate(study.profile)
    bench = Bench(
        folder,
        ClusterPlan(
            bundle=find_bundle(Path(study.bundle) if study.bundle else None), settings=_settings(study)
        ),
        choose_shop(profile.products, study.seed),
        profile,
        ClientSettings(**study.client),
    )
    kept = Kept(Records(default_path() or folder / DEFAULT_PATH.name), study, folder)
    with _bar(progress) as advance:
        runner = Tune(
            runner=bench,
            kept=kept,
            profile=profile,
            start=study.start,
            seed=study.seed,
            points=study.points,
            listen=partial(listen, folder),
            sleep=time.sleep,
            tell=lambda sentence: say(f"{NAME}: {sentence}"),
            done=lambda: advance(len(kept), study.runs),
        )
        advance(len(kept), study.runs)
        runner.wait_for_quiet()
        say(f"{NAME}: starting configuration: {told_point(study.start)}")
        bench.prepare()
        measured = study.measured()
        if measured is None:
            measured = bench.calibrate(study.start)
            bench.capacity_per_s = measured.capacity_per_s
            # One run, kept like any other, tells how many there is time for.
            (first,) = runner.measure(study.start, [study.seed + SEARCH_SEED])
            measured = replace(measured, run_s=first.took_s)
            study.points, study.runs = plan_points(study.minutes, measured.run_s, profile)
            study.calibration = measured.plain()
            study.write(folder)
            runner.points = study.points
            say(
                f"{NAME}: {measured.capacity_per_s:.0f} searches/s at capacity, {measured.run_s:.0f} s a run:"
                f" {study.points} points, about {study.runs} runs"
            )
        bench.capacity_per_s = measured.capacity_per_s
        return runner.run(measured)


def _settings(study: Study) -> dict[str, Any]:
    """Of every replica beside what is tuned: no build may come in between."""
    sections = {name: dict(values) for name, values in study.sections.items()}
    sections["generation"] = {**sections.get("generation", {}), "rebuild": False, "niceness": 0}
    return sections


@contextmanager
def _bar(shown: bool) -> Iterator[Any]:
    columns = (TextColumn("tune"), BarColumn(), MofNCompleteColumn(), TextColumn("runs"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bars:
        task = bars.add_task("tune", total=None)

        def advance(done: int, total: int) -> None:
            bars.update(task, completed=done, total=max(done, total) or None)

        yield advance


def finish(study: Study, result: Result, folder: Path, *, as_json: bool) -> int:
    """Writes what is recommended, tells it, and returns the exit code."""
    profile = Profile.model_validate(study.profile)
    told = plain(result, profile)
    if result.decision.kept:
        written = write_settings(folder, result, sections=study.sections, client=study.client)
        told["files"] = [str(path) for path in written]
    told["plot"] = str(picture(result, profile, folder / "tune.png"))
    shutil.rmtree(folder / "clusters", ignore_errors=True)
    shutil.rmtree(folder / "template", ignore_errors=True)
    judgement = Judgement(
        Verdict.HELD,
        {name: told[name] for name in ("recommended", "why", "changed", "total_points", "figures")},
    )
    details = {**told, "calibration": study.calibration, "profile": study.profile, "study": study.name}
    kept = keep_result(NAME, judgement, folder, details)
    if as_json:
        print(json.dumps(kept), flush=True)
    else:
        _print(result, profile, told)
    return judgement.verdict.exit_code


def _print(result: Result, profile: Profile, told: dict[str, Any]) -> None:
    console = Console()
    for one in table(result, profile):
        console.print(one)
        console.print()
    if result.decision.kept:
        console.print(f"recommended: {result.decision.why}")
        for change in told["changed"]:
            console.print(f"  {change['setting']} = {change['after']:g}: {change['reason']}")
        console.print(f"  written: {', '.join(told['files'])}")
    else:
        console.print(f"leave it alone: {result.decision.why}")
    console.print(f"  picture: {told['plot']}")


def main(arguments: Sequence[str]) -> int:
    """Tunes from a command line; returns the exit code."""
    parser = options()
    given = parser.parse_args(list(arguments))
    if given.resume is not None and (given.config or given.client or given.profiles):
        parser.error("--resume goes on with what the tune began with: leave the other options out")
    try:
        study = None
        if given.resume is None:
            folder = run_folder(given.journal, NAME)
            study = begin(given, folder)
    except (ProfileError, ValueError) as error:
        parser.error(str(error))

    def body() -> int:
        where, begun = (folder, study) if study is not None else _interrupted(given)
        try:
            result = tune(begun, where, progress=sys.stderr.isatty())
        except grpc.RpcError as error:
            raise Inconclusive(f"a replica did not answer, apart from any fault: {error}") from error
        except RecordsError as error:
            raise Inconclusive(str(error)) from error
        return finish(begun, result, where, as_json=given.json)

    return guarded(NAME, body, as_json=given.json, empty=EMPTY)


def _interrupted(given: argparse.Namespace) -> tuple[Path, Study]:
    """The folder and the study to go on with, in other minutes where they are given before it is known how
    many points there is time for. Raises: Inconclusive where there is none."""
    folder = (given.resume if given.resume != Path() else newest_study(RUNS_FOLDER)).resolve()
    if (folder / "result.json").exists():
        raise Inconclusive(f"the tune in {folder} has come to its end; begin another one")
    study = read_study(folder)
    study.minutes = given.minutes or study.minutes
    return folder, study
