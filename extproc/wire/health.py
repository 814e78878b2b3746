"""gRPC health checking (grpc.health.v1) of the process's components."""

import asyncio

import grpc
from grpc_health.v1.health import aio
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from extproc.health import Components
from extproc.wire.service import EXT_PROC_SERVICE

LIVENESS = "liveness"  # the process answers, which is all that a restart can mend
READY_NAMES = ("", "readiness", EXT_PROC_SERVICE)


class Health:
    """Shows ``Components`` to whoever checks or watches over gRPC."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self._servicer = aio.HealthServicer()
        self._changed = asyncio.Event()
        components.listen(self._changed.set)

    def register(self, server: grpc.aio.Server) -> None:
        """Add the service to ``server``."""
        add_HealthServicer_to_server(self._servicer, server)

    async def publish(self) -> None:
        """Show the current state."""
        serving, not_serving = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
        await self._servicer.set(LIVENESS, serving)
        for name in READY_NAMES:
            await self._servicer.set(name, serving if self._components.ready else not_serving)

    async def follow(self) -> None:
        """Publish every change, until cancelled."""
        while True:
            self._changed.clear()
            await self.publish()
            await self._changed.wait()
