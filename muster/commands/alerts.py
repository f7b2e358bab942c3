"""`muster alerts`: the rules that an operations team is called by, and their evaluation."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from muster.commands.arguments import Json, duration
from muster.commands.failures import EXIT_USAGE, complain
from muster.commands.output import make_console, make_table, print_json

app = typer.Typer(help="Alerts: the rules, and their evaluation where there is no Prometheus.")

_RulesFile = Annotated[
    Path | None, typer.Option("--rules", metavar="FILE", help="Rules of your own (default: Muster's).")
]


_Scale = Annotated[
    float,
    typer.Option(
        "--scale",
        min=0.001,
        max=1.0,
        help="Multiplies windows and durations of the rules: for rehearsals, where minutes are seconds.",
    ),
]


@app.command("list")
def list_rules(rules: _RulesFile = None, as_json: Json = False) -> None:
    """Shows every rule: what it means, when it fires, and where the run-book is."""
    read = _read(rules)
    if as_json:
        print_json(
            [
                {
                    "alert": rule.alert,
                    "expr": rule.text,
                    "for_s": rule.for_s,
                    "severity": rule.severity,
                    "summary": rule.summary,
                    "runbook": rule.runbook,
                }
                for rule in read
            ]
        )
        return
    table = make_table("alert", "severity", "for s", "what it means")
    for rule in read:
        table.add_row(rule.alert, rule.severity, f"{rule.for_s:g}", rule.summary)
    make_console().print(table)


@app.command("export")
def export(rules: _RulesFile = None, scale: _Scale = 1.0) -> None:
    """Prints the rules as a rule file of Prometheus."""
    from muster.alerts.prometheus import rule_file

    print(rule_file(_read(rules), scale=scale), end="")


@app.command()
def watch(
    target: Annotated[
        str,
        typer.Option(
            "--target", metavar="HOST:PORT,...", help="Metrics endpoints of the replicas (`metrics.listen`)."
        ),
    ],
    webhook: Annotated[
        str, typer.Option("--webhook", metavar="URL", help="Told as Alertmanager would tell it.")
    ] = "",
    log: Annotated[
        Path | None, typer.Option("--log", metavar="FILE", help="One JSON object for each change.")
    ] = None,
    interval: Annotated[float, duration("--interval", "Time between two looks.")] = 15_000.0,
    scale: _Scale = 1.0,
    rules: _RulesFile = None,
) -> None:
    """Evaluates the rules from the replicas' own metrics, until it is interrupted."""
    from muster.alerts.evaluator import Evaluator
    from muster.alerts.series import STALE_AFTER_S
    from muster.alerts.sinks import LogFile, Sink, Webhook
    from muster.alerts.watch import Watch

    targets = [address.strip() for address in target.split(",") if address.strip()]
    if not targets or not all(address.rpartition(":")[2].isdigit() for address in targets):
        raise _refused(f"--target takes host:port,... of metrics endpoints, not {target!r}")
    if webhook and not webhook.startswith(("http://", "https://")):
        raise _refused(f"--webhook takes a URL, not {webhook!r}")
    sinks: list[Sink] = [LogFile(log)] if log is not None else []
    if webhook:
        sinks.append(Webhook(webhook))
    scaled = [rule.scaled(scale) for rule in _read(rules)]
    evaluator = Evaluator(scaled, stale_after_s=STALE_AFTER_S * scale)
    interval_s = interval / 1000
    looking = Watch(
        lambda: targets,
        evaluator,
        [*sinks, _People()],
        interval_s=interval_s,
        timeout_s=min(10.0, interval_s),
        report=complain,
    )
    signal.signal(signal.SIGTERM, lambda number, frame: looking.stop())
    looking.look()
    print(f"watching {len(targets)} endpoints by {len(scaled)} rules, every {interval_s:g} s", flush=True)
    looking.run()


class _People:
    """Tells whoever sits before the terminal."""

    def tell(self, alerts: Any) -> None:
        from muster.alerts.sinks import timestamp

        for alert in alerts:
            at_s = alert.started_s if alert.ended_s is None else alert.ended_s
            print(f"{timestamp(at_s)} {alert.described()}", flush=True)


def _read(path: Path | None) -> Any:
    from muster.alerts.rules import RULES, RulesError, load_rules

    try:
        return load_rules(path or RULES)
    except RulesError as error:
        raise _refused(str(error)) from error
    except OSError as error:
        raise _refused(f"{path}: {error.strerror}") from error


def _refused(problem: str) -> typer.Exit:
    complain(problem)
    return typer.Exit(EXIT_USAGE)
