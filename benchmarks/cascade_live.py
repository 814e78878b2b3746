"""What a cascade costs in time, through a real Envoy and a real sidecar: milliseconds beside plain Envoy.

    python -m benchmarks.cascade_live [--rounds N] [--run-dir DIR]

One client, one request at a time, the ways in turn, so that what the machine does meanwhile meets all
of them alike. Every way ends at the same server in this process, which answers at once: what is told
is the way's own share, and an upper bound, since client and server compete with it for the machine.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import yaml
from aiohttp import web

from extproc.demo.demo_stack import Stack, running_stack

CHAT = "/v1/chat/completions"
SAID = "A short answer that is good enough for whoever asked."
WARMING = 20  # requests of each way that are not counted


class Way(msgspec.Struct, frozen=True):
    """One way through: where it is asked for and with which word in the prompt."""

    name: str
    path: str = CHAT
    word: str = ""
    stream: bool = False


WAYS = (
    Way("plain Envoy", path="/v1/passthrough"),
    Way("decide by rule", word="decide"),
    Way("decide, hop, no gate", word="hop"),
    Way("decide, hop, gate: accepted", word="accept"),
    Way("decide, hop, gate: refused, next tier", word="refuse"),
    Way("plain Envoy, stream", path="/v1/passthrough", stream=True),
    Way("decide by rule, stream", word="decide", stream=True),
    Way("decide, hop, gate: accepted, stream", word="accept", stream=True),
)


def registry(port: int) -> dict[str, Any]:
    """All ways but the plain one are rules on a word; every model is the same server."""
    here = {"base_url": f"http://127.0.0.1:{port}", "price": {"input": 1, "output": 1}}
    gate = {"finish": True, "length": {"min_chars": 1}, "refusal": True, "format": True, "repetition": {}}
    refusing = {**gate, "self_report": {"pattern": "good enough"}}
    routes = {
        "decide": {"candidates": ["a"]},
        **{name: {"cascade": name} for name in ("hop", "accept", "refuse")},
    }
    tiers = {"hop": {}, "accept": {"gate": "content"}, "refuse": {"gate": "content-with-nothing"}}
    return {
        "models": {"a": here, "b": here},
        "default": "b",
        "passthrough": {"base_url": here["base_url"]},
        "gates": {"content": {**gate, "prefix_chars": 20}, "content-with-nothing": refusing},
        "cascades": {
            name: {"tiers": [{"model": "a", **tier}, {"model": "b"}]} for name, tier in tiers.items()
        },
        "routes": routes,
        "rules": [{"name": name, "when": {"keyword": name}, "route": name} for name in routes],
        "decision_ms": 10_000,
    }


async def answer(request: web.Request) -> web.StreamResponse:
    """The same to everyone, as OpenAI says it."""
    body = msgspec.json.decode(await request.read())
    usage = {"prompt_tokens": 9, "completion_tokens": 10}
    if not body.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": SAID}, "finish_reason": "stop"}
        return web.json_response({"object": "chat.completion", "choices": [choice], "usage": usage})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for number, word in enumerate(SAID.split()):
        last = number == len(SAID.split()) - 1
        choice = {"index": 0, "delta": {"content": f"{word} "}, "finish_reason": "stop" if last else None}
        await response.write(b"data: " + msgspec.json.encode({"choices": [choice]}) + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    return response


async def measured(stack: Stack, rounds: int) -> Mapping[str, Sequence[float]]:
    """Seconds of each request, by its way's name."""
    took: dict[str, list[float]] = {way.name: [] for way in WAYS}
    async with aiohttp.ClientSession() as http:
        for number in range(-WARMING, rounds):
            for way in WAYS:
                message = {"role": "user", "content": f"Please {way.word} this."}
                body = {"model": "auto", "messages": [message], "stream": way.stream}
                began = time.perf_counter()
                async with http.post(f"{stack.url}{way.path}", json=body) as got:
                    await got.read()
                if got.status != 200:
                    raise SystemExit(f"{way.name}: {got.status}")
                if number >= 0:
                    took[way.name].append(time.perf_counter() - began)
    return took


def table(took: Mapping[str, Sequence[float]]) -> str:
    """Percentiles in milliseconds, and the median beside that of plain Envoy in the same mode."""
    lines = ["| way | p50 ms | p90 ms | beside plain, ms |", "|---|---|---|---|"]
    for way in WAYS:
        times = np.array(took[way.name]) * 1e3
        plain = np.array(took[WAYS[5 if way.stream else 0].name]) * 1e3
        p50, p90 = np.percentile(times, (50, 90))
        beside = float(np.median(times - plain))  # of the same round
        lines.append(f"| {way.name} | {p50:.2f} | {p90:.2f} | {beside:+.2f} |")
    return "\n".join(lines)


async def run(rounds: int, run_dir: Path) -> str:
    """The table, of ``rounds`` requests each way."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        path = run_dir / "registry.yaml"
        path.write_text(yaml.safe_dump(registry(runner.addresses[0][1]), sort_keys=False))
        async with running_stack(path, run_dir / "run") as stack:
            return table(await measured(stack, rounds))
    finally:
        await runner.cleanup()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--run-dir", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        print(asyncio.run(run(given.rounds, given.run_dir or Path(made))))


if __name__ == "__main__":
    main()
