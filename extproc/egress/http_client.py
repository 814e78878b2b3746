"""One HTTP/1.1 request on a connection of its own, to Envoy beside us.

No more of HTTP than Envoy needs for that: it sends a whole answer with its length, in chunks, or until
it closes. An answer that is broken off is an error, never a shorter answer.
"""

import asyncio
from collections.abc import Mapping

import msgspec

_UNIX = "unix:"
_HEAD_LIMIT = 64 * 1024  # bytes, of an answer's head and of any line


class BadAnswer(Exception):
    """What came is no HTTP answer, or a larger one than may be."""


class HttpResponse(msgspec.Struct, frozen=True):
    """Status and body."""

    status: int
    body: bytes


async def post(address: str, path: str, headers: Mapping[str, str], body: bytes, limit: int) -> HttpResponse:
    """The answer to ``body``, of at most ``limit`` bytes. Cancelled, it closes the connection.

    ``address`` is ``HOST:PORT`` or ``unix:/PATH``. Neither path nor headers may have line ends.

    Raises:
        OSError, EOFError: nobody is there, or the answer was broken off.
        BadAnswer: it cannot be read.
    """
    reader, writer = await _connected(address)
    try:
        lines = [f"POST {path} HTTP/1.1", "host: egress", "connection: close"]
        lines += [f"content-length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body)
        await writer.drain()
        return await _answer(reader, limit)
    except (asyncio.LimitOverrunError, ValueError) as error:
        raise BadAnswer(str(error)) from error
    finally:
        writer.transport.abort()  # there is nothing more to say on it, whatever was left unsaid


async def _connected(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.startswith(_UNIX):
        return await asyncio.open_unix_connection(address.removeprefix(_UNIX), limit=_HEAD_LIMIT)
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port), limit=_HEAD_LIMIT)


async def _answer(reader: asyncio.StreamReader, limit: int) -> HttpResponse:
    """Raises ValueError where it is none."""
    while True:
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1]) if first.startswith("HTTP/1.") and " " in first else 0
        if not 100 <= status < 200:  # an interim answer, before the answer
            break
    if status == 0:
        raise ValueError("no HTTP answer")
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
        raise ValueError(f"an answer of {size} bytes")
    return size
