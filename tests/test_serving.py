"""`serve` in this process, with its real encoder: what a reload may change, and when."""

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from extproc import serving
from extproc.demo.loopback_ports import free
from extproc.embedding.encoder_files import EncoderFiles
from extproc.registry import releases
from tests.wire.conftest import Stream

DEADLINE_S = 60.0  # only ever reached by what hangs


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """``serve`` takes over the logging and the exception hooks of its process."""
    root, hooks = logging.getLogger(), (sys.excepthook, threading.excepthook)
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], (sys.excepthook, threading.excepthook) = handlers, hooks
    root.setLevel(level)
    logging.captureWarnings(False)


def registry(token: str, most: float, socket: Path) -> str:
    """A registry whose feedback token is in file ``token``, with a gate that refuses at most ``most``."""
    return f"""\
models: {{a: {{base_url: 'http://127.0.0.1:1'}}, b: {{base_url: 'http://127.0.0.1:1'}}}}
default: b
gates: {{g: {{refusal: true}}}}
cascades: {{x: {{tiers: [{{model: a, gate: g, expected: {{most: {most}}}}}, {{model: b}}]}}}}
routes: {{r: {{candidates: a, cascade: x, examples: [hi]}}}}
feedback: {{token: {{file: {token}}}}}
encoder: {{device: cpu, threads: 1}}
envoy: {{sidecar: 'unix:{socket}'}}
"""


class Sidecar:
    """A running ``serve``."""

    def __init__(self, path: Path, port: int, http: aiohttp.ClientSession, channel: grpc.aio.Channel) -> None:
        self.path = path
        self._page = f"http://127.0.0.1:{port}"
        self._http = http
        self._channel = channel

    def put(self, text: str) -> None:
        """Replace the registry file."""
        aside = self.path.with_suffix(".new")
        aside.write_text(text)
        aside.replace(self.path)

    async def metric(self, name: str, **labels: str) -> float | None:
        async with self._http.get(f"{self._page}/metrics") as page:
            text = await page.text()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return None

    async def reloaded(self, result: str) -> None:
        """Return once a reload ended as ``result``."""
        async with asyncio.timeout(DEADLINE_S):
            while not await self.metric("router_registry_reloads_total", result=result):
                await asyncio.sleep(0.05)

    async def ready(self) -> bool:
        try:
            async with self._http.get(f"{self._page}/readyz") as page:
                return page.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def accepts(self, token: str) -> bool:
        """Whether feedback with ``token`` may be sent."""
        stream = Stream(self._channel, (("x-router-role", "feedback"),))
        await stream.send_head("/v1/router/feedback", {"authorization": f"Bearer {token}"})
        answer = await stream.receive()
        assert answer is not None
        stream.call.cancel()
        return answer.WhichOneof("response") == "request_headers"


@asynccontextmanager
async def running(folder: Path, files: EncoderFiles, text: str, socket: Path) -> AsyncIterator[Sidecar]:
    path, (port,) = folder / "r.yaml", free(1)
    path.write_text(text)
    settings = serving.Settings(
        path, files.directory, admin=f"127.0.0.1:{port}", records=str(folder / "records")
    )
    task = asyncio.create_task(serving.serve(settings))
    try:
        async with aiohttp.ClientSession() as http, grpc.aio.insecure_channel(f"unix:{socket}") as channel:
            sidecar = Sidecar(path, port, http, channel)
            async with asyncio.timeout(DEADLINE_S):
                while not await sidecar.ready():
                    assert not task.done(), await task
                    await asyncio.sleep(0.05)
            yield sidecar
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_reload_that_fails_after_the_holdout_leaves_the_feedback_token_and_the_bands_alone(
    tmp_path: Path, encoder_files: EncoderFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "new"):
        (tmp_path / name).write_text(f"{name}-t0ken")
    socket = tmp_path / "s"

    def broken(*_: object) -> None:
        raise RuntimeError("a defect in what is compiled last")

    async with running(tmp_path, encoder_files, registry("old", 0.25, socket), socket) as sidecar:
        assert await sidecar.metric("router_cascade_escalation_expected", bound="most") == 0.25
        with monkeypatch.context() as patched:
            patched.setattr(releases, "judged_tiers", broken)
            sidecar.put(registry("new", 0.5, socket))
            await sidecar.reloaded("failed")
        assert (await sidecar.accepts("old-t0ken"), await sidecar.accepts("new-t0ken")) == (True, False)
        assert await sidecar.metric("router_cascade_escalation_expected", bound="most") == 0.25
        sidecar.put(registry("new", 0.75, socket))
        await sidecar.reloaded("loaded")
        assert (await sidecar.accepts("old-t0ken"), await sidecar.accepts("new-t0ken")) == (False, True)
        assert await sidecar.metric("router_cascade_escalation_expected", bound="most") == 0.75
