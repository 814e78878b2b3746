"""What `make run` prints while the registry is edited: one line for each accepted or rejected version."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import msgspec

from extproc.demo.demo_stack import Stack

_POLL_S = 0.1
_TIMEOUT = aiohttp.ClientTimeout(total=2.0)


class Standing(msgspec.Struct, frozen=True):
    """What serves, and what stands in the way of the files as they are now."""

    version: str
    problem: str = ""  # FILE:LINE: what is wrong
    restart_envoy: bool = False

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> "Standing":
        """From the writer's ``status.json``."""
        return cls(status["version"], status["problem"], status["restart_envoy"])


async def edits(stack: Stack) -> AsyncIterator[str]:
    """A line for every edit of the registry, until cancelled. The writer has compared files once by now."""
    before = Standing.of(stack.writer_status())
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        while True:
            await asyncio.sleep(_POLL_S)
            now = Standing.of(stack.writer_status())
            if now.problem:
                if now != before:
                    yield rejected(now)
            elif now != before:
                yield accepted(now, await _sidecar_detail(session, stack.sidecar_admin_url))
            before = now


def rejected(now: Standing) -> str:
    """The line for files that cannot be used."""
    return f"registry        rejected: {_one_line(now.problem)}; version {now.version} still serves"


def accepted(now: Standing, sidecar: str) -> str:
    """The line for files that serve. ``sidecar`` is its state in words, for example ``version 7af4``."""
    restart = "; restart Envoy to apply bootstrap.yaml" if now.restart_envoy else ""
    return f"registry        accepted: {_one_line(sidecar or f'version {now.version}')}{restart}"


async def _sidecar_detail(session: aiohttp.ClientSession, admin_url: str) -> str:
    """What the sidecar reports of its registry, which includes what needs a restart; empty: no answer."""
    try:
        async with session.get(f"{admin_url}/readyz") as answer:
            return str((await answer.json())["components"]["registry"]["detail"])
    except (aiohttp.ClientError, TimeoutError):
        return ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
