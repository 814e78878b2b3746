"""The least that an ext_proc server in Python can do: both messages answered unread, nothing changed.

    python benchmarks/do_nothing.py unix:/PATH

What a decision costs is what it costs above this: Envoy's filter, two messages each way over
HTTP/2, grpc.aio and the interpreter are paid by any sidecar in Python.
"""

import asyncio
import signal
import sys
from typing import Any

import grpc

from extproc._pb.ext_proc_pb2 import MessageResponse, ProcessingResponse

_HEAD_PROCEEDS = ProcessingResponse(request_headers=MessageResponse()).SerializeToString()
_BODY_PROCEEDS = ProcessingResponse(request_body=MessageResponse()).SerializeToString()


async def serve(address: str) -> None:
    """Serve on ``address`` until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server()
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(_process)
    service = "envoy.service.ext_proc.v3.ExternalProcessor"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Process": method}),))
    server.add_insecure_port(address)
    await server.start()
    await stop.wait()
    await server.stop(None)


async def _process(_: object, context: "grpc.aio.ServicerContext[Any, bytes]") -> None:
    for answer in (_HEAD_PROCEEDS, _BODY_PROCEEDS):
        if await context.read() is grpc.aio.EOF:
            return
        await context.write(answer)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
