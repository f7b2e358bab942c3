"""Muster as one of the servers: a real replica of a bundle over the whole catalogue, kept between runs.

Encoding the catalogue takes a minute or two, so each bundle has a data folder of its own under the build
folder; a replica that finds its generation there serves within seconds. Whatever does not match is made
again.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from tokenizers import Tokenizer

from benchmarks.peers.process import ServerFailed, memory_mib, send, tree_of
from benchmarks.peers.roster import ROOT
from benchmarks.peers.workload import CANDIDATES, Asked, Workload, cut, measured_queries
from drills.rig.cluster import Cluster, ClusterError, ClusterPlan
from drills.rig.shop import Shop, fill
from muster.bundle import read_bundle
from muster.v1 import ranking_pb2, ranking_pb2_grpc
from training.data.text import product_text

FOLDER = ROOT / ".build" / "peers" / "muster"
SEARCH_S = 5.0


@dataclass(frozen=True)
class Found:
    """One search. stage_ms: encoding the query and retrieving, as the receipt says."""

    product_ids: list[str]
    stage_ms: float


class Replica:
    """One replica of one bundle. Made by `start`; ended by `end`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    @classmethod
    def start(cls, bundle: Path, shop: Shop, note: Callable[[str], None]) -> Replica:
        """Starts it, and loads and builds the catalogue where it is not there yet.

        Raises: ServerFailed.
        """
        bundle_id = read_bundle(bundle).bundle_id
        folder = FOLDER / f"{bundle_id}-{shop.name}"
        plan = ClusterPlan(bundle=bundle, replicas=1, start_s=300.0)
        for _ in range(2):
            cluster = Cluster(plan, folder)
            try:
                cluster.start()
                state = cluster.status(cluster.replicas[0])
                if not state.products:
                    note(f"loading and encoding {shop.expected_products} products for {bundle_id}")
                    fill(cluster, shop.products(), total=shop.expected_products)
                    state = cluster.status(cluster.replicas[0])
                if state.products == shop.expected_products and not state.delta_products:
                    return cls(cluster)
                note(f"{folder} holds another catalogue: it is made again")
            except (ClusterError, grpc.RpcError) as error:
                cluster.close()
                raise ServerFailed(f"Muster did not come up with {bundle_id}: {error}") from error
            except BaseException:
                cluster.close()
                raise
            cluster.close()
            shutil.rmtree(folder)
        raise ServerFailed(f"Muster did not keep all {shop.expected_products} products")

    @property
    def address(self) -> str:
        """host:port of its gRPC service."""
        return self._cluster.replicas[0].address

    @property
    def products(self) -> int:
        """How many it serves."""
        return int(self._cluster.status(self._cluster.replicas[0]).products)

    def version(self) -> str:
        """Of the software, as it says itself."""
        return str(self._cluster.status(self._cluster.replicas[0]).version)

    def memory_mib(self) -> float:
        """Resident memory."""
        return memory_mib(self._cluster.replicas[0].pid)

    def pause(self) -> None:
        """Holds it still, so that it costs the others nothing."""
        send(signal.SIGSTOP, tree_of(self._cluster.replicas[0].pid))

    def resume(self) -> None:
        """Lets it go on. Raises: ServerFailed where it has ended."""
        replica = self._cluster.replicas[0]
        if not replica.running:
            raise ServerFailed(f"Muster ended: {replica.log_tail(3)}")
        send(signal.SIGCONT, tree_of(replica.pid))

    def end(self) -> None:
        """Ends it; its data stays for the next run."""
        send(signal.SIGCONT, tree_of(self._cluster.replicas[0].pid))
        self._cluster.close()

    def workload(self, shop: Shop, student: Path, *, most: int) -> Workload:
        """The first candidates of fused retrieval for each measured query.

        student: its bundle, whose product text and limits the texts follow. Raises: ServerFailed.
        """
        text = read_bundle(student).json("text.json")
        tokenizer = Tokenizer.from_file(str(student / "tokenizer.json"))
        products = {product.product_id: product for product in shop.products()}
        asked = []
        queries = measured_queries(shop.queries, most)
        every = self.candidates([query.text for query in queries], passes=1)
        for query, one in zip(queries, every, strict=True):
            found = one.product_ids
            if len(found) < CANDIDATES:
                continue
            fields, most_tokens = text["product"]["cross_fields"], text["cross_tokens_max"]
            texts = [cut(tokenizer, product_text(products[name], fields), most_tokens) for name in found]
            asked.append(
                Asked(
                    cut(tokenizer, query.text, text["query_tokens_max"]),
                    tuple(found),
                    tuple(texts),
                    dict(query.gains),
                )
            )
        return Workload(shop.name, self.products, all(one.held_back for one in queries), tuple(asked))

    def candidates(self, queries: Sequence[str], *, passes: int) -> list[Found]:
        """The first candidates of fused retrieval for each query, pass after pass.

        A plan that re-ranks no deeper than this page changes their order, not which they are.
        Raises: ServerFailed.
        """
        stub = ranking_pb2_grpc.RankingServiceStub(self._cluster.channel(self._cluster.replicas[0]))
        found = []
        try:
            for query in [*queries] * passes:
                request = ranking_pb2.SearchRequest(query=query, page_size=CANDIDATES)
                answer = stub.Search(request, timeout=SEARCH_S)
                spent_us = answer.receipt.timings.encode_us + answer.receipt.timings.retrieve_us
                found.append(Found([one.product_id for one in answer.results], spent_us / 1000.0))
        except grpc.RpcError as error:
            raise ServerFailed(f"Muster did not search: {error}") from error
        return found
