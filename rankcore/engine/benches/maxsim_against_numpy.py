"""Question: how much faster is late interaction than numpy in f32, on one thread?

Data: 16 query tokens against 1,000 products of 48 tokens, 64 dimensions, random unit vectors. Numpy gets the
best of three ways to write it. Both sides are timed in turns by the CPU time of the thread, so that a busy
machine disturbs the ratio little. Excluded on both sides: laying out the products, which an index does once.
Run: `OMP_NUM_THREADS=1 python rankcore/engine/benches/maxsim_against_numpy.py` (one thread for numpy, too).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

import rankcore

QUERY_TOKENS, PRODUCTS, PRODUCT_TOKENS, DIMENSION = 16, 1000, 48, 64
ROUNDS = 200

Floats = npt.NDArray[np.float32]


def unit(shape: tuple[int, ...], random: np.random.Generator) -> Floats:
    """Random unit vectors along the last axis."""
    values = random.standard_normal(shape).astype(np.float32)
    values /= np.linalg.norm(values, axis=-1, keepdims=True)
    return values


def main() -> None:
    """Print medians, minima and their ratios."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        raise SystemExit("run with OMP_NUM_THREADS=1: CPU time of one thread is what is compared")
    random = np.random.default_rng(0)
    query = unit((QUERY_TOKENS, DIMENSION), random)
    products = unit((PRODUCTS, PRODUCT_TOKENS, DIMENSION), random)
    flat = products.reshape(-1, DIMENSION)
    packed = rankcore.PackedTokens(list(products))
    ways: dict[str, Callable[[], Floats]] = {
        "numpy, query first": lambda: (
            (query @ flat.T).reshape(QUERY_TOKENS, PRODUCTS, PRODUCT_TOKENS).max(axis=2).mean(axis=0)
        ),
        "numpy, products first": lambda: (
            (flat @ query.T).reshape(PRODUCTS, PRODUCT_TOKENS, QUERY_TOKENS).max(axis=1).mean(axis=1)
        ),
        "numpy, product by product": lambda: np.matmul(products, query.T).max(axis=1).mean(axis=1),
        f"rankcore, {rankcore.maxsim_kernel()}": lambda: rankcore.maxsim(query, packed),
    }
    expected, got = ways["numpy, query first"](), rankcore.maxsim(query, packed)
    print(f"largest difference of a score {np.abs(expected - got).max():.4f}")
    times_ms: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, run in ways.items():
            start = time.thread_time_ns()
            run()
            times_ms[name].append((time.thread_time_ns() - start) / 1e6)
    for name, times in times_ms.items():
        print(f"{name:28} median {np.median(times):.3f} ms, least {min(times):.3f} ms")
    *theirs, ours = times_ms.values()
    median = min(float(np.median(times)) for times in theirs) / float(np.median(ours))
    least = min(min(times) for times in theirs) / min(ours)
    print(f"ratio to the fastest numpy: medians {median:.1f}, least {least:.1f}")


if __name__ == "__main__":
    main()
