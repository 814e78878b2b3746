"""Binding the gRPC server to an address, with an error that tells the operator why it failed.

grpc says only that it failed. Worse, it wraps ports beyond 65,535, takes half of a name that has
two addresses, and takes a unix socket from the process that listens on it. So the address is
tried with a plain socket first; what happens in between still fails, with grpc's own words.
"""

import errno
import os
import socket
import stat
from pathlib import Path

import grpc

from extproc.errors import OperatorError
from extproc.wire.socket_files import OWNER_ONLY, UNIX, Access, own_directory, restrict


def bind(server: grpc.aio.Server, address: str, access: Access = OWNER_ONLY) -> str:
    """Bind ``server`` to ``host:port`` (port 0: a free one) or ``unix:PATH``; returns what was bound.

    The directory of a socket is made where it is missing.

    Raises:
        OperatorError: the address is malformed, taken, not this machine's to use, or a socket's where
            somebody else could replace it.
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
    umask = os.umask(0o177)  # so that nobody else connects before the mode is set
    try:
        server.add_insecure_port(address)
    finally:
        os.umask(umask)
    restrict(Path(path), access)


def _try_path(path: str) -> None:
    """Raises ``OSError`` unless nothing is at ``path`` or a socket that nobody listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a busy listener's queue may be full
        if not os.path.lexists(path):
            probe.bind(path)
            os.unlink(path)
        elif not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "a file that is no socket is in its place")
        elif probe.connect_ex(path) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        # What a process that was killed has left behind, grpc replaces.
