"""A tool that knows only the standard stubs can discover and call the service, as grpcurl does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.fixtures.tiny_bundle import build
from tests.server.replica import Replica

SERVICES = {
    "muster.v1.RankingService": {"Search", "Rerank", "Recommend"},
    "muster.v1.CatalogueService": {"Apply", "Get", "Watch"},
    "muster.v1.AdminService": {
        "Status",
        "Drain",
        "TransferLease",
        "Rebuild",
        "BundleStatus",
        "LoadBundle",
        "ShadowBundle",
        "CanaryBundle",
        "PromoteBundle",
        "RollBackBundle",
        "UnloadBundle",
        "RecordDeploy",
        "DrillStatus",
        "BeginDrill",
        "EndDrill",
        "AbortDrill",
        "EraseShopper",
    },
    "muster.v1.FeedbackService": {"Record"},
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("reflection")
    build(folder / "bundle")
    with Replica(folder / "bundle", folder / "data", "a", {"generation.rebuild": "false"}) as replica:
        yield replica.wait_primary().address


@pytest.fixture
def channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address) as channel:
        yield channel


def ask(channel: grpc.Channel, **request: str) -> reflection_pb2.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    [response] = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(**request)]), timeout=10
    )
    return response


def discover(channel: grpc.Channel, service: str) -> descriptor_pool.DescriptorPool:
    """A pool filled over the wire alone, dependencies first."""
    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()

    def add(file: descriptor_pb2.FileDescriptorProto) -> None:
        if file.name in added:
            return
        added.add(file.name)
        for dependency in file.dependency:
            for one in ask(
                channel, file_by_filename=dependency
            ).file_descriptor_response.file_descriptor_proto:
                add(descriptor_pb2.FileDescriptorProto.FromString(one))
        pool.Add(file)

    for one in ask(channel, file_containing_symbol=service).file_descriptor_response.file_descriptor_proto:
        add(descriptor_pb2.FileDescriptorProto.FromString(one))
    return pool


def test_every_service_is_listed(channel: grpc.Channel) -> None:
    listed = {service.name for service in ask(channel, list_services="").list_services_response.service}
    assert listed == {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


@pytest.mark.parametrize("service", SERVICES)
def test_every_method_is_described(channel: grpc.Channel, service: str) -> None:
    described = discover(channel, service).FindServiceByName(service)
    assert {method.name for method in described.methods} == SERVICES[service]


def test_a_tool_without_our_stubs_writes_and_searches(channel: grpc.Channel) -> None:
    def call(service: str, method: str, **fields: object) -> object:
        pool = discover(channel, service)
        described = pool.FindServiceByName(service).methods_by_name[method]
        request = message_factory.GetMessageClass(described.input_type)(**fields)
        answer = message_factory.GetMessageClass(described.output_type)
        raw = channel.unary_unary(f"/{service}/{method}")
        return answer.FromString(raw(request.SerializeToString(), timeout=10))

    applied = call(
        "muster.v1.CatalogueService",
        "Apply",
        events=[{"event_id": "e1", "upsert": {"product_id": "p1", "title": "red running shoe"}}],
    )
    assert applied.sequence == 1  # type: ignore[attr-defined]
    found = call("muster.v1.RankingService", "Search", query="red shoe")
    assert [result.product_id for result in found.results] == ["p1"]  # type: ignore[attr-defined]
    assert found.receipt.applied_sequence == 1  # type: ignore[attr-defined]


def test_the_standard_health_service_answers(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == 1
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
