"""Messages with bytes changed, to a server that answers some and breaks over others."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from drills.experiment import Judgement, Verdict
from drills.journal import History, Record
from drills.judges.hostile import judge_mutated
from drills.rig.mutated import mutation, send_mutated


def some(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Answers a request of an odd length, and breaks over others."""
    if len(request) % 2:
        return b""
    context.abort(grpc.StatusCode.INTERNAL, "a fault of ours")
    raise AssertionError


class Everything(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Every method is answered by `some`."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(some)


@pytest.fixture
def address() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Everything()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def test_all_are_sent_and_a_fault_is_told_from_a_refusal(address: str) -> None:
    found = asyncio.run(send_mutated(address, 150, seed=1))
    assert (found.sent, found.lost, found.statuses.total()) == (150, 0, 150)
    assert found.statuses["OK"] and found.unexpected["INTERNAL"]
    assert "OK" not in found.unexpected


def test_the_same_seed_gives_the_same_messages() -> None:
    one, same, other = ([mutation(random.Random(seed)) for _ in range(3)] for seed in (1, 1, 2))
    assert one == same and one != other


HELD = Judgement(Verdict.HELD, {})


def told(**more: Any) -> History:
    record: Record = {"kind": "mutated", "at_s": 1.0, "sent": 10, "lost": 0, "unexpected": {}, **more}
    return History((record,))


@pytest.mark.parametrize(
    ("history", "verdict", "words"),
    [
        (told(), Verdict.HELD, ""),
        (told(unexpected={"INTERNAL": 2}), Verdict.DEVIATED, "2 INTERNAL"),
        (told(lost=1), Verdict.DEVIATED, "1 connections lost"),
        (told(sent=9), Verdict.INCONCLUSIVE, "9 of 10"),
        (History(()), Verdict.INCONCLUSIVE, "0 of 10"),
    ],
)
def test_the_verdict_follows_from_what_became_of_them(history: History, verdict: Verdict, words: str) -> None:
    judgement = judge_mutated(history, HELD, 10)
    assert judgement.verdict is verdict
    assert words in "; ".join(judgement.reasons)
    deviated = Judgement(Verdict.DEVIATED, {}, ("x",))
    assert judge_mutated(history, deviated, 10).verdict is Verdict.DEVIATED
