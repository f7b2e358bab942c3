"""Load for a running service, open loop: `muster load --rate 500 --deadline 50ms --duration 30s`.

The moment of every request is fixed beforehand, and its time counts from there, so a service that stalls
cannot hide what callers would have waited (coordinated omission). No retry, no hedging: what is offered is
what is sent. A generator that cannot keep to its schedule says so, and the outcome is then inconclusive.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdrh.histogram import HdrHistogram

from drills.experiment import Verdict
from drills.outcome import USAGE_EXIT_CODE, positive, share_below_one
from drills.rig.arrivals import bursty_arrivals, day_arrivals
from drills.rig.load import (
    LATE_AFTER_S,
    OK,
    RECOMMENDATION,
    OpenLoop,
    Sample,
    SearchFlood,
    Stream,
    decode,
    even_arrivals,
    lateness,
    poisson_arrivals,
)
from drills.rig.recommended import flood_of, products_found
from drills.rig.shop import choose_shop, requests_for
from muster.client.settings import parse_endpoints
from muster.durations import parse_duration_ms

ARRIVALS = ("poisson", "even", "bursts", "day")
LATE_SHARE_MAX = 0.01
"""Of more requests sent late than this the generator is the bottleneck."""
QUERIES_MAX = 100_000
QUERY_CHARACTERS_MAX = 512
EXIT_UNAVAILABLE = 3
_PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
_MICROSECONDS_MAX = 3_600_000_000


class LoadError(Exception):
    """What was asked for cannot be offered; the text says why."""


@dataclass(frozen=True)
class Wish:
    """targets: host:port, each with one connection, in turn. zipf: exponent of the popularity of queries in
    the order given; 0: all alike. deadline_ms: counts from the intended moment. recommend_share: of all
    calls, for histories of products that the queries find.
    """

    targets: Sequence[str]
    queries: Sequence[str]
    rate_per_s: float
    duration_s: float
    deadline_ms: float
    arrivals: str = "poisson"
    zipf: float = 0.0
    seed: int = 1
    recommend_share: float = 0.0


def arrivals_of(wish: Wish) -> Iterator[float]:
    """The moments, seconds from 0. A day is squeezed into the duration."""
    if wish.arrivals == "even":
        return even_arrivals(wish.rate_per_s)
    if wish.arrivals == "bursts":
        return bursty_arrivals(wish.rate_per_s, wish.seed)
    if wish.arrivals == "day":
        return day_arrivals(wish.rate_per_s, wish.duration_s, wish.seed)
    return poisson_arrivals(wish.rate_per_s, wish.seed)


def dealt(arrivals: Iterator[float], wish: Wish) -> tuple[list[float], list[float]]:
    """The moments of searches and of recommendations, each drawn by its share, up to the end of the load."""
    draw = random.Random(wish.seed + 1)
    searches: list[float] = []
    recommendations: list[float] = []
    for moment_s in itertools.takewhile(lambda moment_s: moment_s < wish.duration_s, arrivals):
        (recommendations if draw.random() < wish.recommend_share else searches).append(moment_s)
    return searches, recommendations


def drawn_requests(wish: Wish, count: int) -> list[bytes]:
    """So many searches, serialised, drawn by their popularity."""
    searches = requests_for(wish.queries)
    weights = [(place + 1) ** -wish.zipf for place in range(len(searches))]
    draw = random.Random(wish.seed)
    return draw.choices(searches, cum_weights=list(itertools.accumulate(weights)), k=count)


def offer(wish: Wish) -> list[Sample]:
    """Offers the load and waits for its end. Raises: OSError, TimeoutError where a target does not answer."""
    # As many as will be sent on average; more are taken from the beginning again.
    requests = drawn_requests(wish, min(200_000, max(1, int(wish.rate_per_s * wish.duration_s * 1.1))))
    flood = SearchFlood(wish.targets, requests, deadline_ms=wish.deadline_ms)
    streams = [Stream("read", arrivals_of(wish), flood)]
    if wish.recommend_share:
        searches, recommendations = dealt(arrivals_of(wish), wish)
        known = products_found(wish.targets, wish.queries)
        streams = [
            Stream("read", iter(searches), flood),
            Stream(
                RECOMMENDATION,
                iter(recommendations),
                flood_of(wish.targets, known, wish.seed, wish.deadline_ms),
            ),
        ]
    loop = OpenLoop(
        streams,
        duration_s=wish.duration_s,
        drain_s=wish.deadline_ms / 1000.0 + 1.0,
    )
    loop.start()
    samples = loop.join()
    decode(samples)
    return samples


def figures(samples: Sequence[Sample], deadline_ms: float) -> tuple[dict[str, Any], HdrHistogram]:
    """What was seen of the searches, and the times of their answers in microseconds from the intended moment;
    what was seen of recommendations, where there were any, under `recommendations`.
    """
    told, histogram = _figures([one for one in samples if one.kind != RECOMMENDATION], deadline_ms)
    beside = [one for one in samples if one.kind == RECOMMENDATION]
    if beside:
        told["recommendations"] = _figures(beside, deadline_ms)[0]
        if not any(one.fields.get("expected_ndcg") for one in beside):
            # No receipt tells what its tier is worth.
            told["recommendations"]["quality_in_time"] = None
    return told, histogram


def _figures(samples: Sequence[Sample], deadline_ms: float) -> tuple[dict[str, Any], HdrHistogram]:
    histogram = HdrHistogram(1, _MICROSECONDS_MAX, 3)
    in_time = 0
    worth = 0.0
    tiers: Counter[str] = Counter()
    for sample in samples:
        if sample.status != OK:
            continue
        histogram.record_value(max(1, int(sample.latency_s * 1e6)))
        if sample.latency_s * 1000.0 <= deadline_ms:
            in_time += 1
            worth += float(sample.fields["expected_ndcg"])
            tiers[str(sample.fields["tier"])] += 1
    offered = len(samples)
    late = lateness(samples)
    answered = histogram.get_total_count()
    told = {
        "offered": offered,
        "answered": answered,
        "in_time": in_time,
        "in_time_share": round(in_time / offered, 4) if offered else None,
        "quality_in_time": round(worth / offered, 4) if offered else None,
        "latency_ms": {
            f"p{share:g}": round(histogram.get_value_at_percentile(share) / 1000.0, 3) if answered else None
            for share in _PERCENTILES
        }
        | {"max": round(histogram.get_max_value() / 1000.0, 3) if answered else None},
        "statuses": dict(Counter(sample.status for sample in samples).most_common()),
        "tiers": dict(tiers.most_common()),
        "sent_late_share": round(late.late_share, 4),
        "sent_late_worst_ms": round(late.worst_s * 1000.0, 1),
    }
    return told, histogram


def read_queries(path: Path) -> list[str]:
    """One query a line, the most popular first; empty lines are left out. Raises: LoadError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} cannot be read as queries, one a line: {error}") from error
    queries = []
    for number, line in enumerate(lines, 1):
        query = line.strip()
        if len(query) > QUERY_CHARACTERS_MAX:
            raise LoadError(f"{path}, line {number}: a query has at most {QUERY_CHARACTERS_MAX} characters")
        if query:
            queries.append(query)
    if not queries:
        raise LoadError(f"{path} holds no query")
    if len(queries) > QUERIES_MAX:
        raise LoadError(f"{path} holds {len(queries):,} queries, at most {QUERIES_MAX:,} are taken")
    return queries


def table(told: dict[str, Any], verdict: Verdict, reason: str) -> str:
    """The figures for people."""
    lines = [
        f"offered            {told['offered']:,}",
        f"answered in time   {told['in_time']:,}"
        + ("" if told["in_time_share"] is None else f" ({100 * told['in_time_share']:.2f} %)"),
        f"quality in time    {told['quality_in_time']}",
    ]
    lines += [
        f"{name:18} {'-' if value is None else f'{value:,.2f} ms'}"
        for name, value in told["latency_ms"].items()
    ]
    for name, counts in (("statuses", told["statuses"]), ("tiers in time", told["tiers"])):
        lines.append(f"{name:18} " + (", ".join(f"{key} {count:,}" for key, count in counts.items()) or "-"))
    if "recommendations" in told:
        lines += ["", "recommendations", table(told["recommendations"], Verdict.HELD, "")]
    if verdict is not Verdict.HELD:
        lines.append(f"{verdict}: {reason}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Exit code 0: measured; 20: the generator was the bottleneck; 3: no service; 2: bad usage."""
    options = argparse.ArgumentParser(prog="muster load", description="Offers load to a running service.")
    options.add_argument("--target", default="127.0.0.1:50051", help="host:port, several joined by commas")
    options.add_argument("--rate", type=positive(float), required=True, help="requests a second, on average")
    options.add_argument("--duration", default="30s", metavar="DURATION", help="such as 30s or 2m")
    options.add_argument("--deadline", default="50ms", metavar="DURATION", help="of every request")
    options.add_argument("--arrivals", choices=ARRIVALS, default="poisson")
    options.add_argument(
        "--queries",
        type=Path,
        metavar="FILE",
        help="one a line, the most popular first (default: the shop's)",
    )
    options.add_argument(
        "--zipf", type=float, default=0.0, metavar="S", help="popularity by rank to the -S; 0: all alike"
    )
    options.add_argument(
        "--recommend-share",
        type=share_below_one,
        default=0.0,
        metavar="SHARE",
        help="of all calls that ask for recommendations, from 0, below 1",
    )
    options.add_argument("--seed", type=int, default=1)
    options.add_argument(
        "--histogram", type=Path, metavar="FILE", help="all percentiles, as HDR histograms print"
    )
    options.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    given = options.parse_args(list(arguments))
    try:
        wish = wish_of(given)
    except (LoadError, ValueError) as error:
        print(f"muster load: {error}", file=sys.stderr)
        return USAGE_EXIT_CODE
    try:
        samples = offer(wish)
    except (OSError, TimeoutError) as error:
        print(
            f"muster load: {given.target} does not answer ({error}); is it running? `muster status` looks",
            file=sys.stderr,
        )
        return EXIT_UNAVAILABLE
    told, histogram = figures(samples, wish.deadline_ms)
    verdict, reason = judged(told)
    if given.histogram is not None:
        with given.histogram.open("wb") as file:
            histogram.output_percentile_distribution(file, 1000.0)
    if given.json:
        print(json.dumps({"verdict": "measured" if verdict is Verdict.HELD else str(verdict), **told}))
    else:
        print(table(told, verdict, reason))
    return verdict.exit_code


def wish_of(given: argparse.Namespace) -> Wish:
    """What was asked for. Raises: LoadError, ValueError."""
    if not 0 <= given.zipf <= 10:
        raise LoadError("--zipf takes 0 to 10")
    queries = (
        [query.text for query in choose_shop(None, given.seed).queries]
        if given.queries is None
        else read_queries(given.queries)
    )
    return Wish(
        parse_endpoints(given.target),
        queries,
        given.rate,
        parse_duration_ms(given.duration) / 1000.0,
        parse_duration_ms(given.deadline),
        given.arrivals,
        given.zipf,
        given.seed,
        given.recommend_share,
    )


def judged(told: dict[str, Any]) -> tuple[Verdict, str]:
    """Whether the figures are the service's, not the generator's."""
    if told.get("recommendations", {}).get("sent_late_share", 0.0) > LATE_SHARE_MAX:
        return judged(told["recommendations"])
    if told["sent_late_share"] > LATE_SHARE_MAX:
        share, limit_ms = 100 * told["sent_late_share"], LATE_AFTER_S * 1000
        return (
            Verdict.INCONCLUSIVE,
            f"the generator was the bottleneck: {share:.1f} % of the requests left more than {limit_ms:.0f}"
            f" ms late, the worst {told['sent_late_worst_ms']:.0f} ms; give it a core of its own, or a lower"
            " --rate",
        )
    return Verdict.HELD, ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
