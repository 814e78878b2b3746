"""gRPC health checking (grpc.health.v1) of the process's components."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from enum import Enum

import grpc
from grpc_health.v1.health import aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub, add_HealthServicer_to_server

from extproc.errors import VersionRefused
from extproc.health import Components
from extproc.wire.ext_proc_service import EXT_PROC_SERVICE

LIVENESS = "liveness"  # the process answers, which is all that a restart can mend
READY_NAMES = ("", "readiness", EXT_PROC_SERVICE)
_VERSION = "registry/"


def version_service(version: str) -> str:
    """The name of the service whose health says whether this process can decide by ``version``."""
    return f"{_VERSION}{version}"


class GrpcHealth:
    """Reports ``Components`` over gRPC, to checks and watches, and which versions can decide."""

    def __init__(
        self,
        components: Components,
        versions: Callable[[], Iterable[str]],
        refused: Callable[[], Mapping[str, str]],
    ) -> None:
        """A new version shows with the next change of a component.

        ``refused`` are the rejected versions, and why. A check of one fails with FAILED_PRECONDITION.
        """
        self._components = components
        self._versions = versions
        self._shown: set[str] = set()
        self._servicer = _Servicer(refused)
        self._changed = asyncio.Event()
        components.listen(self._changed.set)

    def register(self, server: grpc.aio.Server) -> None:
        """Add the service to ``server``."""
        add_HealthServicer_to_server(self._servicer, server)

    async def publish(self) -> None:
        """Show the current state."""
        serving, not_serving = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
        await self._servicer.set(LIVENESS, serving)
        versions = {version_service(version) for version in self._versions()}
        for name in (*READY_NAMES, *versions):
            await self._servicer.set(name, serving if self._components.ready else not_serving)
        for name in self._shown - versions:
            await self._servicer.set(name, not_serving)
        self._shown = versions

    async def follow(self) -> None:
        """Publish every change, until cancelled."""
        while True:
            self._changed.clear()
            await self.publish()
            await self._changed.wait()


class _Servicer(aio.HealthServicer):  # type: ignore[misc]  # grpc_health has no types
    """The standard servicer, which also gives the reason for a rejected version."""

    def __init__(self, refused: Callable[[], Mapping[str, str]]) -> None:
        super().__init__()
        self._refused = refused

    async def Check(  # noqa: N802  # the name is gRPC's
        self,
        request: HealthCheckRequest,
        context: "grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse]",
    ) -> HealthCheckResponse:
        """See grpc.health.v1."""
        for version, reason in self._refused().items():
            if request.service == version_service(version):
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)
        return await super().Check(request, context)


class ProbeResult(Enum):
    """A sidecar's answer about one version."""

    YES = "yes"
    NO = "no"  # not yet, or not while it starts or stops
    NOBODY = "nobody"  # nothing answers there


async def can_decide(address: str, version: str, timeout_s: float = 1.0) -> ProbeResult:
    """Ask the sidecar at ``HOST:PORT`` or ``unix:/PATH``. An unreachable sidecar is ``NOBODY``, not an error.

    Raises ``VersionRefused`` when the sidecar has rejected the version.
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
