"""The gRPC server: its address, its method table, and what it says before it is ready."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from muster.v1 import ranking_pb2, ranking_pb2_grpc
from server.config import ConfigurationError, RpcSettings
from server.health import Health
from server.rpc import MethodTable, RpcServer
from tests.server.conftest import Pair
from tests.server.replica import command, run_refused


def test_a_port_in_use_is_refused() -> None:
    first = RpcServer("127.0.0.1:0", RpcSettings())
    try:
        with pytest.raises(ConfigurationError, match="the address cannot be taken"):
            RpcServer(first.address, RpcSettings())
    finally:
        first.stop(0)


def test_a_replica_on_a_port_in_use_ends_with_code_2(pair: Pair, bundle: Path, tmp_path: Path) -> None:
    code, error = run_refused([*command(bundle, tmp_path / "data"), "--listen", pair.primary.address])
    assert code == 2
    assert f"listen = '{pair.primary.address}': the address cannot be taken" in error


def test_a_method_that_is_not_there_yet_is_unavailable() -> None:
    server = RpcServer("127.0.0.1:0", RpcSettings())
    server.start(Health())
    try:
        with grpc.insecure_channel(server.address) as channel:
            ranking = ranking_pb2_grpc.RankingServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                ranking.Search(ranking_pb2.SearchRequest(query="shoe"), timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            unknown = channel.unary_unary("/muster.v1.RankingService/Guess")
            with pytest.raises(grpc.RpcError) as caught:
                unknown(b"", timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    finally:
        server.stop(0)


def test_only_declared_methods_can_be_added() -> None:
    with pytest.raises(AssertionError):
        MethodTable().add({"/muster.v1.RankingService/Guess": object()})


def test_a_message_over_the_limit_is_refused_before_it_is_read(pair: Pair) -> None:
    search = pair.primary.channel.unary_unary("/muster.v1.RankingService/Search")
    with pytest.raises(grpc.RpcError) as caught:
        search(b"\x0a" + b"x" * (9 * 2**20), timeout=10)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert pair.primary.status().serving
