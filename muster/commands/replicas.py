"""`muster status` and `muster transfer`: what the replicas do, and who is primary."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from muster.commands.arguments import DEFAULT_TARGET, Json, Target, duration
from muster.commands.failures import EXIT_UNAVAILABLE, complain, reported
from muster.commands.output import make_console, make_table, number, plain, print_json


@reported
def status(
    target: Target = DEFAULT_TARGET,
    deadline: Annotated[float, duration("--deadline", "Time for each replica to answer.")] = 1_000.0,
    as_json: Json = False,
) -> None:
    """Shows what every replica is doing."""
    from muster.client import Client

    with Client(target) as client:
        found = client.status(deadline_ms=deadline)
    if as_json:
        print_json(
            [
                {
                    "endpoint": entry.endpoint,
                    "error": None if entry.error is None else str(entry.error),
                    "status": None if entry.status is None else plain(entry.status),
                }
                for entry in found
            ]
        )
    else:
        _show_status(found)
    if all(entry.status is None for entry in found):
        first = found[0].error
        assert first is not None
        raise first


def _show_status(found: Sequence[Any]) -> None:
    from rich.text import Text

    console = make_console()
    table = make_table("endpoint", "replica", "role", "reads", "epoch", "sequence", "lag ms", "products")
    plans: dict[str, Any] = {}
    indexes: dict[str, Any] = {}
    for entry in found:
        if entry.status is None:
            table.add_row(Text(entry.endpoint), "-", "no answer", *[""] * 5)
            continue
        state = plain(entry.status)
        behind = f"{state['applied_sequence']}/{state['head_sequence']}"
        table.add_row(
            Text(entry.endpoint),
            Text(state["replica"]),
            state["role"],
            "serving" if state["serving"] else "not serving",
            str(state["epoch"]),
            behind,
            str(state["staleness_ms"]),
            f"{state['products']:,}",
        )
        if index := state.get("dense_index"):
            indexes.setdefault(state["generation_id"], index)
        plans = plans or {plan["tier"] + str(plan["depth"]): plan for plan in state["plans"]}
    console.print(table)
    for sentence in folding_lines([plain(entry.status) for entry in found if entry.status is not None]):
        console.print(Text(sentence))
    _show_bundles(console, found)
    if plans:
        listed = make_table("tier", "depth", "expected nDCG@10", "ms")
        for plan in plans.values():
            listed.add_row(
                plan["tier"], str(plan["depth"]), number(plan["expected_ndcg"], 3), number(plan["cost_ms"])
            )
        console.print(listed)
    if indexes:
        listed = make_table("generation", "dense retrieval", "probes", "recall@100", "ms")
        for generation_id, index in indexes.items():
            listed.add_row(
                generation_id,
                index["kind"],
                str(index["probes"]),
                number(index["recall_at_100"], 3),
                number(index.get("median_ms"), 3),
            )
        console.print(listed)


def folding_lines(states: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the log is kept within its bounds, in sentences: what the primary says of it (as `plain` gives it),
    and what is wrong anywhere.
    """
    lines = []
    told = [state for state in states if state["role"] == "primary" and "folding" in state]
    for state in told[:1]:
        folding = state["folding"]
        first, last = folding["first_sequence"], state["head_sequence"]
        events = f"events {first:,} to {last:,}" if first else "no events"
        text = f"log: {events}, {folding['store_bytes'] / 2**20:,.1f} MiB with the snapshot"
        if "first_committed_unix_us" in folding:
            text += f", the oldest of {_moment(folding['first_committed_unix_us'])}"
        if "last_fold_unix_us" in folding:
            text += (
                f"; last folded {folding['last_fold_events']:,} events,"
                f" {_moment(folding['last_fold_unix_us'])}, in {folding['last_fold_ms']:,.0f} ms"
            )
        else:
            text += f"; nothing folded since {state['replica']} started"
        lines.append(text)
    for state in states:
        folding = state.get("folding", {})
        if folding.get("failures"):
            lines.append(
                f"{state['replica']} failed {folding['failures']:,} times in a row to look after the log:"
                f" {folding['problem']}"
            )
        elif folding.get("problem"):
            lines.append(f"{state['replica']}: {folding['problem']}")
    return lines


def _moment(unix_us: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_us / 1e6))


def _show_bundles(console: Any, found: Sequence[Any]) -> None:
    """Which bundles are held, and the last deploy, where there is more to tell than one bundle."""
    states = [plain(entry.status) for entry in found if entry.status is not None]
    held = make_table("replica", "serves", "candidate", "before")
    for state in states:
        held.add_row(
            state["replica"],
            state["bundle_id"],
            state["candidate_bundle_id"] or "-",
            state["previous_bundle_id"] or "-",
        )
    if states:
        console.print(held)
    deploys = [state["deploy"] for state in states if "deploy" in state]
    if deploys:
        last = deploys[0]
        why = f": {last['detail']}" if last["detail"] else ""
        console.print(
            f"deploy {last['deploy_id']} from {last['previous_bundle_id']} to {last['bundle_id']}:"
            f" {last['phase'].replace('_', ' ')}{why}",
            markup=False,
        )


@reported
def transfer(
    target: Target = DEFAULT_TARGET,
    deadline: Annotated[float, duration("--deadline", "Time for another replica to take over.")] = 10_000.0,
    as_json: Json = False,
) -> None:
    """Has the primary give the lease to another replica: a planned takeover, without a failed request."""
    from muster.client import Client

    with Client(target) as client:
        before = [entry.status for entry in client.status(deadline_ms=deadline) if entry.status is not None]
        asked = {status.replica for status in before if plain(status)["role"] == "primary"}
        started = time.perf_counter()
        answer = client.transfer_lease(deadline_ms=deadline)
        took_ms = (time.perf_counter() - started) * 1000
    moved = bool(answer.primary) and answer.primary not in asked
    if as_json:
        print_json({**plain(answer), "transferred": moved, "took_ms": round(took_ms, 1)})
    elif moved:
        print(f"{answer.primary} is the primary of epoch {answer.epoch}, after {took_ms:.0f} ms")
    if not moved:
        complain(
            "no other replica took the lease; `muster status` shows whether one serves and has caught up "
            "(and `lease.eligible` whether it may)"
        )
        raise typer.Exit(EXIT_UNAVAILABLE)
