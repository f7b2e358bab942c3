"""A replica that takes the processor for its GPU: ``python -m tests.server.gpu.fake_gpu``, flags as ever.

Everything but the kernels is what runs on a real one: the switch, the models read from the bundle, the
batches, the fall back. While the file named by ``FAKE_GPU_LOST`` exists, its cross-encoders fail.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import torch

from server import __main__ as front
from server.gpu import cross, index, offload

LOST = "FAKE_GPU_LOST"


class Losable(cross.CrossDevice):
    """Fails while it is told to."""

    def run(self, works: Sequence[cross.Pairs]) -> list[cross.Scores]:
        """As a CUDA error would end it."""
        path = os.environ.get(LOST)
        if path is not None and Path(path).exists():
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nlong advice")
        return super().run(works)


def find_device() -> torch.device:
    """Instead of the first GPU."""
    torch.set_num_threads(1)
    return torch.device("cpu")


def copy_to_gpu(device: int) -> Any:
    """Instead of a copy in the memory of a GPU."""
    return faiss.clone_index


if __name__ == "__main__":
    offload.find_device = find_device
    index.copy_to_gpu = copy_to_gpu
    cross.CrossDevice = Losable  # type: ignore[misc]
    sys.exit(front.main())
