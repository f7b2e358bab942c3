"""One finder in its own interpreter: build, then passes over all queries.

`python -m benchmarks.peers.retrieval.run --finder NAME --corpus DIR --out FILE` reads what
`compare.write_corpus` wrote, and writes {"build_s", "latencies_ms", "lists"}; lists: for each query the
places of its candidates.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--finder", required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--passes", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parsed = parser.parse_args()
    texts = json.loads((parsed.corpus / "texts.json").read_text(encoding="utf-8"))
    queries = json.loads((parsed.corpus / "queries.json").read_text(encoding="utf-8"))
    vectors = np.load(parsed.corpus / "vectors.npy")
    asked = np.load(parsed.corpus / "query_vectors.npy")
    module = importlib.import_module(f"benchmarks.peers.retrieval.{parsed.finder}.find")
    folder = Path(tempfile.mkdtemp(prefix="finder-", dir=parsed.out.parent))
    try:
        began_s = time.perf_counter()
        finder = module.Finder(texts, vectors, folder, parsed.threads)
        build_s = time.perf_counter() - began_s
        lists = []
        latencies_ms = []
        # The first pass warms up and gives the lists.
        for number in range(parsed.passes + 1):
            for query, vector in zip(queries, asked, strict=True):
                began_s = time.perf_counter()
                found = finder.find(query, vector, parsed.count)
                spent_ms = (time.perf_counter() - began_s) * 1000.0
                if number == 0:
                    lists.append([int(place) for place in found])
                else:
                    latencies_ms.append(round(spent_ms, 4))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = {"build_s": round(build_s, 2), "latencies_ms": latencies_ms, "lists": lists}
    parsed.out.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
