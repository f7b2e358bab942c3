"""The device of the cross-encoders: pairs of several requests and tiers in one batch, each its own scores.

On the processor, in float32; on a GPU, where there is one, in bf16 and recorded.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (the extra `gpu` or `train`)")

from server.gpu.batcher import Batcher  # noqa: E402 (needs torch)
from server.gpu.buckets import Shape  # noqa: E402
from server.gpu.cross import BATCH_PAIRS_MAX, CrossDevice, Pairs, Scores, TierScorer, packed  # noqa: E402
from server.gpu.graph import read_cross  # noqa: E402
from server.gpu.network import Network  # noqa: E402

LONGEST = 32 + 48 + 3
TIERS = ("cross_small", "cross_large")
VOCABULARY = 150
SAME = 2e-5
"""Between float32 sums of a padded batch and of a pair alone."""
BF16 = 0.1
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def device(bundle: Path) -> CrossDevice:
    return made(bundle, torch.device("cpu"))


def made(bundle: Path, on: torch.device) -> CrossDevice:
    return CrossDevice(
        {tier: read_cross(bundle, tier) for tier in TIERS},
        device=on,
        longest=LONGEST,
        dtype=torch.bfloat16 if on.type == "cuda" else torch.float32,
    )


def pairs(device: CrossDevice, tier: str, count: int, seed: int) -> Pairs:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, LONGEST + 1, count)
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    ids = rng.integers(0, VOCABULARY, int(starts[-1])).astype(np.int32)
    seconds = np.array([rng.integers(3, length - 1) for length in lengths], np.int32)
    return Pairs(tier, ids, starts, seconds, device.buckets.count(lengths.tolist()))


def alone(bundle: Path, work: Pairs) -> npt.NDArray[np.float32]:
    """Each pair by itself, unpadded, in float32."""
    network = Network(read_cross(bundle, work.tier), torch.device("cpu"), torch.float32)
    scores = []
    for at, second in enumerate(work.seconds):
        ids = work.ids[work.starts[at] : work.starts[at + 1]].astype(np.int64)[None, :]
        types = (np.arange(ids.shape[1]) >= second).astype(np.int64)[None, :]
        inputs = (ids, np.ones_like(ids), types)
        scores.append(float(network(*(torch.from_numpy(one) for one in inputs))[0]))
    return np.array(scores, np.float32)


def test_each_request_gets_its_own_scores_whoever_shares_the_batch(device: CrossDevice, bundle: Path) -> None:
    works = [
        pairs(device, tier, count, seed)
        for seed, (tier, count) in enumerate([("cross_small", 3), ("cross_large", 150), ("cross_small", 9)])
    ]
    for work, scores in zip(works, device.run(works), strict=True):
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, alone(bundle, work), atol=SAME)


@needs_gpu
def test_on_a_gpu_recorded_shapes_score_as_the_processor_does(bundle: Path) -> None:
    on_gpu = made(bundle, torch.device("cuda", 0))
    for seed, count in enumerate((1, 8, 33, 129, BATCH_PAIRS_MAX)):
        works = [pairs(on_gpu, tier, count, seed) for tier in TIERS]
        for work, scores in zip(works, on_gpu.run(works), strict=True):
            np.testing.assert_allclose(scores, alone(bundle, work), atol=BF16)


def test_time_is_known_for_every_mix_and_grows_with_it(device: CrossDevice) -> None:
    one = pairs(device, "cross_small", 1, 0)
    many = pairs(device, "cross_small", 200, 0)
    other = pairs(device, "cross_large", 20, 0)
    assert 0.0 < device.seconds([one]) < device.seconds([one, many])
    assert device.seconds([many]) < device.seconds([many, other])
    # Two half blocks are one block, not two.
    half = pairs(device, "cross_small", 4, 0)
    assert device.seconds([half, half]) <= 2 * device.seconds([half])


def test_ids_without_a_word_are_refused_before_they_reach_the_device(device: CrossDevice) -> None:
    work = pairs(device, "cross_small", 2, 0)
    for wrong in (-1, 10**6):
        ids = work.ids.copy()
        ids[1] = wrong
        with pytest.raises(ValueError, match="a token id outside the"):
            device.run([Pairs(work.tier, ids, work.starts, work.seconds, work.counts)])


def test_packing_ends_each_pair_where_it_ends() -> None:
    ids = np.arange(10, 19, dtype=np.int32)
    starts, lengths, seconds = (np.array(one, np.int32) for one in ([4, 0], [5, 4], [3, 2]))
    found = packed(ids, starts, lengths, seconds, Shape(3, 6))
    assert found[0].tolist() == [[14, 15, 16, 17, 18, 0], [10, 11, 12, 13, 0, 0], [0] * 6]
    assert found[1].tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]]
    assert found[2].tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 0, 0], [0] * 6]


def test_a_scorer_turns_microseconds_into_a_deadline_on_the_batchers_clock(device: CrossDevice) -> None:
    batcher: Batcher[Pairs, Scores] = Batcher(device, items_max=BATCH_PAIRS_MAX, clock=time.monotonic)
    scorer = TierScorer("cross_small", device.buckets, batcher)
    work = pairs(device, "cross_small", 5, 1)
    unhurried = scorer(work.ids, work.starts, work.seconds, None)
    assert unhurried is not None
    np.testing.assert_allclose(scorer(work.ids, work.starts, work.seconds, 60_000_000), unhurried, atol=SAME)
    assert scorer(work.ids, work.starts, work.seconds, 0) is None
    batcher.close()
