"""What a drill sells: a catalogue and queries for it, real where the data is at hand, else synthetic.

Real means the ESCI and Chorus products and queries in one catalogue (WANDS where neither is there), found in
the folder that MUSTER_DATA names, or in `data/` where `muster data get` puts them. Nothing is downloaded
here.
"""

from __future__ import annotations

import itertools
import math
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from drills.rig.cluster import ROOT, Cluster, ClusterError
from muster.products import product_file, read_judgements, read_products, rows_expected
from muster.products.errors import ProductError
from muster.products.synthetic import SyntheticCatalogue
from muster.v1 import admin_pb2, admin_pb2_grpc, catalogue_pb2, catalogue_pb2_grpc, ranking_pb2

REAL_SETS = (("esci", "chorus"), ("wands",))
"""Taken together where present; a later group only where nothing of the earlier one is."""

PRODUCTS_MAX = 30_000
"""A drill loads and encodes its catalogue each time; of a larger file it takes the first products only."""

DEFAULT_SYNTHETIC = 5000
BATCH = 500
BUILD_TIMEOUT_S = 900.0
SAMPLE = 400
BUILD_OVERHEAD_S = 2.0
"""Of a build, whatever its size: starting a process, opening the models, writing and opening the files."""


@dataclass(frozen=True)
class Query:
    """A query and what is known about its answers.

    gains: product id to gain, >= 0; empty: not judged. origin: the set it comes from. held_back: no model was
    trained on it.
    """

    text: str
    origin: str
    gains: Mapping[str, float] = field(default_factory=dict)
    held_back: bool = False

    def relevant(self) -> set[str]:
        """Ids of the products with a positive gain."""
        return {name for name, gain in self.gains.items() if gain > 0}


def ndcg_at_10(ranked: Sequence[str], gains: Mapping[str, float]) -> float | None:
    """nDCG of the first ten, linear gain, unjudged products count 0; None where nothing is relevant.

    For answers of a service under way; a bundle's own figures come from `muster evaluate`.
    """
    ideal = sum(
        gain / math.log2(rank + 2) for rank, gain in enumerate(sorted(gains.values(), reverse=True)[:10])
    )
    if ideal <= 0:
        return None
    return sum(gains.get(name, 0.0) / math.log2(rank + 2) for rank, name in enumerate(ranked[:10])) / ideal


@dataclass(frozen=True)
class Shop:
    """A catalogue with its queries.

    name: of the real sets, such as "esci+chorus", or "synthetic" (of expected_products products, for a seed).
    note: a sentence on where it comes from and how to get the other.
    """

    name: str
    note: str
    sources: tuple[Path, ...]
    queries: tuple[Query, ...]
    expected_products: int
    seed: int = 0

    def products(self) -> Iterator[catalogue_pb2.Product]:
        """The products, in a fixed order; at most PRODUCTS_MAX of real ones."""
        if self.sources:
            every = itertools.chain.from_iterable(read_products(source) for source in self.sources)
            yield from itertools.islice(every, PRODUCTS_MAX)
        else:
            yield from SyntheticCatalogue(self.expected_products, self.seed).products()

    def judged_first(self) -> list[catalogue_pb2.Product]:
        """The products, those that the queries' labels name first, so that a part of the catalogue is a fair
        one."""
        judged = dict.fromkeys(name for query in self.queries for name in query.gains)
        place = {name: number for number, name in enumerate(judged)}
        # Sorting is stable: the rest keeps its order.
        return sorted(self.products(), key=lambda product: place.get(product.product_id, len(place)))


def real_sources() -> tuple[Path, ...]:
    """The folders of the real sets that are at hand; none where nothing is."""
    folders = [Path(os.environ["MUSTER_DATA"])] if os.environ.get("MUSTER_DATA") else []
    folders += [Path.cwd() / "data", ROOT / "data"]
    for folder in folders:
        for group in REAL_SETS:
            found = tuple((folder / name).resolve() for name in group if _has_products(folder / name))
            if found:
                return found
    return ()


def _has_products(folder: Path) -> bool:
    try:
        product_file(folder)
    except ProductError:
        return False
    return True


def real_shop(sources: Sequence[Path]) -> Shop:
    """The sets in these folders as one catalogue; queries of the dev splits first, then the others.

    Raises: ProductError where a file is damaged.
    """
    judged = {source: read_judgements(source, None) for source in sources}
    held_back = {source: _of_dev(source) for source in sources}
    queries = [
        Query(text, source.name, judged[source].gains[key], held_back=wanted)
        for wanted in (True, False)
        for source in sources
        for key, text in judged[source].queries.items()
        if (key in held_back[source]) is wanted
    ]
    rows = sum(rows_expected(source) or 0 for source in sources)
    where = ", ".join(str(source) for source in sources)
    cut = f" (the first {PRODUCTS_MAX} of {rows})" if rows > PRODUCTS_MAX else ""
    return Shop(
        name="+".join(source.name for source in sources),
        note=f"real products from {where}{cut}; without these folders a synthetic catalogue is taken",
        sources=tuple(sources),
        queries=tuple(queries),
        expected_products=min(rows, PRODUCTS_MAX),
    )


def _of_dev(source: Path) -> set[str]:
    """Ids of the queries that no model was trained on; empty where the set has no such split."""
    try:
        return set(read_judgements(source, "dev").queries)
    except ProductError:
        return set()


def synthetic_shop(products: int, seed: int, *, queries: int = 200) -> Shop:
    """A synthetic catalogue with queries whose relevance is known by construction."""
    catalogue = SyntheticCatalogue(products, seed)
    asked = catalogue.queries(queries)
    gains = catalogue.judgements(asked).gains
    return Shop(
        name="synthetic",
        note=(
            f"a synthetic catalogue of {products} products; for real ones run 'muster data get esci', "
            "or let MUSTER_DATA name a folder that holds esci/ or chorus/"
        ),
        sources=(),
        queries=tuple(Query(query.text, "synthetic", gains[query.query_id]) for query in asked),
        expected_products=products,
        seed=seed,
    )


def choose_shop(products: int | None, seed: int) -> Shop:
    """The real shop where its data is at hand and no size is asked for, else a synthetic one."""
    sources = real_sources() if products is None else ()
    return real_shop(sources) if sources else synthetic_shop(products or DEFAULT_SYNTHETIC, seed)


def search_requests(queries: Sequence[Query], *, page_size: int = 10) -> list[bytes]:
    """The queries as serialised SearchRequests, ready to be sent again and again."""
    return requests_for([query.text for query in queries], page_size=page_size)


def requests_for(texts: Sequence[str], *, page_size: int = 0) -> list[bytes]:
    """Texts as `search_requests`; page_size 0: as many results as the service gives unasked."""
    return [ranking_pb2.SearchRequest(query=text, page_size=page_size).SerializeToString() for text in texts]


@dataclass(frozen=True)
class Loaded:
    """How many products were loaded, and how many there were to load."""

    products: int
    offered: int


def fill(
    cluster: Cluster,
    products: Iterable[catalogue_pb2.Product],
    *,
    total: int,
    progress: bool = True,
    within_s: float | None = None,
) -> Loaded:
    """Loads products through the primary and waits until every running replica serves them from one
    generation.

    total: how many are expected, for the bar. progress: bars on standard error. within_s: load only the first
    that this machine can encode in about this time, told from a first part; None: all. Raises: ClusterError
    on time-out, grpc.RpcError where the service refuses a batch.
    """
    stub = catalogue_pb2_grpc.CatalogueServiceStub(cluster.channel(cluster.primary()))
    name = uuid.uuid4().hex[:8]
    loaded, sequence = 0, 0
    source = iter(products)
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bars:

        def load(most: int | None) -> None:
            nonlocal loaded, sequence
            wanted = total if most is None else min(total, loaded + most)
            task = bars.add_task("loading products", completed=loaded, total=wanted)
            for batch in _batches(itertools.islice(source, most), BATCH):
                events = [
                    catalogue_pb2.Event(event_id=f"fill-{name}-{loaded + number}", upsert=product)
                    for number, product in enumerate(batch)
                ]
                sequence = stub.Apply(catalogue_pb2.ApplyRequest(events=events), timeout=60.0).sequence
                loaded += len(batch)
                bars.update(task, completed=loaded)
            bars.update(task, total=loaded)

        def built(what: str) -> float:
            task = bars.add_task(what, total=None)
            began_s = time.monotonic()
            build(cluster, sequence)
            bars.update(task, total=loaded, completed=loaded)
            return time.monotonic() - began_s

        most: int | None = None
        if within_s is not None and total > SAMPLE:
            load(SAMPLE)
            sample_s = max(0.5, built("encoding a first part") - BUILD_OVERHEAD_S)
            most = max(0, int(SAMPLE / sample_s * within_s))
        load(most)
        built("building the generation")
    return Loaded(loaded, max(total, loaded))


def build(cluster: Cluster, sequence: int) -> None:
    """Asks for a generation and waits until every running replica serves everything up to `sequence` from it.

    A build that began before the last product was written leaves some outside, so it is asked for until none
    is.
    Raises: ClusterError on time-out.
    """
    primary = cluster.primary()
    stub = admin_pb2_grpc.AdminServiceStub(cluster.channel(primary))
    cluster.wait_caught_up(sequence, BUILD_TIMEOUT_S)
    end_s = time.monotonic() + BUILD_TIMEOUT_S
    while True:
        state = cluster.status(primary)
        if state.delta_products and not state.building:
            stub.Rebuild(admin_pb2.RebuildRequest(), timeout=10.0)
        try:
            cluster.wait_caught_up(sequence, 5.0, built=True)
        except ClusterError:
            if time.monotonic() >= end_s:
                raise
            continue
        return


def _batches(products: Iterable[catalogue_pb2.Product], size: int) -> Iterator[list[catalogue_pb2.Product]]:
    batch: list[catalogue_pb2.Product] = []
    for product in products:
        batch.append(product)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
