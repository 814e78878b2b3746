"""A sidecar is asked from outside which versions it can decide by."""

from pathlib import Path

import grpc
import pytest

from extproc.errors import VersionRefused
from extproc.health import Components
from extproc.wire.grpc_health import GrpcHealth
from extproc.wire.version_probe import ProbeResult, can_decide


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
