"""The cross-encoders of a bundle on one device: pairs of many requests in, scores out.

On a GPU each shape (``server.gpu.buckets``) is recorded once as a CUDA graph and replayed after, so that a
batch costs three copies in, one launch for each block, one copy out. On the processor, which is for tests,
the same network runs as it is.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from server.gpu.batcher import Batcher
from server.gpu.buckets import ROWS, Buckets, Shape
from server.gpu.graph import Graph
from server.gpu.network import Moved, Network

Ids = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float32]

# Parts of torch that have no types.
_CUDA: Any = torch.cuda

# A batch is full with so many pairs: two blocks of the largest shape.
BATCH_PAIRS_MAX = 256
_MEASURED_RUNS = 5


@dataclass(frozen=True)
class Pairs:
    """Pairs of one request for one tier.

    ids: int32 [n], all pairs one after the other. starts: int32 [pairs + 1]. seconds: int32 [pairs], tokens
    of each before the product's segment. counts: pairs by length bucket.
    """

    tier: str
    ids: Ids
    starts: Ids
    seconds: Ids
    counts: tuple[int, ...]


class _Recorded:
    """A network on a GPU for one shape."""

    def __init__(self, network: Network, shape: Shape, stream: Any, pool: Any) -> None:
        size = (shape.rows, shape.length)
        self._inputs = [torch.zeros(size, dtype=torch.int64, device=network.device) for _ in range(3)]
        # Not a row of nothing: with no token at all the means of the tail would divide by zero.
        self._inputs[1][:, 0] = 1
        self._moved: Moved = {}
        stream.wait_stream(torch.cuda.current_stream(network.device))
        with torch.cuda.stream(stream):
            # Kernels are chosen, and host values copied, in runs that are not recorded.
            for _ in range(3):
                network(*self._inputs, self._moved)
        stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._scores = network(*self._inputs, self._moved)

    def enqueue(self, inputs: Sequence[torch.Tensor], into: torch.Tensor) -> None:
        """Copy the inputs in, replay, copy the scores out; on the current stream, without waiting for it."""
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)
        self._graph.replay()
        into.copy_(self._scores, non_blocking=True)


class CrossDevice:
    """Networks of the tiers on one device, as a ``server.gpu.batcher.Device`` of Pairs.

    graphs: by tier. longest: tokens of the longest possible pair. dtype: of products with weights.
    Raises: UnreadableModel; what torch raises where memory is short.
    """

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        *,
        device: torch.device,
        longest: int,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.buckets = Buckets.up_to(longest)
        self._device = device
        self._lock = threading.Lock()
        self._networks = {tier: Network(graph, device, dtype).eval() for tier, graph in graphs.items()}
        self._vocabulary = {tier: graph.vocabulary() for tier, graph in graphs.items()}
        self._recorded: dict[tuple[str, Shape], _Recorded] = {}
        self._cuda = device.type == "cuda"
        if self._cuda:
            self._stream: Any = _CUDA.Stream(device)
            pool = torch.cuda.graph_pool_handle()
            # The largest first, so that the smaller ones find room in the memory that it took.
            for tier, network in self._networks.items():
                for shape in sorted(self.buckets.shapes(), key=lambda one: -one.rows * one.length):
                    self._recorded[tier, shape] = _Recorded(network, shape, self._stream, pool)
        self._seconds = {
            (tier, shape): self._measure(tier, shape)
            for tier in self._networks
            for shape in self.buckets.shapes()
            # On the processor measuring all of them would take long; it is asked by the smallest ones.
            if self._cuda or shape.rows == ROWS[0]
        }

    def seconds(self, works: Sequence[Pairs]) -> float:
        """How long a batch of these takes on the idle device, by the shapes it is made of."""
        total = 0.0
        for tier in {work.tier for work in works}:
            counts = [
                sum(column) for column in zip(*(w.counts for w in works if w.tier == tier), strict=True)
            ]
            total += sum(self._shape_seconds(tier, shape) for shape, _ in self.buckets.blocks(counts))
        return total

    def run(self, works: Sequence[Pairs]) -> list[Scores]:
        """Scores of each work's pairs, float32 [pairs]. Raises: ValueError for ids outside the vocabulary."""
        scores: list[Scores] = [np.empty(0, np.float32)] * len(works)
        for tier in sorted({work.tier for work in works}):
            places = [place for place, work in enumerate(works) if work.tier == tier]
            found = self._run_tier(tier, [works[place] for place in places])
            for place, one in zip(places, found, strict=True):
                scores[place] = one
        return scores

    def _shape_seconds(self, tier: str, shape: Shape) -> float:
        measured = self._seconds.get((tier, shape))
        if measured is None:
            measured = self._seconds[tier, Shape(ROWS[0], shape.length)] * shape.rows / ROWS[0]
        return measured

    def _run_tier(self, tier: str, works: Sequence[Pairs]) -> list[Scores]:
        ids = np.concatenate([work.ids for work in works])
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self._vocabulary[tier]:
            # On a GPU it would be read past the table's end, and the device lost to the whole process.
            raise ValueError(f"a token id outside the {self._vocabulary[tier]} that {tier} knows")
        lengths = np.concatenate([np.diff(work.starts) for work in works])
        offsets = np.cumsum([0, *(work.ids.size for work in works)])
        starts = np.concatenate(
            [work.starts[:-1] + offset for work, offset in zip(works, offsets[:-1], strict=True)]
        )
        seconds = np.concatenate([work.seconds for work in works])
        order = np.argsort(-lengths, kind="stable")
        counts = [sum(column) for column in zip(*(work.counts for work in works), strict=True)]
        scores = np.empty(lengths.size, np.float32)
        blocks = []
        begin = 0
        for shape, pairs in self.buckets.blocks(counts):
            members = order[begin : begin + pairs]
            begin += pairs
            blocks.append(
                (shape, members, packed(ids, starts[members], lengths[members], seconds[members], shape))
            )
        for members, found in self._run_blocks(tier, blocks):
            scores[members] = found
        return np.split(scores, np.cumsum([work.seconds.size for work in works])[:-1])

    def _run_blocks(
        self, tier: str, blocks: Sequence[tuple[Shape, npt.NDArray[np.intp], list[npt.NDArray[np.int64]]]]
    ) -> list[tuple[npt.NDArray[np.intp], Scores]]:
        if not self._cuda:
            network = self._networks[tier]
            return [
                (members, network(*(torch.from_numpy(one) for one in arrays))[: members.size].numpy())
                for _, members, arrays in blocks
            ]
        # Put together outside the lock: the device may still be busy with the batch before.
        staged = [
            (
                shape,
                members,
                [torch.from_numpy(one).pin_memory() for one in arrays],
                torch.empty(shape.rows, dtype=torch.float32, pin_memory=True),
            )
            for shape, members, arrays in blocks
        ]
        with self._lock, torch.cuda.stream(self._stream):
            for shape, _, inputs, into in staged:
                self._recorded[tier, shape].enqueue(inputs, into)
            done = _CUDA.Event()
            done.record(self._stream)
        done.synchronize()
        return [(members, into.numpy()[: members.size]) for _, members, _, into in staged]

    def _measure(self, tier: str, shape: Shape) -> float:
        """Median seconds of a block of this shape, copies included."""
        arrays = [np.zeros((shape.rows, shape.length), np.int64) for _ in range(3)]
        arrays[1][:, 0] = 1
        members = np.arange(shape.rows)
        took = []
        for _ in range(_MEASURED_RUNS if self._cuda else 1):
            began = time.perf_counter()
            self._run_blocks(tier, [(shape, members, arrays)])
            took.append(time.perf_counter() - began)
        return median(took)


def packed(ids: Ids, starts: Ids, lengths: Ids, seconds: Ids, shape: Shape) -> list[npt.NDArray[np.int64]]:
    """Ids, mask and types of some pairs, each int64 [shape.rows, shape.length]; 0 behind a pair's end.

    Rows without a pair have one token, so that no mean divides by zero; what they score is of no use.
    """
    places = np.arange(shape.length)[None, :]
    known = places < lengths[:, None]
    from_ids = np.minimum(starts[:, None] + places, ids.size - 1)
    arrays = [np.zeros((shape.rows, shape.length), np.int64) for _ in range(3)]
    pairs = starts.size
    arrays[0][:pairs] = np.where(known, ids[from_ids], 0)
    arrays[1][:pairs] = known
    arrays[1][pairs:, 0] = 1
    arrays[2][:pairs] = known & (places >= seconds[:, None])
    return arrays


class TierScorer:
    """One tier's part of a batcher, as a ``rankcore.PairScorer``."""

    def __init__(
        self,
        tier: str,
        buckets: Buckets,
        batcher: Batcher[Pairs, Scores],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tier = tier
        self._buckets = buckets
        self._batcher = batcher
        self._clock = clock

    def __call__(self, ids: Ids, starts: Ids, seconds: Ids, within_us: int | None) -> Scores | None:
        """Wait for the scores; None: they would have come too late.

        Raises: Closed, Stalled, what the device raised; ValueError for pairs longer than expected.
        """
        deadline_s = math.inf if within_us is None else self._clock() + within_us / 1e6
        counts = self._buckets.count(np.diff(starts).tolist())
        return self._batcher.run(Pairs(self._tier, ids, starts, seconds, counts), seconds.size, deadline_s)
