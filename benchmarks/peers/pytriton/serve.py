"""NVIDIA Triton, started by PyTriton, round the student in ONNX Runtime."""

from __future__ import annotations

import logging
import os
import sysconfig
from typing import Any

import numpy as np
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.model_config.common import QueuePolicy, TimeoutAction
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.arguments import arguments
from benchmarks.peers.messages import TRITON_MODEL
from benchmarks.peers.scorer import OnnxScorer

BATCH = 4


def main() -> None:
    """Serve until the process is ended."""
    settings = arguments()
    logging.basicConfig(level=logging.WARNING)
    # Triton's Python back end embeds an interpreter: it must find this one's library before the system's,
    # whose version may differ from the standard library that it then reads.
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    scorer = OnnxScorer(settings.model, threads=settings.threads)

    def infer(requests: list[Any]) -> list[dict[str, np.ndarray]]:
        # All pairs of the batch in one go: pairs of like length of different requests share a call.
        pairs: list[tuple[str, str]] = []
        shapes = []
        for request in requests:
            queries, texts = request["query"], request["texts"]
            shapes.append(texts.shape)
            for query, row in zip(queries, texts, strict=True):
                pairs += [(query[0].decode(), text.decode()) for text in row]
        scores = np.array(scorer.score_pairs(pairs), dtype=np.float32)
        answers, at = [], 0
        for shape in shapes:
            count = int(np.prod(shape))
            answers.append({"scores": scores[at : at + count].reshape(shape)})
            at += count
        return answers

    config = TritonConfig(
        http_address="127.0.0.1",
        grpc_address="127.0.0.1",
        grpc_port=settings.port,
        allow_http=False,
        allow_metrics=False,
        allow_grpc=True,
        log_verbose=0,
    )
    queue = QueuePolicy(
        timeout_action=TimeoutAction.REJECT,
        default_timeout_microseconds=int(settings.deadline_ms * 1000),
        allow_timeout_override=True,
        max_queue_size=max(1, settings.in_flight_max),
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=TRITON_MODEL,
            infer_func=infer,
            inputs=[
                Tensor(name="query", dtype=bytes, shape=(1,)),
                Tensor(name="texts", dtype=bytes, shape=(-1,)),
            ],
            outputs=[Tensor(name="scores", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(
                max_batch_size=BATCH,
                batcher=DynamicBatcher(max_queue_delay_microseconds=0, default_queue_policy=queue),
            ),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main()
