"""What `muster deploy` does with its arguments, and what it says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from muster.bundle import read_bundle, read_gate
from muster.client.settings import parse_endpoints
from muster.deploy.deployer import (
    Deployer,
    DeployImpossible,
    Outcome,
    Plan,
    live_deploy,
    phase_name,
    served,
)
from muster.deploy.judge import Limits
from muster.deploy.replicas import Replicas
from muster.deploy.steps import Options, View, order
from muster.deploy.windows import Arm, Window

EXIT_DONE = 0
EXIT_ROLLED_BACK = 10


@dataclass(frozen=True)
class Wish:
    """What the operator asks for. bundle: its folder; None with abort, back or unload."""

    target: str
    bundle: Path | None = None
    abort: bool = False
    back: bool = False
    unload: bool = False
    dry_run: bool = False
    options: Options = field(default_factory=Options)
    limits: Limits = field(default_factory=Limits)
    patience_s: float = 600.0


def run(wish: Wish, *, show: Callable[[dict[str, Any]], None] | None) -> int:
    """Carry it out; the exit code: 0 done, 10 rolled back. show: takes the result for machines; None: people
    read what happens on standard output.

    Raises: DeployImpossible; BundleError; MusterError.
    """

    def tell(sentence: str) -> None:
        print(f"deploy: {sentence}", file=sys.stderr if show else sys.stdout, flush=True)

    endpoints = parse_endpoints(wish.target)
    with Replicas(endpoints) as replicas:
        if wish.unload:
            for endpoint in endpoints:
                replicas.unload(endpoint)
                tell(f"{endpoint}: the bundle before is let go")
            if show:
                show({"unloaded": endpoints})
            return EXIT_DONE
        if wish.abort:
            # The bundle is the log's.
            plan = Plan("", None, wish.options, wish.limits, wish.patience_s)
            return _tell_end(Deployer(replicas, plan, tell=tell).abort(), tell, show, aborted=True)
        views = replicas.look()
        bundle_id, folder, note = (way_back(views), None, "") if wish.back else _chosen(wish.bundle)
        if wish.dry_run:
            forecast(views, bundle_id, wish, tell)
            if show:
                show(
                    {
                        "bundle": bundle_id,
                        "dry_run": True,
                        "replicas": [view.endpoint for view in order(views)],
                    }
                )
            return EXIT_DONE
        plan = Plan(bundle_id, folder, wish.options, wish.limits, wish.patience_s, note)
        return _tell_end(Deployer(replicas, plan, tell=tell).run(), tell, show)


def _chosen(bundle: Path | None) -> tuple[str, str, str]:
    """Which bundle, its folder, and what the log is to say of it."""
    if bundle is None:
        raise DeployImpossible("name the folder of the bundle, or one of --abort, --roll-back and --unload")
    verified = read_bundle(bundle)
    gate = read_gate(bundle)
    note = ""
    if gate is not None and gate.override and not gate.held:
        note = f"drills overridden: {gate.override}"
    return verified.bundle_id, str(verified.folder.resolve()), note


def way_back(views: Sequence[View]) -> str:
    """The bundle that all replicas still hold from before. Raises: DeployImpossible."""
    found = {view.bundles.previous.bundle_id if view.bundles else "" for view in views}
    if len(found) != 1 or found == {""}:
        raise DeployImpossible(
            "the replicas do not all hold the bundle before any more: deploy its folder instead"
        )
    return found.pop()


def forecast(views: Sequence[View], bundle_id: str, wish: Wish, tell: Callable[[str], None]) -> None:
    """Say what a deploy would do now. Raises: DeployImpossible where it would not begin."""
    silent = [view.endpoint for view in views if view.bundles is None]
    if silent:
        raise DeployImpossible(f"{', '.join(silent)} cannot be reached or is still starting")
    live = live_deploy(views)
    if live is not None:
        if live.bundle_id != bundle_id:
            raise DeployImpossible(f"deploy {live.deploy_id} of bundle {live.bundle_id} is under way")
        tell(f"would go on with deploy {live.deploy_id}, {phase_name(live.phase)}")
        return
    tell(f"would move {len(views)} replica(s) from bundle {served(views)} to {bundle_id}")
    ordered = [view.endpoint for view in order(views)]
    tell(f"would load it on {', '.join(ordered)}")
    if wish.options.shadow_share > 0:
        tell(
            f"would compare {wish.options.shadow_share:.0%} of the requests of {ordered[0]} until"
            f" {wish.limits.min_requests} are compared"
        )
    if wish.options.canary_share > 0:
        tell(
            f"would serve {wish.options.canary_share:.0%} of the requests of {ordered[0]} with it until"
            f" {wish.limits.min_requests} are answered"
        )
    tell(f"would then change over {', then '.join(ordered)}")


def _tell_end(
    outcome: Outcome,
    tell: Callable[[str], None],
    show: Callable[[dict[str, Any]], None] | None,
    *,
    aborted: bool = False,
) -> int:
    if show:
        show(plain_outcome(outcome))
    if outcome.done:
        tell(f"every replica serves {outcome.bundle_id}; `muster deploy --roll-back` goes back at once")
    else:
        tell(f"every replica serves {outcome.previous_bundle_id}, as before")
    return EXIT_DONE if outcome.done or aborted else EXIT_ROLLED_BACK


def plain_outcome(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON values."""
    return {
        "deploy_id": outcome.deploy_id,
        "bundle": outcome.bundle_id,
        "previous_bundle": outcome.previous_bundle_id,
        "done": outcome.done,
        "reason": outcome.reason,
        "phases": [asdict(passed) for passed in outcome.phases],
        "windows": {phase: _plain_window(window) for phase, window in outcome.windows.items()},
    }


def _plain_window(window: Window) -> dict[str, Any]:
    return {
        "serving": _plain_arm(window.serving),
        "canary": _plain_arm(window.canary),
        "shadow": _plain_arm(window.shadow),
        "compared": window.compared,
        "dropped": window.dropped,
        "agreement": window.agreement,
        "overlap": window.overlap,
        "memory_growth_mib": round(window.memory_growth_bytes / 2**20, 1),
    }


def _plain_arm(arm: Arm) -> dict[str, Any]:
    return {
        "answered": arm.answered,
        "failed": arm.failed,
        "refused": arm.refused,
        "given_up": arm.given_up,
        "worth": arm.worth_total / arm.answered if arm.answered else None,
        "latency_ms_p95": round(arm.latency.quantile_ms(0.95), 3) if arm.latency.count else None,
        "work_ms_p50": {
            tier: round(times.quantile_ms(0.5), 3) for tier, times in arm.work.items() if times.count
        },
    }
