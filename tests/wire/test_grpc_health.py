"""gRPC health, as an orchestrator or Envoy asks for it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from extproc.errors import VersionRefused
from extproc.health import Components
from extproc.wire.grpc_health import GrpcHealth, ProbeResult, can_decide

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
READY_NAMES = ["", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor"]


@pytest.fixture
def components() -> Components:
    return Components("registry", "encoder")


@pytest.fixture
def versions() -> list[str]:
    return ["v1"]


@pytest.fixture
def refused() -> dict[str, str]:
    return {}


@pytest.fixture
def health(components: Components, versions: list[str], refused: dict[str, str]) -> GrpcHealth:
    return GrpcHealth(components, versions=lambda: versions, refused=lambda: refused)


@pytest.fixture
async def stub(health: GrpcHealth) -> AsyncIterator[HealthStub]:
    server = grpc.aio.server()
    health.register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await health.publish()
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield HealthStub(channel)
    finally:
        await server.stop(None)


async def checked(stub: HealthStub, name: str) -> int:
    response = await stub.Check(HealthCheckRequest(service=name))
    status: int = response.status
    return status


@pytest.mark.parametrize("registry", [False, True])
@pytest.mark.parametrize("encoder", [False, True])
async def test_every_name_tells_the_truth(
    components: Components, health: GrpcHealth, stub: HealthStub, registry: bool, encoder: bool
) -> None:
    components.report("registry", ready=registry)
    components.report("encoder", ready=encoder)
    await health.publish()
    expected = SERVING if registry and encoder else NOT_SERVING
    assert [await checked(stub, name) for name in READY_NAMES] == [expected] * 3
    assert await checked(stub, "liveness") == SERVING


async def test_a_name_that_is_not_known_is_not_found(stub: HealthStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await checked(stub, "nonsense")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_followers_see_every_change(
    components: Components, health: GrpcHealth, stub: HealthStub
) -> None:
    following = asyncio.create_task(health.follow())
    watch = stub.Watch(HealthCheckRequest(service="readiness"))
    seen = [(await watch.read()).status]
    components.report("registry", ready=True)
    components.report("encoder", ready=True)
    seen.append((await watch.read()).status)
    components.drain()
    seen.append((await watch.read()).status)
    assert seen == [NOT_SERVING, SERVING, NOT_SERVING]
    watch.cancel()
    following.cancel()


async def test_each_version_that_can_decide_has_a_name_of_its_own(
    components: Components, health: GrpcHealth, stub: HealthStub, versions: list[str]
) -> None:
    components.report("registry", ready=True)
    components.report("encoder", ready=True)
    versions.append("v2")
    await health.publish()
    assert [await checked(stub, f"registry/{version}") for version in ("v1", "v2")] == [SERVING, SERVING]
    versions.remove("v1")
    await health.publish()
    assert [await checked(stub, f"registry/{v}") for v in ("v1", "v2")] == [NOT_SERVING, SERVING]
    components.drain()
    await health.publish()
    assert await checked(stub, "registry/v2") == NOT_SERVING


async def test_whoever_checks_a_version_that_is_refused_is_told_why(
    components: Components, health: GrpcHealth, stub: HealthStub, refused: dict[str, str]
) -> None:
    components.report("registry", ready=True)
    components.report("encoder", ready=True)
    await health.publish()
    refused["v1"] = "it routes 3 of 4 rows"  # although it still decides for those that hold it
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await checked(stub, "registry/v1")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "it routes 3 of 4 rows"
    assert await checked(stub, "readiness") == SERVING


async def test_a_sidecar_says_which_versions_it_has(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    components = Components("registry")
    health = GrpcHealth(components, versions=lambda: ["v1"], refused=lambda: {"v3": "3 of 4 rows right"})
    server = grpc.aio.server()
    health.register(server)
    server.add_insecure_port(address)
    await health.publish()
    await server.start()
    try:
        assert await can_decide(address, "v1") is ProbeResult.NO  # it is starting
        components.report("registry", ready=True)
        await health.publish()
        assert await can_decide(address, "v1") is ProbeResult.YES
        assert await can_decide(address, "v2") is ProbeResult.NO
        with pytest.raises(VersionRefused, match=f"{address} refuses it: 3 of 4 rows right"):
            await can_decide(address, "v3")
    finally:
        await server.stop(None)
    assert await can_decide(address, "v1") is ProbeResult.NOBODY


@pytest.mark.parametrize("address", ["unix:/nowhere/at/all", "127.0.0.1:1"])
async def test_where_nobody_listens_nobody_answers(address: str) -> None:
    assert await can_decide(address, "v1", timeout_s=0.2) is ProbeResult.NOBODY
