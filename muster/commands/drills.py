"""`muster drill ...`, `muster bench ...` and `muster demo`: what the room of drills shows and measures."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from muster.commands.arguments import DEFAULT_TARGET, PASS_ON, Json, Target
from muster.commands.failures import EXIT_UNAVAILABLE, MissingRoomError, complain, reported, room
from muster.commands.output import make_console, make_table, print_json

app = typer.Typer(help="Rehearses failures.", no_args_is_help=True)
_BUILD = "Build it with `make build`"

bench = typer.Typer(help="Measures a bundle under load.", no_args_is_help=True)


@app.command("list")
@reported
def drill_list(as_json: Json = False) -> None:
    """Lists the drills and what each one claims."""
    book = room("drills.book", "Run it from the project's folder")
    if as_json:
        print_json([drill.describe() for drill in book.DRILLS])
        return
    table = make_table("drill", "injects", "must stay true", "--target")
    for drill in book.DRILLS:
        target = "yes" if drill.target else "no"
        table.add_row(drill.name, drill.injection, drill.hypothesis, target)
    make_console().print(table)


@app.command("run", context_settings=PASS_ON)
@reported
def drill_run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the drill; what follows goes to it.")],
) -> None:
    """Runs one drill: NAME [--runs N] [--json] ...; exit code 0 held, 10 deviated, 20 inconclusive.

    `all` runs every drill once, and tells the worst.
    """
    if name in ("-h", "--help"):
        print(context.get_help())
        raise typer.Exit(0)
    if name == "all":
        raise typer.Exit(_run_all(list(context.args)))
    book = room("drills.book", "Run it from the project's folder")
    try:
        drill = book.find(name)
    except book.UnknownDrill as error:
        raise typer.BadParameter(str(error)) from error
    try:
        code = drill.run(list(context.args))
    except ImportError as error:
        raise MissingRoomError(f"the drill cannot be loaded ({error}). Build it with `make build`") from error
    raise typer.Exit(code)


@app.command("nightly")
@reported
def drill_nightly(
    names: Annotated[list[str] | None, typer.Argument(help="Names of drills; none: all.")] = None,
    as_json: Json = False,
) -> None:
    """Runs each drill whole, then its control, which must deviate; exit code as of a drill, 0: all well."""
    nights, book = room("drills.nightly", _BUILD), room("drills.book", _BUILD)
    kinds = room("drills.experiment", _BUILD)
    try:
        tasks = nights.tasks_of(names or [])
    except book.UnknownDrill as error:
        raise typer.BadParameter(str(error)) from error
    done = nights.spend(tasks, tell=lambda text: print(text, file=sys.stderr, flush=True))
    if as_json:
        print_json([one.plain() for one in done])
    else:
        table = make_table("drill", "held", "control", "deviated", "why")
        for one in done:
            told = one.plain()
            deviated = {True: "yes", False: "NO", None: "cannot tell" if told["control"] else ""}
            table.add_row(
                one.drill,
                one.whole.verdict,
                book.find(one.drill).control,
                deviated[told["control_deviated"]],
                one.reason,
            )
        make_console().print(table)
    raise typer.Exit(kinds.worst([one.verdict for one in done]).exit_code)


@app.command("abort")
@reported
def drill_abort(target: Target = DEFAULT_TARGET) -> None:
    """Has the drill that is under way against a running service undo what it did and end, at once."""
    from muster.client.settings import parse_endpoints

    services, kinds = room("drills.rig.service", _BUILD), room("drills.experiment", _BUILD)
    try:
        with closing(services.Service(parse_endpoints(target))) as service:
            found = services.abort(service)
    except kinds.Inconclusive as error:
        complain(str(error))
        raise typer.Exit(EXIT_UNAVAILABLE) from error
    print(f"aborted: {', '.join(found)}" if found else "no drill is under way")


@app.command("report")
@reported
def drill_report(
    out: Annotated[Path, typer.Option("--out", help="Where the page goes.", metavar="FILE.html")] = Path(
        "run/drills/report.html"
    ),
    junit: Annotated[
        Path | None, typer.Option("--junit", help="Writes JUnit XML as well.", metavar="FILE.xml")
    ] = None,
    as_json: Json = False,
) -> None:
    """Makes one page of all drills: verdicts, figures against targets and earlier runs, pictures."""
    command, records = room("drills.report.command", _BUILD), _records()
    found = command.sections(records, pictures=not as_json)
    if junit is not None:
        command.write_junit(found, junit)
    if as_json:
        print_json([command.plain_section(section) for section in found])
        return
    command.write_page(found, out)
    run = sum(bool(section.runs) for section in found)
    print(f"{out}: {run} of {len(found)} drills were run here")


@app.command("compare")
@reported
def drill_compare(
    a: Annotated[str, typer.Argument(help="A run: its number, a drill's NAME (the newest), or NAME~2.")],
    b: Annotated[str, typer.Argument(help="Another run of the same drill.")],
    as_json: Json = False,
) -> None:
    """Sets two runs of a drill side by side: B less A, with 95 % intervals where there are enough runs."""
    module, command, records = (
        room("drills.report.compare", _BUILD),
        room("drills.report.command", _BUILD),
        _records(),
    )
    kept = room("drills.report.records", _BUILD)
    try:
        first, second = records.find(a), records.find(b)
        compared = module.compare(first, second)
    except (kept.UnknownRun, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    if as_json:
        print_json(
            {
                "a": command.plain_run(first),
                "b": command.plain_run(second),
                "figures": [command.plain_compared(one) for one in compared],
            }
        )
        return
    table = make_table(
        "figure", f"run {first.number}", f"run {second.number}", "difference", "95 %", "more than chance"
    )
    for one in compared:
        told = "too few runs" if one.low is None else f"{one.low:+.4g} to {one.high:+.4g}"
        surely = "" if one.low is None else ("yes" if one.apart else "no")
        table.add_row(one.figure, f"{one.a:.4g}", f"{one.b:.4g}", f"{one.b - one.a:+.4g}", told, surely)
    make_console().print(table)


@app.command("explore", context_settings=PASS_ON)
@reported
def drill_explore(context: typer.Context) -> None:
    """Combines faults at random: [--seed N] [--minutes M] [--replay FILE] ...; --help lists all."""
    module = room("drills.explore", _BUILD)
    raise typer.Exit(module.main(list(context.args)))


@app.command("tune", context_settings=PASS_ON)
@reported
def drill_tune(context: typer.Context) -> None:
    """Searches settings by drills: [--minutes M] [--config FILE] [--resume] ...; --help lists all.

    Needs the extra `tune`. Exit code 0: recommended, or to be left alone; 20: it could not be told.
    """
    module = room("drills.tune.command", "It needs the extra `tune`: pip install 'muster[tune]'")
    raise typer.Exit(module.main(list(context.args)))


@app.command("schedule")
@reported
def drill_schedule(
    at: Annotated[str, typer.Option("--at", help="Five fields as cron reads them, such as '0 4 * * 1'.")],
    profile: Annotated[
        str, typer.Option("--profile", help="Which drills, by the name of a profile.")
    ] = "release",
    bundle: Annotated[
        str, typer.Option("--bundle", help="The bundle, where the drills will run.")
    ] = "models/muster-base",
    form: Annotated[str, typer.Option("--format", help="cron or kubernetes.")] = "cron",
    image: Annotated[
        str, typer.Option("--image", help="Of a container with Muster in it (kubernetes).")
    ] = "",
) -> None:
    """Prints what has cron or Kubernetes run the drills of a profile regularly."""
    days, gates = room("drills.gameday", _BUILD), room("drills.gate", _BUILD)
    if form not in days.FORMATS:
        raise typer.BadParameter(f"--format takes {' or '.join(days.FORMATS)}, not {form!r}")
    try:
        gates.load_profile(profile)
        text = days.FORMATS[form](days.GameDay(at, profile, bundle, Path.cwd(), image))
    except (days.GameDayError, gates.ProfileError) as error:
        raise typer.BadParameter(str(error)) from error
    print(text, end="")


@app.command("gate")
@reported
def drill_gate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    profile: Annotated[
        str, typer.Option("--profile", help="Which drills, by the name of a profile.")
    ] = "release",
    profiles: Annotated[
        Path | None, typer.Option("--profiles", metavar="FILE.toml", help="A file of profiles of your own.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="Private key that signs the verdict, from `muster bundle key`."),
    ] = None,
    override: Annotated[
        str, typer.Option("--override", help="Why the bundle may be served whatever the drills say.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Runs the drills of a profile with a bundle and puts the signed verdict beside it.

    Exit code 0: all held, or overridden; 10: one deviated; 20: one was inconclusive.
    """
    from muster.bundle import read_key

    gates = room("drills.gate", _BUILD)
    limit = room("muster.bundle.gate", _BUILD).OVERRIDE_CHARACTERS_MAX
    if len(override) > limit or (override and not override.strip()):
        raise typer.BadParameter(f"--override takes a reason of 1 to {limit} characters")
    try:
        tasks = gates.load_profile(profile, profiles)
    except gates.ProfileError as error:
        raise typer.BadParameter(str(error)) from error
    signing_key = None if key is None else read_key(key)
    gate, verdict = gates.run_gate(
        bundle,
        profile,
        tasks,
        signing_key,
        override=override.strip(),
        tell=lambda sentence: print(f"gate: {sentence}", file=sys.stderr, flush=True),
    )
    if as_json:
        print_json(json.loads(gate.to_json()))
    else:
        signed = "not signed" if gate.signature is None else f"signed by {gate.signature.public_key}"
        told = f"{verdict}" if gate.held or not override else f"{verdict}, overridden: {gate.override}"
        print(f"{gate.bundle_id}: {told}; {signed}")
    raise typer.Exit(0 if gate.override else verdict.exit_code)


def _run_all(arguments: list[str]) -> int:
    """Every drill once, as the profile "book" says; what follows goes to each."""
    gates, kinds = room("drills.gate", _BUILD), room("drills.experiment", _BUILD)
    tasks = gates.load_profile("book")
    done = []
    for number, task in enumerate(tasks, 1):
        print(f"{number} of {len(tasks)}: {task.command}", file=sys.stderr, flush=True)
        done.append(gates.rehearse(gates.Task(task.drill, (*task.options, *arguments)), None))
    table = make_table("drill", "verdict", "why")
    for one in done:
        table.add_row(one.drill, one.verdict, one.reason)
    make_console().print(table)
    code: int = kinds.worst([kinds.Verdict(one.verdict) for one in done]).exit_code
    return code


def _records() -> Any:
    kept = room("drills.report.records", _BUILD)
    path = kept.default_path()
    if path is None:
        raise typer.BadParameter(f"{kept.VARIABLE} is empty, so no runs are kept")
    return kept.Records(path)


@bench.command("curve", context_settings=PASS_ON)
@reported
def bench_curve(context: typer.Context) -> None:
    """Measures the quality served by deadline and load: [--seconds N] [--out FILE.png]; --help lists all."""
    module = room("drills.curve", "Build it with `make build`")
    raise typer.Exit(module.main(list(context.args)))


@reported
def load(context: typer.Context) -> None:
    """Offers load to a running service, open loop: --rate N [--deadline 50ms] [--duration 30s] ..."""
    module = room("drills.load", _BUILD)
    raise typer.Exit(module.main(list(context.args)))


@reported
def demo(as_json: Json = False) -> None:
    """Shows everything: a primary, two standbys, real queries at several deadlines, the primary killed."""
    module = room("drills.demo", "Build it with `make build`")
    raise typer.Exit(module.main(as_json) or 0)
