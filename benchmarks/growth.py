"""How the service grows with its catalogue: `python -m benchmarks.growth --products 26000,100000 --json OUT`.

Question: what do build, start, memory and a search of each tier cost at each size, by which power of the
size do they grow, and is the growth within bounds (`late` at most four times its median from 26,000
products to a million, 4 KiB of memory a product)?

Data: the synthetic catalogue, whose small sizes begin its large ones. Texts, words, columns, facets and
files are always real. With `--vectors encoded` vectors are the bundle's, which takes minutes for each ten
thousand products; with `--vectors drawn` the bundle encodes a sample of `--sample` products, and the
vectors of all are drawn around those (`rankcore/engine/src/generation/drawn.rs`): good for time and
memory, not for quality.

How: one log is filled up to each size in turn. For each size one process builds a generation with the
builder that replicas use, another opens it as a replica does, and runs searches with fixed plans on one
thread, tier by tier in turn. Times of searches are processor time of that thread, since neighbours are no
part of the question; the medians of wall-clock time stand beside. The log's filling is not counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.service import commit
from drills.experiment import quantile
from drills.journal import machine
from drills.rig.cluster import ROOT, find_bundle
from muster.products.synthetic import SyntheticCatalogue
from muster.v1.catalogue_pb2 import Event
from muster.v1.ranking_pb2 import SearchRequest, SearchResponse

Result = dict[str, Any]

SIZES = "5000,26000"
SAMPLE = 20_000
QUERIES = 200
QUERY_PRODUCTS = 26_000
SEARCHES = 1_000
MEASURE_S = 60.0
LATE_GROWTH_MAX = 4.0
BYTES_A_PRODUCT_MAX = 4_096

_EVENTS_AT_ONCE = 2_000
_SETTINGS = ("bundle", "seed", "vectors", "sample", "threads")


# --- the log ---------------------------------------------------------------------------------------------


def fill(log: Path, catalogue: SyntheticCatalogue, upto: int) -> None:
    """Append the products that the log lacks up to `upto`, one event each."""
    # The parts of the server are imported where a process needs them, so that each holds no other's memory.
    from server.catalogue.opening import open_store
    from server.catalogue.store import NewEvent
    from server.standby.lease import Holder

    with closing(open_store(log)) as store:
        lease = store.lease()
        epoch = lease.epoch if lease else 0
        claimed = store.claim_lease(
            Holder("growth/1", os.getpid(), 1, "growth"), expected_epoch=epoch, ttl_ns=10**15
        )
        if claimed is None:
            raise SystemExit(f"growth: {log} is being written by another process")
        numbers = iter(range(store.head().sequence, upto))
        while batch := list(itertools.islice(numbers, _EVENTS_AT_ONCE)):
            events = [
                NewEvent.of(Event(event_id=f"e{number}", upsert=catalogue.product(number)))
                for number in batch
            ]
            store.append([events], epoch=claimed.epoch)
            tell(f"log: {batch[-1] + 1:,} of {upto:,} products")


# --- one build -------------------------------------------------------------------------------------------


def build(job: Mapping[str, Any], draw: int) -> Result:
    """Build a generation in this process. Stages in seconds of wall-clock and processor time; peak memory."""
    from server.generation.build import BuildJob
    from server.generation.build import build as build_generation

    moments: list[tuple[str, float, float]] = [("read", time.monotonic(), time.process_time())]
    told = [0.0]

    def progress(stage: str, done: int, total: int) -> None:
        if stage != moments[-1][0]:
            moments.append((stage, time.monotonic(), time.process_time()))
        if time.monotonic() - told[0] > 5.0:
            told[0] = time.monotonic()
            tell(f"build, {stage}: {done:,} of {total:,}")

    with peak_private_bytes() as peak:
        folder = build_generation(BuildJob(**job), progress, draw=draw)
    if folder is None:
        raise SystemExit("growth: nothing was built; is the log empty?")
    stages = {
        stage: {"wall_s": round(after[1] - wall_s, 2), "cpu_s": round(after[2] - cpu_s, 2)}
        for (stage, wall_s, cpu_s), after in itertools.pairwise(moments)
    }
    return {
        "folder": str(folder),
        "stages": stages,
        "wall_s": round(moments[-1][1] - moments[0][1], 2),
        "cpu_s": round(moments[-1][2] - moments[0][2], 2),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_private_bytes": peak[0],
    }


@contextmanager
def peak_private_bytes() -> Iterator[list[int]]:
    """Watches the memory of this process that no file backs; the list's one entry is its peak, in bytes."""
    peak = [memory()["RssAnon"]]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], memory()["RssAnon"])

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def memory() -> dict[str, int]:
    """Memory of this process in bytes: VmRSS is all of it in use, RssAnon what no file backs."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


# --- one generation, searched -----------------------------------------------------------------------------


def measure(bundle: str, folder: Path, queries: Sequence[str], searches: int, seconds: float) -> Result:
    """Open a generation as a replica does and search it with fixed plans on this thread."""
    import rankcore
    from server.generation.open import INDEX, DenseIndex, verify

    plans = json.loads((Path(bundle) / "plans.json").read_text(encoding="utf-8"))["plans"]
    began = time.monotonic(), time.process_time()
    engine = rankcore.Engine(bundle, runtime_library=rankcore.runtime_library(), workers=1)
    loaded = time.monotonic(), time.process_time()
    engine.serve(engine.empty())
    engine.warm_up(list(queries[:8]))
    private_before = memory()["RssAnon"]
    start = time.monotonic(), time.process_time()
    manifest = verify(folder)
    verified = time.monotonic(), time.process_time()
    dense = DenseIndex(folder / INDEX, manifest) if INDEX in manifest.files else None
    generation = engine.open(str(folder), dense)
    opened = time.monotonic(), time.process_time()
    engine.serve(generation)
    engine.warm_up(list(queries[:8]))
    warm = time.monotonic(), time.process_time()

    requests = [SearchRequest(query=query).SerializeToString() for query in queries]
    deepest = {plan["tier"]: plan for plan in plans}  # plans rise in depth within a tier
    samples: dict[str, dict[str, list[float]]] = {tier: defaultdict(list) for tier in deepest}
    until = time.monotonic() + seconds
    for number in range(-len(plans) * 4, searches):
        request = requests[number % len(requests)]
        for tier, plan in deepest.items():
            cpu_ns, wall_ns = time.thread_time_ns(), time.perf_counter_ns()
            answer = engine.execute(request, tier, plan["depth"], plan["width"])
            wall_ns, cpu_ns = time.perf_counter_ns() - wall_ns, time.thread_time_ns() - cpu_ns
            if number < 0:
                continue
            timings = SearchResponse.FromString(answer).receipt.timings
            samples[tier]["cpu_ms"].append(cpu_ns / 1e6)
            samples[tier]["wall_ms"].append(wall_ns / 1e6)
            for stage in ("encode", "retrieve", "late", "order"):
                samples[tier][f"{stage}_us"].append(getattr(timings, f"{stage}_us"))
        if number > 100 and time.monotonic() > until:
            break
    disk = {name: digest.bytes for name, digest in manifest.files.items()}
    private = memory()["RssAnon"] - private_before
    engine.close()
    return {
        "products": manifest.products,
        "drawn_from": manifest.drawn,
        "dense_index": asdict(manifest.dense_index),
        "disk_bytes": sum(disk.values()),
        "disk_bytes_by_part": dict(sorted(parts(disk).items(), key=lambda part: -part[1])),
        "private_bytes": private,
        "bytes_a_product": round((sum(disk.values()) + private) / manifest.products, 1),
        "start": {
            "engine_s": span(began, loaded),
            "verify_s": span(start, verified),
            "open_s": span(verified, opened),
            "warm_up_s": span(opened, warm),
        },
        "tiers": {tier: summary(of_tier) for tier, of_tier in samples.items()},
    }


def span(began: tuple[float, float], ended: tuple[float, float]) -> Result:
    """Seconds between two moments, each of wall-clock and processor time."""
    return {"wall": round(ended[0] - began[0], 3), "cpu": round(ended[1] - began[1], 3)}


def parts(files: Mapping[str, int]) -> dict[str, int]:
    """Bytes by the part of a generation that a file belongs to: what its name begins with."""
    sums: dict[str, int] = defaultdict(int)
    for name, size in files.items():
        sums[re.split(r"[./_]", name)[0]] += size
    return dict(sums)


def summary(samples: Mapping[str, Sequence[float]]) -> Result:
    """Median and 95th percentile of times, median of stages."""
    cpu, wall = samples["cpu_ms"], samples["wall_ms"]
    return {
        "searches": len(cpu),
        "cpu_p50_ms": round(statistics.median(cpu), 4),
        "cpu_p95_ms": round(quantile(cpu, 0.95), 4),
        "wall_p50_ms": round(statistics.median(wall), 4),
        "wall_p95_ms": round(quantile(wall, 0.95), 4),
        "stages_p50_us": {
            name.removesuffix("_us"): statistics.median(values)
            for name, values in samples.items()
            if name.endswith("_us")
        },
    }


# --- all sizes -------------------------------------------------------------------------------------------


def run(
    sizes: Sequence[int],
    *,
    bundle: Path,
    folder: Path,
    vectors: str,
    sample: int,
    seed: int,
    threads: int,
    searches: int = SEARCHES,
    seconds: float = MEASURE_S,
    earlier: Result | None = None,
    done: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Measure every size, from small to large; `done` gets the result so far after each.

    earlier: a result with the same settings, whose sizes are kept and not measured again.
    """
    result: Result = {
        "bundle": bundle.name,
        "seed": seed,
        "vectors": vectors,
        "sample": sample if vectors == "drawn" else None,
        "threads": threads,
        "sizes": [],
    }
    if earlier and all(earlier[name] == result[name] for name in _SETTINGS):
        result["sizes"] = earlier["sizes"]
    known = {row["products"] for row in result["sizes"]}
    # The products that queries are made from must be the same at every size.
    queries = [query.text for query in SyntheticCatalogue(QUERY_PRODUCTS, seed).queries(QUERIES)]
    for size in sorted(set(sizes) - known):
        fill(folder / "catalogue.sqlite3", SyntheticCatalogue(size, seed), size)
        generations = folder / f"generations-{size}"
        job = {
            "bundle": str(bundle),
            "store": str(folder / "catalogue.sqlite3"),
            "generations": str(generations),
            "threads": threads,
            "recall_min": 0.98,
            "keep": 2,
            "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        }
        built = child("build", {"job": job, "draw": sample if vectors == "drawn" else 0})
        measured = child(
            "measure",
            {
                "bundle": str(bundle),
                "folder": built.pop("folder"),
                "queries": queries,
                "searches": searches,
                "seconds": seconds,
            },
        )
        shutil.rmtree(generations)
        result["sizes"].append({**measured, "build": built, "machine": machine(), "commit": commit()})
        result["sizes"].sort(key=lambda row: row["products"])
        result["slopes"] = slopes(result["sizes"])
        result["targets"] = targets(result["sizes"])
        done(result)
    return result


def child(step: str, arguments: Mapping[str, Any]) -> Result:
    """One step in a process of its own, so that memory and start are its alone."""
    command = [sys.executable, "-m", "benchmarks.growth", "--step", step]
    # Messages go to this process's standard error as they come; the result is the last thing on standard
    # output.
    finished = subprocess.run(
        command, input=json.dumps(arguments), stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT
    )
    if finished.returncode:
        raise SystemExit(f"growth: the {step} step failed with exit code {finished.returncode}")
    result: Result = json.loads(finished.stdout)
    return result


def slope(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """The power of the size by which values grow: least squares over the logarithms. None: one size only."""
    if len(set(sizes)) < 2:
        return None
    x = [math.log(size) for size in sizes]
    y = [math.log(max(value, 1e-9)) for value in values]
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    spread = sum((one - mean_x) ** 2 for one in x)
    return round(sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread, 3)


def slopes(rows: Sequence[Result]) -> Result:
    """Log-log slopes of the median of every tier, of build time, of memory, and of the dense search alone."""
    sizes = [row["products"] for row in rows]
    found: Result = {
        tier: slope(sizes, [row["tiers"][tier]["cpu_p50_ms"] for row in rows]) for tier in rows[0]["tiers"]
    }
    found["build"] = slope(sizes, [row["build"]["cpu_s"] for row in rows])
    found["memory"] = slope(sizes, [row["bytes_a_product"] * row["products"] for row in rows])
    found["dense search"] = slope(sizes, [row["dense_index"]["median_ms"] or 0.0 for row in rows])
    return found


def targets(rows: Sequence[Result]) -> Result:
    """What is held against the targets, from the smallest to the largest size of this run."""
    late = [row["tiers"]["late"]["cpu_p50_ms"] for row in rows if "late" in row["tiers"]]
    most = max(row["bytes_a_product"] for row in rows)
    return {
        "late_growth": round(late[-1] / late[0], 3) if late else None,
        "late_growth_max": LATE_GROWTH_MAX,
        "bytes_a_product": most,
        "bytes_a_product_max": BYTES_A_PRODUCT_MAX,
    }


def tell(text: str) -> None:
    """A line on standard error."""
    print(f"growth: {text}", file=sys.stderr, flush=True)


def table(result: Result) -> str:
    """The result as a table of Markdown."""
    tiers = list(result["sizes"][0]["tiers"])
    heads = ["products", *(f"`{tier}` p50, p95 ms" for tier in tiers)]
    heads += ["dense: kind, recall@100", "bytes a product", "build s", "build peak MiB", "start s"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in result["sizes"]:
        index, built, start = row["dense_index"], row["build"], row["start"]
        kind = index["kind"] + (f", {index['probes']} probes" if index["probes"] else "")
        cells = [f"{row['products']:,}"]
        for tier in tiers:
            cells.append("{cpu_p50_ms:.2f}, {cpu_p95_ms:.2f}".format_map(row["tiers"][tier]))
        cells += [
            f"{kind}, {index['recall_at_100']:.3f}",
            f"{row['bytes_a_product']:,.0f}",
            f"{built['cpu_s']:,.0f}",
            f"{built['peak_private_bytes'] / 2**20:,.0f}",
            f"{sum(part['cpu'] for part in start.values()):.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    found = result["slopes"]
    lines.append("| slope | " + " | ".join(f"{found[tier]}" for tier in tiers))
    lines[-1] += f" | dense search {found['dense search']} | {found['memory']} | {found['build']} | | |"
    return "\n".join(lines)


def plot(result: Result, path: Path) -> None:
    """Time of every tier and bytes a product by size, both axes logarithmic, as a PNG."""
    from matplotlib import pyplot

    from drills.plot import TIER_COLOURS

    sizes = [row["products"] for row in result["sizes"]]
    figure, (times, sums) = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for tier in result["sizes"][0]["tiers"]:
        medians = [row["tiers"][tier]["cpu_p50_ms"] for row in result["sizes"]]
        colour = TIER_COLOURS[tier]
        label = f"{tier}, slope {result['slopes'][tier]}"
        times.plot(sizes, medians, color=colour, marker="o", linewidth=2, label=label)
    first = result["sizes"][0]["tiers"].get("late")
    if first:
        bound = first["cpu_p50_ms"] * LATE_GROWTH_MAX
        times.axhline(bound, color="#444444", linestyle=":", linewidth=0.9)
        text = f"bound: {LATE_GROWTH_MAX:g} x late at {sizes[0]:,}"
        times.annotate(text, (sizes[0], bound * 0.88), fontsize=8, color="#444444", va="top")
    times.set(xscale="log", yscale="log", xlabel="products", ylabel="processor time of a search, median, ms")
    times.legend(frameon=False, fontsize=8)
    builds = [row["build"]["cpu_s"] / row["products"] * 1e3 for row in result["sizes"]]
    memories = [row["bytes_a_product"] / 1024 for row in result["sizes"]]
    sums.plot(sizes, memories, color="#0072B2", marker="o", linewidth=2, label="memory, KiB")
    sums.plot(sizes, builds, color="#D55E00", marker="o", linewidth=2, label="build, ms of a core")
    sums.axhline(BYTES_A_PRODUCT_MAX / 1024, color="#0072B2", linestyle=":", linewidth=0.9)
    sums.annotate("bound: 4 KiB", (sizes[-1], 3.9), fontsize=8, color="#0072B2", ha="right", va="top")
    sums.set(xscale="log", xlabel="products", ylabel="for each product", ylim=(0, None))
    sums.legend(frameon=False, fontsize=8)
    times.yaxis.set_major_formatter("{x:g}")
    for panel in (times, sums):
        panel.set_xticks(sizes, [f"{size // 1000:,}k" if size >= 10_000 else f"{size:,}" for size in sizes])
        panel.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        panel.grid(color="#DDDDDD", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    how = f"vectors drawn around {result['sample']:,}" if result["sample"] else "all vectors encoded"
    figure.suptitle(f"Growth with the catalogue ({result['bundle']}, {how})", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def step(name: str) -> Result:
    """One step, its arguments as JSON on standard input."""
    arguments = json.load(sys.stdin)
    if name == "build":
        return build(arguments["job"], arguments["draw"])
    return measure(
        arguments["bundle"],
        Path(arguments["folder"]),
        arguments["queries"],
        arguments["searches"],
        arguments["seconds"],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0: measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--products", default=SIZES, help=f"sizes, joined by commas (default {SIZES})")
    parser.add_argument("--vectors", choices=("encoded", "drawn"), default="encoded")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="products encoded where vectors are drawn")
    parser.add_argument("--bundle", type=Path, default=None, help="default models/muster-base")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="of a build; 0: one for each core")
    parser.add_argument("--folder", type=Path, default=None, help="of the log and the builds; kept")
    parser.add_argument(
        "--json",
        type=Path,
        default=None,
        help="result file, written after each size; sizes that it holds are kept",
    )
    parser.add_argument("--plot", type=Path, default=None, help="PNG")
    parser.add_argument("--step", choices=("build", "measure"), default=None, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.step:
        print(json.dumps(step(parsed.step)))
        return 0
    try:
        sizes = [int(size) for size in parsed.products.split(",")]
    except ValueError:
        parser.error(f"--products: not numbers joined by commas: {parsed.products!r}")
    if min(sizes) < 1 or parsed.sample < 1:
        parser.error("--products and --sample must be above 0")

    def keep(result: Result) -> None:
        if parsed.json:
            parsed.json.parent.mkdir(parents=True, exist_ok=True)
            parsed.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        if parsed.plot:
            plot(result, parsed.plot)

    earlier = None
    if parsed.json and parsed.json.exists():
        earlier = json.loads(parsed.json.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="muster-growth-") as temporary:
        folder = parsed.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = run(
            sizes,
            bundle=find_bundle(parsed.bundle),
            folder=folder,
            vectors=parsed.vectors,
            sample=parsed.sample,
            seed=parsed.seed,
            threads=parsed.threads,
            earlier=earlier,
            done=keep,
        )
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
