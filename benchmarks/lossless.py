"""Does every request leave its record? Counts them, through a real Envoy and real sidecars.

`python benchmarks/lossless.py --count 100000` prints a table for RESULTS.md. The models are one more
Envoy, which answers at once, so that the router is what is loaded; nine of ten requests are decided by
a rule, the tenth is no request and is refused.
"""

import argparse
import asyncio
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import yaml

from benchmarks import envoys, workload
from extproc.demo.child_processes import Process
from extproc.demo.demo_stack import Ports, Stack, running_stack
from extproc.demo.loopback_ports import HOST, free
from extproc.envoyconf import envoy_process
from extproc.envoyconf.envoy_process import Admin
from extproc.telemetry.segments import segment_paths

_LOG = "llm.jsonl"
_REFUSED_EVERY = 10
_START_S = 60.0
_POLL_S = 0.1
_SETTLED_S = 30.0  # nothing more came for so long: nothing will
_ID = b"\r\nx-request-id: "
_LENGTH = b"\r\ncontent-length: "
_CLOSES = b"\r\nconnection: close"


class Counted(msgspec.Struct, frozen=True):
    """What became of so many requests."""

    requests: int
    seconds: float
    statuses: dict[int, int]
    recorded: int  # of these requests
    doubled: int  # of the records, those beyond the first of a request
    strange: int  # records of no request of ours
    told: int  # by Envoy's own count
    dropped: int  # of these, by Envoy's own count
    filed: int  # of these requests, in the log that Envoy writes itself
    filed_twice: int

    @property
    def missing(self) -> int:
        """Requests without a record."""
        return self.requests - self.recorded


async def count(run_dir: Path, requests: int, *, connections: int = 32, sidecars: int = 1) -> Counted:
    """Send so many requests over so many connections, and count what they leave."""
    model, model_admin = free(2)
    registry = _write_registry(run_dir, f"http://{HOST}:{model}")
    async with AsyncExitStack() as stopping:
        await _start_model(run_dir, model, model_admin, stopping)
        ports = Ports.free(sidecars)
        stack = await stopping.enter_async_context(running_stack(registry, run_dir / "run", ports))
        began = time.perf_counter()
        answers = await _ask(ports.envoy, requests, connections)
        seconds = time.perf_counter() - began
        await _settled(stack, run_dir / _LOG, requests)
        told = await Admin(f"{HOST}:{ports.envoy_admin}").log_entry_counts(datetime.now(UTC))
    ids = {request_id for request_id, _ in answers}
    assert len(ids) == requests
    recorded = Counter(_recorded(stack))
    filed = Counter(msgspec.json.decode(line)["request_id"] for line in _lines(run_dir / _LOG))
    return Counted(
        requests=requests,
        seconds=seconds,
        statuses=dict(Counter(status for _, status in answers)),
        recorded=len(ids & recorded.keys()),
        doubled=recorded.total() - len(recorded),
        strange=len(recorded.keys() - ids),
        told=told.entries,
        dropped=told.dropped,
        filed=len(ids & filed.keys()),
        filed_twice=filed.total() - len(filed),
    )


def _write_registry(run_dir: Path, upstream: str) -> Path:
    path = run_dir / "registry.yaml"
    # The addresses are the stack's to replace.
    workload.write_registry(
        path, upstream=upstream, listen=f"{HOST}:1", admin=f"{HOST}:2", sidecar="unix:/s", decision_ms=10_000
    )
    tree = yaml.safe_load(path.read_text())
    tree["envoy"]["access_log"] = _LOG
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


async def _start_model(run_dir: Path, port: int, admin: int, stopping: AsyncExitStack) -> None:
    config = run_dir / "model.yaml"
    envoys.write(envoys.model(port, admin), config)
    command = [str(envoy_process.find()), "-c", str(config), "--disable-hot-restart", "--concurrency", "1"]
    process = await Process.start("model", command, log=run_dir / "model.log")
    stopping.push_async_callback(process.stop)
    await process.ready(f"http://{HOST}:{admin}/ready", timeout_s=_START_S)


async def _ask(port: int, requests: int, connections: int) -> list[tuple[str, int]]:
    """The id and status of every answer."""
    numbers = iter(range(requests))
    clients = [asyncio.create_task(_client(port, numbers)) for _ in range(connections)]
    return [answer for client in clients for answer in await client]


async def _client(port: int, numbers: Iterator[int]) -> list[tuple[str, int]]:
    """Sends its next request once it has its answer, as long as there are numbers."""
    good = workload.http_request(workload.chat_body(workload.RULE_16))
    bad = workload.http_request(b"no request")
    answers = []
    reader, writer = await asyncio.open_connection(HOST, port)
    for number in numbers:
        writer.write(bad if number % _REFUSED_EVERY == 0 else good)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(_header(head, _LENGTH)))
        answers.append((_header(head, _ID).decode(), int(head[9:12])))
        if _CLOSES in head:  # as Envoy does behind a refusal
            writer.close()
            reader, writer = await asyncio.open_connection(HOST, port)
    writer.close()
    return answers


def _header(head: bytes, name: bytes) -> bytes:
    start = head.index(name) + len(name)
    return head[start : head.index(b"\r\n", start)]


async def _settled(stack: Stack, log: Path, requests: int) -> None:
    """Until all are in both places, or nothing more comes."""
    seen, since = (-1, -1), time.monotonic()
    while time.monotonic() - since < _SETTLED_S:
        now = (sum(1 for _ in _recorded(stack)), sum(1 for _ in _lines(log)))
        if min(now) >= requests:
            return
        if now != seen:
            seen, since = now, time.monotonic()
        await asyncio.sleep(_POLL_S)


def _recorded(stack: Stack) -> Iterator[str]:
    """The request of every record, of every sidecar."""
    for seat in stack.seats:
        for segment in segment_paths(stack.records_of(seat)):
            for line in _lines(segment):
                yield msgspec.json.decode(line)["request_id"]


def _lines(path: Path) -> Iterator[bytes]:
    """Those that are whole."""
    if path.exists():
        with path.open("rb") as lines:
            yield from (line for line in lines if line.endswith(b"\n"))


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="requests (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=32, help="at once (default: %(default)s)")
    parser.add_argument("--sidecars", type=int, default=1, help="processes (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = asyncio.run(
            count(Path(folder), options.count, connections=options.connections, sidecars=options.sidecars)
        )
    pace = f"{made.requests / made.seconds:,.0f} a second"
    print(f"{made.requests:,} requests, {pace}, answered {made.statuses}; {platform.platform()}\n")
    print("| | |\n|---|---|")
    for name, value in (
        ("requests with a record", made.recorded),
        ("without one", made.missing),
        ("with more than one", made.doubled),
        ("records of no request", made.strange),
        ("told by Envoy's own count", made.told),
        ("of these dropped by Envoy", made.dropped),
        ("requests with a line in Envoy's own log", made.filed),
        ("with more than one", made.filed_twice),
    ):
        print(f"| {name} | {value:,} |")


if __name__ == "__main__":
    main()
