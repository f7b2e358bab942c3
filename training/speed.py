"""Speed: the core's own int8 kernels and ONNX Runtime on the same models, in turns, on one core.

    python -m training.speed BUNDLE

- **pairs**: cross-encoders of random weights, exported as every model is, read 32 pairs of a query and a
  product, 18 to 64 tokens and 41 on average. The core reads them ragged; ONNX Runtime padded in one batch, in
  four batches of like lengths (buckets), and pair by pair, which is how the core runs it, because in a batch
  its scores depend on each other.
- **query**, **products**: the bundle's encoder on a query of 8 tokens, and on 64 products of 10 to 42 tokens.
- **limit**: 8-bit multiply-adds on registers and nothing else, which the share of each model is told of.

Times are processor time of the one thread that works, so that other processes disturb them little; rounds go
through all rows in turn, and ratios are made within a round. Tokenising is in none of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import rankcore
from training.models.networks import CrossEncoder, Shape
from training.quantise import export_cross, open_session

PAIRS, QUERY_PIECES, BUCKETS = 32, 8, 4
PAIR_TOKENS = (18, 64)
PRODUCTS, PRODUCT_TOKENS = 64, (10, 42)
WORDS = 2000
ROUNDS = 30
# Of the limit: some 10 ms of work.
LIMIT_ROUNDS = 1_000_000

SHAPES = {
    "L4H256": (4, 256, 4),
    "L3H384": (3, 384, 12),
    "L6H384": (6, 384, 12),
}
"""Layers, width, heads."""

Row = tuple[list[int], int]
"""Token ids with special tokens, and where the second text starts."""


@dataclass(frozen=True)
class Way:
    """One way to do one piece of work. name: "own ..." or "ONNX Runtime, ..."."""

    work: str
    name: str
    run: Callable[[], object]


def random_cross(
    path: Path,
    layers: int,
    width: int,
    heads: int,
    *,
    words: int = WORDS,
    positions: int = PAIR_TOKENS[1],
    seed: int = 0,
) -> None:
    """Write a cross-encoder of random weights as int8 ONNX, with an inner width of four times its width.

    words, positions: token ids and tokens of a pair that it can read.
    """
    torch.manual_seed(seed)
    model = CrossEncoder(
        Shape(
            layers=layers,
            width=width,
            heads=heads,
            inner=4 * width,
            vocabulary=words,
            positions=positions,
        )
    )
    torch.nn.init.normal_(model.head.weight, std=0.1)
    export_cross(model, path)


def random_rows(count: int, tokens: tuple[int, int], *, pairs: bool, seed: int = 1) -> list[Row]:
    """Rows of equally spread lengths, in random order. pairs: the second text starts after `QUERY_PIECES`."""
    random = np.random.default_rng(seed)
    lengths = random.permutation(np.linspace(*tokens, count).round().astype(int))
    return [
        (random.integers(5, WORDS, size=length).tolist(), QUERY_PIECES + 2 if pairs else int(length))
        for length in lengths
    ]


def padded(rows: Sequence[Row], names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """One batch of ONNX Runtime, as long as its longest row."""
    shape = (len(rows), max(len(ids) for ids, _ in rows))
    made = {name: np.zeros(shape, np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    for at, (ids, second) in enumerate(rows):
        made["input_ids"][at, : len(ids)] = ids
        made["attention_mask"][at, : len(ids)] = 1
        made["token_type_ids"][at, second : len(ids)] = 1
    return {name: made[name] for name in names}


def runtime_ways(session: onnxruntime.InferenceSession, work: str, rows: Sequence[Row]) -> list[Way]:
    """ONNX Runtime on all rows: in one batch, in buckets of like lengths, and row by row."""
    names = [one.name for one in session.get_inputs()]
    by_length = sorted(rows, key=lambda row: len(row[0]))
    size = -(-len(rows) // BUCKETS)

    def way(name: str, groups: Sequence[Sequence[Row]]) -> Way:
        batches = [padded(group, names) for group in groups]
        return Way(work, f"ONNX Runtime, {name}", lambda: [session.run(None, batch) for batch in batches])

    alone = way("row by row", [[row] for row in rows])
    if len(rows) == 1:
        return [alone]
    buckets = [by_length[start : start + size] for start in range(0, len(rows), size)]
    return [way(f"{len(buckets)} buckets", buckets), way("one batch", [rows]), alone]


def speed(bundle: Path, *, rounds: int = ROUNDS, shapes: Sequence[str] = tuple(SHAPES)) -> dict[str, Any]:
    """Measure. rounds: timed runs of each row.

    Returns: {"rows": [{"work", "way", "ms", "ms_low", "ms_high", "ratio", "ratio_low", "ratio_high",
    "share"}], "limit_gops": {"median", "low", "high"} or None, "cases": what each work is}. ms: median and
    quartiles. ratio: how many times as long as the core's best kernels, within the round; None for these.
    share: of the limit, by the medians.
    Raises: rankcore.BundleError; OSError.
    """
    ways: list[Way] = []
    operations: dict[str, int] = {}
    cases: dict[str, str] = {}
    instructions = [name for name in ("avx512vnni", "avx2") if name in rankcore.cpu_features()]
    library = rankcore.runtime_library()

    def add(work: str, path: Path, rows: list[Row], *, cross: bool) -> None:
        for name in instructions:
            own = rankcore.Network(str(path), cross=cross, runtime_library=library, kernels=name)
            ways.append(Way(work, f"own {name}", partial(own.run, rows)))
            operations[work] = (own.int8_operations_per_token or 0) * sum(len(ids) for ids, _ in rows)
        ways.extend(runtime_ways(open_session(path), work, rows))
        lengths = [len(ids) for ids, _ in rows]
        cases[work] = (
            f"{len(rows)} of {min(lengths)} to {max(lengths)} tokens, {np.mean(lengths):.1f} on average"
        )

    with tempfile.TemporaryDirectory() as folder:
        for name in shapes:
            path = Path(folder) / f"{name}.onnx"
            random_cross(path, *SHAPES[name])
            add(f"pairs {name}", path, random_rows(PAIRS, PAIR_TOKENS, pairs=True), cross=True)
        encoder = bundle / "encoder" / "model.onnx"
        query = random_rows(1, (QUERY_PIECES + 2, QUERY_PIECES + 2), pairs=False)
        add("query", encoder, query, cross=False)
        add("products", encoder, random_rows(PRODUCTS, PRODUCT_TOKENS, pairs=False), cross=False)
        times, limits = _timed(ways, rounds)
    best = {way.work: at for at, way in reversed(list(enumerate(ways)))}
    limit = None if not limits else float(np.median(limits))
    found = []
    for at, way in enumerate(ways):
        low, middle, high = np.percentile(times[at], [25, 50, 75])
        row: dict[str, Any] = {
            "work": way.work,
            "way": way.name,
            "ms": round(float(middle), 3),
            "ms_low": round(float(low), 3),
            "ms_high": round(float(high), 3),
            "ratio": None,
            "share": None,
        }
        if at != best[way.work]:
            within = np.array(times[at]) / np.array(times[best[way.work]])
            ratios = np.percentile(within, [25, 50, 75])
            low, middle, high = np.round(ratios, 3).tolist()
            row |= {"ratio_low": low, "ratio": middle, "ratio_high": high}
        if limit is not None:
            row["share"] = round(operations[way.work] / (row["ms"] * 1e6) / limit, 4)
        found.append(row)
    spread = None if limit is None else np.percentile(limits, [25, 50, 75]).round(1).tolist()
    return {
        "rows": found,
        "limit_gops": None if spread is None else dict(zip(("low", "median", "high"), spread, strict=True)),
        "cases": cases,
        "rounds": rounds,
    }


def _timed(ways: Sequence[Way], rounds: int) -> tuple[list[list[float]], list[float]]:
    """By round: milliseconds of processor time of each way, and 10^9 operations a second at the limit."""
    times: list[list[float]] = [[] for _ in ways]
    limits = []
    for number in range(rounds + 1):
        started = time.thread_time_ns()
        done = rankcore.int8_limit(LIMIT_ROUNDS)
        if done is not None and number > 0:
            limits.append(done / (time.thread_time_ns() - started))
        for way, spent in zip(ways, times, strict=True):
            started = time.thread_time_ns()
            way.run()
            # The first round warms up.
            if number > 0:
                spent.append((time.thread_time_ns() - started) / 1e6)
    return times, limits


def _show(result: Mapping[str, Any]) -> None:
    table = Table(title=f"processor time of one core, {result['rounds']} rounds in turn")
    for column in ("work", "way", "ms (quartiles)", "times the core's (quartiles)", "share of the limit"):
        table.add_column(column, justify="left" if column in ("work", "way") else "right")
    for row in result["rows"]:
        ratio = (
            ""
            if row["ratio"] is None
            else f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
        )
        table.add_row(
            row["work"],
            row["way"],
            f"{row['ms']:.2f} ({row['ms_low']:.2f} to {row['ms_high']:.2f})",
            ratio,
            "" if row["share"] is None else f"{row['share']:.0%}",
        )
    # A table that is not read on a terminal is as wide as it needs to be.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)
    for work, case in result["cases"].items():
        console.print(f"{work}: {case}")
    if result["limit_gops"] is not None:
        limit = result["limit_gops"]
        spread = f"{limit['low']:.0f} to {limit['high']:.0f}"
        console.print(f"limit of 8-bit multiply-adds: {limit['median']:.0f} GOP/s ({spread})")


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m training.speed",
        description="The core's own kernels and ONNX Runtime on the same models, in turns.",
    )
    parser.add_argument("bundle", type=Path, help="folder of the bundle whose encoder is timed")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"timed runs of each row (default: {ROUNDS})"
    )
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    try:
        result = speed(arguments.bundle, rounds=arguments.rounds)
    except (rankcore.RankError, OSError) as error:
        print(f"python -m training.speed: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        _show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
