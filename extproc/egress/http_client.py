"""Sends one HTTP/1.1 request to the local Envoy, on a new connection.

It supports only what Envoy sends: a body with a length, in chunks, or until the connection closes. A response
that is cut off is an error, never a shorter response.
"""

import asyncio
from collections.abc import Mapping

import msgspec

_UNIX = "unix:"
_HEAD_LIMIT = 64 * 1024  # bytes of a response's head, and of a line


class BadHttpResponse(Exception):
    """The response is not HTTP, or it is too large."""


class HttpResponse(msgspec.Struct, frozen=True):
    """The status and body of a response."""

    status: int
    body: bytes


async def post(address: str, path: str, headers: Mapping[str, str], body: bytes, limit: int) -> HttpResponse:
    """The response to ``body``, of at most ``limit`` bytes. Cancelling the call closes the connection.

    ``address`` is ``HOST:PORT`` or ``unix:/PATH``. Path and headers must not contain line ends.

    Raises:
        OSError, EOFError: the connection failed, or the response was cut off.
        BadHttpResponse: the response cannot be read.
    """
    reader, writer = await _connected(address)
    try:
        lines = [f"POST {path} HTTP/1.1", "host: egress", "connection: close"]
        lines += [f"content-length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body)
        await writer.drain()
        return await _response(reader, limit)
    except (asyncio.LimitOverrunError, ValueError) as error:
        raise BadHttpResponse(str(error)) from error
    finally:
        writer.transport.abort()  # the connection is used once; unsent data is dropped


async def _connected(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.startswith(_UNIX):
        return await asyncio.open_unix_connection(address.removeprefix(_UNIX), limit=_HEAD_LIMIT)
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port), limit=_HEAD_LIMIT)


async def _response(reader: asyncio.StreamReader, limit: int) -> HttpResponse:
    """Raises ValueError if it is not an HTTP response."""
    while True:
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1]) if first.startswith("HTTP/1.") and " " in first else 0
        if not 100 <= status < 200:  # an interim response
            break
    if status == 0:
        raise ValueError("not an HTTP response")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)
    }
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return HttpResponse(status, await _chunks(reader, limit))
    if "content-length" in headers:
        return HttpResponse(status, await reader.readexactly(_within(int(headers["content-length"]), limit)))
    return HttpResponse(status, await _rest(reader, limit))


async def _chunks(reader: asyncio.StreamReader, limit: int) -> bytes:
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        _within(len(body) + size, limit)
        body += (await reader.readexactly(size + 2))[:size]
    return bytes(body)


async def _rest(reader: asyncio.StreamReader, limit: int) -> bytes:
    body = bytearray()
    while part := await reader.read(_HEAD_LIMIT):
        _within(len(body) + len(part), limit)
        body += part
    return bytes(body)


def _within(size: int, limit: int) -> int:
    if not 0 <= size <= limit:
        raise ValueError(f"a body of {size} bytes (at most {limit})")
    return size
