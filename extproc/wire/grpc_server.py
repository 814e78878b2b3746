"""The gRPC server's life: build, bind, start, wait, drain.

grpc reports only that binding failed. It also wraps ports beyond 65,535, binds one of two addresses of a
name, and takes a unix socket from the process that listens on it. So the address is tried with a plain socket
first, whose errors tell the operator the cause. What changes in between still fails with grpc's own message.
"""

import asyncio
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import grpc
import msgspec

from extproc.errors import OperatorError
from extproc.health import Components
from extproc.wire.access_log import BUFFER_BYTES
from extproc.wire.access_log_service import AccessLog
from extproc.wire.ext_proc_service import ExternalProcessor
from extproc.wire.grpc_health import GrpcHealth
from extproc.wire.socket_files import OWNER_ONLY, UNIX, Access, own_directory, restrict


def bind(server: grpc.aio.Server, address: str, access: Access = OWNER_ONLY) -> str:
    """Bind ``server`` to ``host:port`` (port 0: a free one) or ``unix:PATH``; returns what was bound.

    The directory of a socket is made where it is missing.

    Raises:
        OperatorError: the address is malformed, taken, not this machine's to use, or a socket's where
            another user could replace it.
    """
    own_directory(address, access)
    try:
        if address.startswith(UNIX):
            _bind_path(server, address, access)
            return address
        host, port = _host_and_port(address)
        _try_host(host, port)
        return f"{host}:{server.add_insecure_port(address)}"
    except (OSError, ValueError, RuntimeError) as error:
        raise OperatorError(f"cannot listen on {address}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    if error.errno == errno.EADDRINUSE:
        return f"{error.strerror}; stop what uses it, or listen elsewhere"
    return error.strerror


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError("it must be HOST:PORT, with a port from 0 to 65535, or unix:PATH")
    return host, int(port)


def _try_host(host: str, port: int) -> None:
    """Raises ``OSError`` unless some address of ``host`` can be bound and none is taken."""
    failures: list[OSError] = []
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, target in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                # As grpc does: connections that are still closing do not make a port taken.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(target)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
            failures.append(error)
    # A name may have an address of a family that this machine does not speak.
    if len(failures) == len(found):
        raise failures[0]


def _bind_path(server: grpc.aio.Server, address: str, access: Access) -> None:
    path = address.removeprefix(UNIX)
    _try_path(path)
    umask = os.umask(0o177)  # so that no other user connects before the mode is set
    try:
        server.add_insecure_port(address)
    finally:
        os.umask(umask)
    restrict(Path(path), access)


def _try_path(path: str) -> None:
    """Raises ``OSError`` unless nothing is at ``path``, or a socket without a listener."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a busy listener's queue may be full
        if not os.path.lexists(path):
            probe.bind(path)
            os.unlink(path)
        elif not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "a file that is not a socket is in its place")
        elif probe.connect_ex(path) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        # What a process that was killed has left behind, grpc replaces.


log = logging.getLogger(__name__)

COMPONENT = "grpc"  # its name among the components

# A body's message is larger than the body: the frame around it and, on the way back, a longer
# model name, headers and the metadata.
_MESSAGE_SLACK = 256 * 1024
# For the statuses of the last exchanges, and what Envoy logs of them, to get through.
_LAST_WORDS_S = 0.25


class Options(msgspec.Struct, frozen=True):
    """Where and how the server listens."""

    address: str  # host:port (port 0: a free one) or unix:PATH
    max_body_bytes: int  # the largest request body that Envoy sends
    access: Access = OWNER_ONLY  # to a unix socket
    notice_s: float = 0.0  # unready is shown for this long before new exchanges are refused
    grace_s: float = 10.0  # open exchanges may take this long to finish when draining


class Server:
    """One ``grpc.aio`` server with ext_proc, the access log service and health."""

    def __init__(
        self,
        options: Options,
        processor: ExternalProcessor,
        access_log: AccessLog,
        components: Components,
        versions: Callable[[], Iterable[str]],
        refused: Callable[[], Mapping[str, str]],
    ) -> None:
        """``components`` has one named ``COMPONENT``, which is this server.

        ``versions`` are those of the registry by which ``processor`` can decide; ``refused`` are those
        by which it will not, and why.
        """
        self._options = options
        self._processor = processor
        self._components = components
        self._health = GrpcHealth(components, versions, refused)
        self._server = grpc.aio.server(options=_channel_options(options.max_body_bytes))
        self._server.add_generic_rpc_handlers((processor.handler(), access_log.handler()))
        self._health.register(self._server)

    async def start(self) -> str:
        """Listen, and report ready. Returns the address with the port that was bound.

        Raises:
            errors.OperatorError: the address cannot be listened on.
        """
        address = bind(self._server, self._options.address, self._options.access)
        await self._health.publish()
        await self._server.start()
        self._components.report(COMPONENT, ready=True, detail=address)
        log.info("listening on %s", address)
        return address

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then drain. When cancelled, cut everything off."""
        try:
            await stop.wait()
            await self._drain()
        finally:
            await self._server.stop(None)

    async def show_health(self) -> None:
        """Show every change of the components and versions over gRPC, until cancelled."""
        await self._health.follow()

    async def _drain(self) -> None:
        log.info("draining")
        self._components.drain()
        await asyncio.sleep(self._options.notice_s)
        # New exchanges are refused from here on. Streams that never end by themselves (access
        # log, watched health) must not make every stop last the whole grace.
        stopping = asyncio.create_task(self._server.stop(self._options.grace_s))
        finished = asyncio.create_task(self._processor.finished())
        await asyncio.wait({stopping, finished}, return_when=asyncio.FIRST_COMPLETED)
        await self._server.stop(min(_LAST_WORDS_S, self._options.grace_s))
        await asyncio.gather(stopping, finished)
        log.info("drained")


def _channel_options(max_body_bytes: int) -> Sequence[tuple[str, int]]:
    message = max(max_body_bytes, BUFFER_BYTES) + _MESSAGE_SLACK
    return (
        ("grpc.max_receive_message_length", message),  # grpc's default is 4 MiB
        ("grpc.max_send_message_length", message),
        # Two servers on one port would share its connections by chance; a taken port is an error.
        ("grpc.so_reuseport", 0),
        # Envoy may check its idle connections by ping; by default grpc closes on the third.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        # An Envoy that vanished without a word is noticed within a minute and a half.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    )
