"""One request over a plain connection: how it is written, and what of answers is read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from extproc.egress.http_client import BadHttpResponse, HttpResponse, post
from tests.egress.serving import served


@asynccontextmanager
async def server(answer: bytes, address: str = "") -> AsyncIterator[tuple[str, list[bytes]]]:
    """Its address; what it was sent."""
    got: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        got.append(head + await reader.readexactly(4))
        writer.write(answer)

    async with served(handle, address) as found:
        yield found, got


async def asked(answer: bytes, limit: int = 20) -> HttpResponse:
    async with server(answer) as (address, _):
        return await post(address, "/v1/x", {}, b"body", limit)


@pytest.mark.parametrize("unix", [True, False])
async def test_a_request_as_it_is_sent(tmp_path: Path, unix: bool) -> None:
    async with server(b"HTTP/1.1 204 No\r\n\r\n", f"unix:{tmp_path}/s" if unix else "") as (address, got):
        answer = await post(address, "/v1/x", {"x-router-egress": "large"}, b"body", 9)
    assert answer == HttpResponse(204, b"")
    assert got == [
        b"POST /v1/x HTTP/1.1\r\nhost: egress\r\nconnection: close\r\ncontent-length: 4\r\n"
        b"x-router-egress: large\r\n\r\nbody"
    ]


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", HttpResponse(200, b"abc")),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n",
            HttpResponse(200, b"abc"),
        ),
        (b"HTTP/1.1 503 No\r\n\r\nuntil it closes", HttpResponse(503, b"until it closes")),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            HttpResponse(200, b""),
        ),
    ],
)
async def test_an_answer_as_it_is_read(answer: bytes, read: HttpResponse) -> None:
    assert await asked(answer) == read


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
async def test_an_answer_that_is_broken_off_is_none(answer: bytes) -> None:
    with pytest.raises(EOFError):
        await asked(answer)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 fine\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 21\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n15\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 21,
        b"HTTP/1.1 200 OK\r\n" + b"x" * 200_000,
    ],
)
async def test_what_is_no_answer_or_too_large_is_refused(answer: bytes) -> None:
    with pytest.raises(BadHttpResponse):
        await asked(answer)


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await post(f"unix:{tmp_path}/none", "/", {}, b"", 1)
