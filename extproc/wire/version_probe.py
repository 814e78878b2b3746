"""Asking a sidecar from outside whether it can decide by one version of the registry."""

from enum import Enum

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from extproc.errors import VersionRefused
from extproc.wire.grpc_health import version_service


class ProbeResult(Enum):
    """What a sidecar says of one version."""

    YES = "yes"
    NO = "no"  # not yet, or not while it starts or stops
    NOBODY = "nobody"  # nothing answers there


async def can_decide(address: str, version: str, timeout_s: float = 1.0) -> ProbeResult:
    """Ask the sidecar at ``HOST:PORT`` or ``unix:/PATH``. Never raises for what is there or is not.

    Raises ``VersionRefused`` when the sidecar says that it never will.
    """
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            answer = await HealthStub(channel).Check(
                HealthCheckRequest(service=version_service(version)), timeout=timeout_s
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                raise VersionRefused(f"the sidecar at {address} refuses it: {error.details()}") from error
            return ProbeResult.NO if error.code() is grpc.StatusCode.NOT_FOUND else ProbeResult.NOBODY
    return ProbeResult.YES if answer.status == HealthCheckResponse.SERVING else ProbeResult.NO
