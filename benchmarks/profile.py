"""Where a request's time goes: stages by receipt, and a flame graph of the replica that serves them.

Question: of the time that a caller waits at one client, how much is each stage, and how much is outside all
of them (gRPC, Python, the way back)? Which functions is it?

Data: a synthetic catalogue of `--products`, its own queries, one replica with one plan alone, one caller with
one request in flight: in turn by `muster.client`, and by a client that does the least that gRPC asks for, so
that what the service adds is told apart from what a client library does. Excluded: queueing. The profile
samples the processor's time of the whole replica (perf, clock interrupts, stacks by unwind tables), so
waiting is not in it; the table is measured without it.

Run: python -m benchmarks.profile --tier hybrid --tier late --out docs/images
Needs `perf` for the pictures (Debian: linux-perf); without it the table alone is printed, and it says so.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.service import Services, Serving, commit
from drills.experiment import quantile
from drills.journal import machine
from drills.rig.cluster import find_bundle
from drills.rig.load import OK, SearchFlood
from muster.client import Client, MusterError
from muster.v1 import ranking_pb2

STAGES = ("queue_us", "encode_us", "retrieve_us", "late_us", "cross_us", "order_us")
DEADLINE_MS = 2_000.0
"""Far from any plan's cost, so that nothing is cut short."""

Stack = tuple[str, ...]
"""Functions from the outermost to the innermost."""


@dataclass(frozen=True)
class Times:
    """One quantile of each, of one tier, microseconds. waited_us: by the caller; total_us: in the core.
    least_waited_us: by the caller that does the least.
    """

    tier: str
    requests: int
    waited_us: float
    least_waited_us: float
    total_us: float
    stages_us: dict[str, float]
    processor_us: float
    """Mean of what a request costs the replica, less what it uses without any; waiting is not in it."""

    @property
    def between_us(self) -> float:
        """Inside the core, outside its stages: planning, chunks' change-over, the answer's encoding."""
        return self.total_us - sum(self.stages_us.values())

    @property
    def outside_us(self) -> float:
        """Outside the core."""
        return self.waited_us - self.total_us

    @property
    def overhead_us(self) -> float:
        """All that is neither retrieval nor a model nor the client library: queue, planning, the way to the
        core and back."""
        return self.least_waited_us - self.total_us + self.between_us + self.stages_us["queue_us"]


def processor_s(serving: Serving) -> float:
    """Processor time of the replica so far, seconds. Source: proc(5), fields 14 and 15 of `stat`."""
    stat = Path(f"/proc/{serving.cluster.replicas[0].pid}/stat").read_text(encoding="ascii", errors="replace")
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


IDLE_S = 5.0


def measure(serving: Serving, client: Client, tier: str, requests: int, share: float) -> Times:
    """Asks one request after the other, by the two clients in turn. share: which quantile, 0.5 for medians.
    Failed ones are left out.
    """
    queries = serving.queries
    with LeastClient(serving.cluster.addresses[0], queries) as least:
        return _measure(serving, (client, least), tier, requests, share)


class LeastClient:
    """Searches over one plain connection, one at a time."""

    def __init__(self, address: str, queries: Sequence[str]) -> None:
        asked = [ranking_pb2.SearchRequest(query=query).SerializeToString() for query in queries]
        self._flood = SearchFlood([address], asked, deadline_ms=DEADLINE_MS)
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> Self:
        self._loop.run_until_complete(self._flood.open())
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._flood.close())
        self._loop.close()

    def search(self, number: int) -> tuple[float, ranking_pb2.SearchResponse | None]:
        """The query of that number: what it took, microseconds, and its answer; None: there was none."""

        async def one() -> tuple[float, ranking_pb2.SearchResponse | None]:
            # Counted inside the loop: starting it is the measurement's doing.
            began_s = time.perf_counter()
            status, fields = await self._flood.call(number, time.monotonic())
            waited_us = (time.perf_counter() - began_s) * 1e6
            if status != OK:
                print(f"left out: {status} {fields.get('detail', '')}", file=sys.stderr)
                return waited_us, None
            return waited_us, ranking_pb2.SearchResponse.FromString(fields["body"])

        return self._loop.run_until_complete(one())


def _measure(
    serving: Serving, clients: tuple[Client, LeastClient], tier: str, requests: int, share: float
) -> Times:
    queries, (client, least) = serving.queries, clients
    used_s = processor_s(serving)
    time.sleep(IDLE_S)
    idle_share = (processor_s(serving) - used_s) / IDLE_S
    used_s, start_s = processor_s(serving), time.monotonic()
    waited: list[float] = []
    least_waited: list[float] = []
    totals: list[float] = []
    stages: dict[str, list[float]] = {name: [] for name in STAGES}
    for number in range(requests):
        began_s = time.perf_counter()
        try:
            response = client.search(queries[number % len(queries)], deadline_ms=DEADLINE_MS)
        except MusterError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        waited.append((time.perf_counter() - began_s) * 1e6)
        waited_us, plain = least.search(number % len(queries))
        for answer in (response, plain) if plain is not None else (response,):
            timings = answer.receipt.timings
            totals.append(float(timings.total_us))
            for name, values in stages.items():
                values.append(float(getattr(timings, name)))
        if plain is not None:
            least_waited.append(waited_us)
    used_s = processor_s(serving) - used_s - idle_share * (time.monotonic() - start_s)
    told = {name: quantile(values, share) for name, values in stages.items()}
    return Times(
        tier,
        len(totals),
        quantile(waited, share),
        quantile(least_waited, share),
        quantile(totals, share),
        told,
        used_s / len(totals) * 1e6,
    )


def record(
    serving: Serving, queries: Sequence[str], client: Client, seconds: float, frequency: int
) -> Counter[Stack]:
    """Samples the replica's stacks while it answers one caller. Raises: RuntimeError where there is none."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        perf = subprocess.Popen(
            ["perf", "record", "--quiet", "-e", "cpu-clock:u", "-F", str(frequency),
             "--call-graph", "dwarf,16384", "-p", str(serving.cluster.replicas[0].pid), "-o", str(data)],
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        until_s = time.monotonic() + seconds
        number = 0
        while time.monotonic() < until_s:
            client.search(queries[number % len(queries)], deadline_ms=DEADLINE_MS)
            number += 1
        perf.send_signal(signal.SIGINT)
        _, complaint = perf.communicate(timeout=120)
        listed = subprocess.run(
            ["perf", "script", "-i", str(data), "-F", "comm,tid,ip,sym,dso", "--no-inline"],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    stacks = Counter(samples(listed.stdout.splitlines()))
    if not stacks:
        raise RuntimeError(f"perf gave no sample: {complaint.strip() or listed.stderr.strip()}")
    return stacks


FRAME = re.compile(r"^\s+[0-9a-f]+ (?P<symbol>.*) \((?P<object>[^()]*)\)$")


def samples(lines: Sequence[str]) -> Iterator[Stack]:
    """The stacks of `perf script`'s output."""
    frames: list[str] = []
    for line in lines:
        if match := FRAME.match(line):
            frames.append(frame(match["symbol"], Path(match["object"]).name))
        elif not line.strip() and frames:
            yield merged(reversed(frames))
            frames = []
    if frames:
        yield merged(reversed(frames))


def frame(symbol: str, library: str) -> str:
    """A readable name: without hash and generic arguments; of unknown functions the library's."""
    if symbol == "[unknown]":
        return f"[{library}]"
    name = re.sub(r"::h[0-9a-f]{16}$", "", re.sub(r"\+0x[0-9a-f]+$", "", symbol))
    name = re.sub(r"^<(.+) as .+>::", r"\1::", name)  # a method of a trait is told by its type
    while (shorter := re.sub(r"<[^<>]*>|\([^()]*\)", "", name)) != name:
        name = shorter
    name = name.replace("::::", "::").strip(": ")
    return (name or symbol)[:120]


def merged(frames: Iterator[str]) -> Stack:
    """Neighbouring frames of the same name as one: recursion of an interpreter says nothing."""
    stack: list[str] = []
    for name in frames:
        if not stack or stack[-1] != name:
            stack.append(name)
    return tuple(stack)


@dataclass
class Node:
    """A function below its callers. count: samples in it and in what it called."""

    count: int = 0
    children: dict[str, Node] = field(default_factory=dict)


def tree(stacks: Counter[Stack]) -> Node:
    """All stacks, joined where they are the same from the outermost function on."""
    root = Node()
    for stack, count in stacks.items():
        root.count += count
        node = root
        for name in stack:
            node = node.children.setdefault(name, Node())
            node.count += count
    return root


OWNERS = (
    ("ranking core", "#4477aa", ("rankcore", "_native")),
    ("ONNX Runtime", "#cc6677", ("onnxruntime", "ort::session", "Mlas", "Eigen")),
    ("tantivy, tokenisers", "#228833", ("tantivy", "tokenizers", "bitpacking")),
    ("FAISS, BLAS", "#66ccee", ("faiss", "blas", "gemm", "sgem")),
    ("gRPC", "#aa3377", ("grpc", "cygrpc", "absl", "upb")),
    ("Python", "#ccbb44", ("Py", "_py", "python", "builtin", "method_", "vectorcall", "cfunction")),
)
OTHER = ("system, other", "#bbbbbb")


def owner(name: str) -> tuple[str, str]:
    """Who wrote a function, and its colour."""
    for label, colour, marks in OWNERS:
        if any(mark in name for mark in marks):
            return label, colour
    return OTHER


WIDTH, ROW, LEFT, TOP = 1200, 16, 10, 58
SMALLEST = 0.6
"""Narrower boxes, in pixels, are left out."""


def flame(stacks: Counter[Stack], title: str) -> str:
    """The flame graph as SVG: width is time, the outermost function at the bottom, colour its owner."""
    root = tree(stacks)
    boxes: list[tuple[int, float, float, str, int]] = []

    def place(node: Node, depth: int, left: float) -> None:
        for name, child in sorted(node.children.items()):
            width = child.count / root.count * (WIDTH - 2 * LEFT)
            if width >= SMALLEST:
                boxes.append((depth, left, width, name, child.count))
                place(child, depth + 1, left)
            left += width

    place(root, 0, LEFT)
    height = TOP + ROW * (max(box[0] for box in boxes) + 1) + 10
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
        f' height="{height}" font-family="Helvetica, Arial, sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="15" fill="#222222">{html.escape(title)}</text>',
    ]
    for number, (label, colour) in enumerate([entry[:2] for entry in OWNERS] + [OTHER]):
        x = LEFT + number * 165
        out.append(f'<rect x="{x}" y="32" width="11" height="11" fill="{colour}"/>')
        out.append(f'<text x="{x + 16}" y="42" fill="#222222">{html.escape(label)}</text>')
    for depth, left, width, name, count in boxes:
        y = height - 10 - ROW * (depth + 1)
        share = 100 * count / root.count
        shown = name if len(name) * 6.2 < width else name.rsplit("::", 1)[-1]
        letters = int(width / 6.2)
        text = "" if letters < 4 else shown if len(shown) <= letters else shown[: letters - 1] + "…"
        out.append(
            f"<g><title>{html.escape(name)}: {share:.1f} %</title>"
            f'<rect x="{left:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}"'
            f' fill="{owner(name)[1]}" stroke="#ffffff" stroke-width="0.4"/>'
            + (
                f'<text x="{left + 3:.1f}" y="{y + 11}" fill="#111111">{html.escape(text)}</text>'
                if text
                else ""
            )
            + "</g>"
        )
    return "\n".join([*out, "</svg>", ""])


def shares(stacks: Counter[Stack]) -> dict[str, float]:
    """Share of samples by whose code was running: the innermost function that can be told."""
    found: Counter[str] = Counter()
    for stack, count in stacks.items():
        known = [label for label, _ in map(owner, reversed(stack)) if label != OTHER[0]]
        found[known[0] if known else OTHER[0]] += count
    return {label: count / stacks.total() for label, count in found.most_common()}


def table(times: Sequence[Times]) -> str:
    """Markdown: a row for each tier."""
    names = [name.removesuffix("_us") for name in STAGES]
    lines = [
        "| tier | requests | "
        + " | ".join(names)
        + " | between stages | core | outside | caller waits | least client waits | overhead | processor |",
        "|---|---|" + "---|" * (len(names) + 7),
    ]
    for one in times:
        values = [*one.stages_us.values(), one.between_us, one.total_us, one.outside_us, one.waited_us]
        values += [one.least_waited_us, one.overhead_us, one.processor_us]
        lines.append(f"| `{one.tier}` | {one.requests:,} | " + " | ".join(f"{v:,.0f}" for v in values) + " |")
    return "\n".join(lines)


def plan_of(plans: Sequence[dict[str, Any]], tier: str) -> dict[str, Any]:
    """The deepest plan of a tier. Raises: SystemExit naming those there are."""
    found = [plan for plan in plans if plan["tier"] == tier]
    if not found:
        raise SystemExit(
            f"no plan of the tier {tier!r}; there are {sorted({plan['tier'] for plan in plans})}"
        )
    return max(found, key=lambda plan: int(plan["depth"]))


def main(arguments: Sequence[str]) -> int:
    """Measures each tier, prints the table, writes the pictures."""
    parser = argparse.ArgumentParser(description="Where a request's time goes.")
    parser.add_argument(
        "--tier", action="append", help="lexical, hybrid, late...; several times (default hybrid)"
    )
    parser.add_argument("--products", type=int, default=5_000)
    parser.add_argument("--requests", type=int, default=2_000, help="for the table (default 2000)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of sampling for a picture (default 10)")
    parser.add_argument("--frequency", type=int, default=499, help="samples a second (default 499)")
    parser.add_argument("--out", type=Path, help="folder of the pictures, flame-TIER.svg")
    parser.add_argument(
        "--quantile", type=float, default=0.5, help="0.1 leaves out what noisy neighbours add (default 0.5)"
    )
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    bundle = find_bundle(given.bundle)
    pictures = given.out is not None and shutil.which("perf") is not None
    if given.out is not None and not pictures:
        print("no picture: perf is not installed (Debian: apt-get install linux-perf)", file=sys.stderr)
    times: list[Times] = []
    profiles: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, Services(bundle, Path(folder), seed=given.seed) as services:
        for tier in given.tier or ["hybrid"]:
            plan = plan_of(services.plans_of(bundle), tier)
            serving = services.serve(given.products, plan)
            with Client(serving.cluster.addresses) as client:
                for query in serving.queries[:200]:
                    client.search(query, deadline_ms=DEADLINE_MS)
                times.append(measure(serving, client, tier, given.requests, given.quantile))
                if not pictures:
                    continue
                stacks = record(serving, serving.queries, client, given.seconds, given.frequency)
                profiles[tier] = shares(stacks)
                title = f"Processor time of a replica, tier {tier}, {serving.products:,} products, one caller"
                given.out.mkdir(parents=True, exist_ok=True)
                (given.out / f"flame-{tier}.svg").write_text(flame(stacks, title), encoding="utf-8")
    if given.json:
        rows = [
            vars(one)
            | {"outside_us": one.outside_us, "between_us": one.between_us, "overhead_us": one.overhead_us}
            for one in times
        ]
        told = {
            "machine": machine(),
            "commit": commit(),
            "products": given.products,
            "seed": given.seed,
            "quantile": given.quantile,
        }
        print(json.dumps(told | {"times": rows, "processor_shares": profiles}, indent=2))
        return 0
    print(
        f"Quantile {given.quantile:g} of each (processor: mean of the replica), microseconds, one caller:\n"
    )
    print(table(times))
    for tier, found in profiles.items():
        told_shares = ", ".join(f"{label} {100 * share:.0f} %" for label, share in found.items())
        print(f"\nProcessor time of the replica, `{tier}`: {told_shares}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
