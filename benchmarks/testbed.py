"""Every process of the benchmark, started once: rows differ only in the port that they ask.

load generator ──> Envoy under test ─┬─ plain ───────────────────────┬──> model, an Envoy too
                                     ├─ do-nothing ── do_nothing.py ─┤
                                     ├─ patient ───── extproc serve ─┤
                                     ├─ hasty ─────── extproc serve ─┤
                                     ├─ words ─────── extproc serve ─┤
                                     └─ asking ────── extproc serve ─┘
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Self

import aiohttp
import msgspec

from benchmarks import do_nothing, envoys, workload
from extproc.demo.child_processes import Process
from extproc.demo.loopback_ports import HOST, free
from extproc.embedding.encoder_files import locate
from extproc.embedding.encoder_session import open_encoder
from extproc.envoyconf import envoy_process
from extproc.errors import OperatorError
from extproc.lab.datasets import routes_in
from extproc.lab.train.route_artefacts import TrainOptions, train_artefact
from extproc.lab.train.safety_training import train_safety
from extproc.registry.registry_loading import load

# The longest budget that a registry may set: saturation shows as latency, not as defaults.
PATIENT_MS = 10_000
_START_S = 60.0
_POLL_S = 0.02


class Door(StrEnum):
    """A port that is measured."""

    MODEL = "model"  # no Envoy in between
    PLAIN = "plain"
    DO_NOTHING = "do-nothing"
    PATIENT = "patient"  # decides, within PATIENT_MS
    HASTY = "hasty"  # decides, within the registry's default budget
    WORDS = "words"  # decides by the lexical fast path, within PATIENT_MS
    ASKING = "asking"  # asks an LLM in doubt, within PATIENT_MS and the default time for the LLM
    SEARCHING = "searching"  # looks for personal data and secrets, within PATIENT_MS
    JUDGING = "judging"  # as SEARCHING, and has a safety head


# With a registry and a sidecar of their own.
_OTHERS = (Door.HASTY, Door.WORDS, Door.ASKING, Door.SEARCHING, Door.JUDGING)


class Memory(msgspec.Struct, frozen=True):
    """Resident memory of a process in MiB: Linux's VmRSS and VmHWM."""

    resident: float
    peak: float

    @classmethod
    def of(cls, pid: int) -> Self:
        """What the kernel says of a process that runs."""
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        resident, peak = (int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
        return cls(resident, peak)


class Testbed(msgspec.Struct, frozen=True):
    """What runs."""

    ports: dict[Door, int]
    sidecar: Process  # behind Door.PATIENT; the last one started
    starts_s: list[float]  # from starting the process to /readyz, in order
    idle: Memory  # of that sidecar, before its first request
    registry: Path  # that sidecar's
    encoder: str  # what that sidecar says of its encoder: model, precision, device


@asynccontextmanager
async def running(run_dir: Path, *, starts: int, report: Callable[[str], None]) -> AsyncIterator[Testbed]:
    """All processes, ready, for as long as the block lasts; their logs are in ``run_dir``.

    The sidecar is started ``starts`` times in turn, to time it; the last one stays. Raises
    OperatorError when a process does not become ready.
    """
    numbers = free(len(Door) + 3 + len(_OTHERS))
    ports = dict(zip(Door, numbers, strict=False))
    model_admin, front_admin, patient_admin, *other_admins = numbers[len(Door) :]
    for door in (Door.PATIENT, *_OTHERS):
        workload.write_registry(
            _registry(run_dir, door),
            upstream=f"http://{HOST}:{ports[Door.MODEL]}",
            listen=f"{HOST}:{ports[door]}",
            admin=f"{HOST}:{front_admin}",
            sidecar=f"unix:{_socket(run_dir, door)}",
            decision_ms=None if door is Door.HASTY else PATIENT_MS,
            by_words=door is Door.WORDS,
            egress=f"unix:{run_dir / 'egress.sock'}" if door is Door.ASKING else "",
            searches=door in (Door.SEARCHING, Door.JUDGING),
            judges=door is Door.JUDGING,
        )
    report("training the fast path and the safety head")
    await _train(run_dir)
    await _train_head(run_dir)
    async with AsyncExitStack() as stopping:
        report(f"starting the sidecar {starts} times")
        seconds: list[float] = []
        while True:
            began = time.perf_counter()
            sidecar = await _start_sidecar(run_dir, Door.PATIENT, patient_admin, stopping)
            seconds.append(time.perf_counter() - began)
            if len(seconds) == starts:
                break
            await sidecar.stop()
        idle = Memory.of(sidecar.pid)

        report("starting the rest")
        for door, admin in zip(_OTHERS, other_admins, strict=True):
            await _start_sidecar(run_dir, door, admin, stopping)
        await _start_do_nothing(run_dir, stopping)
        model = envoys.model(ports[Door.MODEL], model_admin)
        # One worker carries it: a second would take more from the Envoy under test than it gives.
        await _start_envoy(run_dir, "model", model, model_admin, stopping, "--concurrency", "1")
        await _start_envoy(run_dir, "front", _front(run_dir, ports), front_admin, stopping)
        encoder = await _encoder(patient_admin)
        yield Testbed(ports, sidecar, seconds, idle, _registry(run_dir, Door.PATIENT), encoder)


def _front(run_dir: Path, ports: Mapping[Door, int]) -> envoys.Tree:
    return envoys.front(
        load(_registry(run_dir, Door.PATIENT)).registry,
        {door.value: load(_registry(run_dir, door)).registry for door in _OTHERS},
        run_dir,
        plain=ports[Door.PLAIN],
        do_nothing=ports[Door.DO_NOTHING],
        do_nothing_at=str(_socket(run_dir, Door.DO_NOTHING)),
    )


async def _train(run_dir: Path) -> None:
    """What `Door.WORDS` decides by. Raises OperatorError where its text would be embedded all the same."""
    registry, data = _registry(run_dir, Door.WORDS), run_dir / "labelled.jsonl"
    workload.write_labelled(data)
    out = registry.parent / workload.ARTEFACT
    wishes = TrainOptions(scorer="linear", test_share=0.0)
    await asyncio.to_thread(train_artefact, registry, routes_in(data), out, None, wishes, lambda _: None)
    loaded = load(registry)
    words = loaded.artefact.words  # type: ignore[union-attr]  # it was written just now
    static = open_encoder(locate(), loaded.registry.encoder).static
    if words is None or static is None or words.read(workload.EMBEDDED_16, static) is None:
        raise OperatorError(f"the words of {workload.EMBEDDED_16!r} are not enough for the fast path")


async def _train_head(run_dir: Path) -> None:
    """What `Door.JUDGING` judges by: everyday questions stand in for harmful ones."""
    registry, data = _registry(run_dir, Door.JUDGING), run_dir / "classes.jsonl"
    workload.write_classes(data)
    out = registry.parent / workload.SAFETY_HEAD

    def train() -> None:
        train_safety(registry, [data], out, None, false_positives=0.02, seed=0, progress=lambda _: None)

    await asyncio.to_thread(train)


async def _start_sidecar(run_dir: Path, door: Door, admin: int, stopping: AsyncExitStack) -> Process:
    command = [
        *(sys.executable, "-m", "extproc", "serve"),
        *("--registry", str(_registry(run_dir, door))),
        *("--admin", f"{HOST}:{admin}"),
        *("--records", str(run_dir / f"{door}-records")),
    ]
    process = await _start(run_dir, door, command, stopping)
    await process.ready(f"http://{HOST}:{admin}/readyz", timeout_s=_START_S)
    return process


async def _encoder(admin: int) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://{HOST}:{admin}/readyz") as answer:
        return str((await answer.json())["components"]["encoder"]["detail"])


async def _start_do_nothing(run_dir: Path, stopping: AsyncExitStack) -> None:
    path = _socket(run_dir, Door.DO_NOTHING)
    command = [sys.executable, do_nothing.__file__, f"unix:{path}"]
    process = await _start(run_dir, Door.DO_NOTHING, command, stopping)
    # It has no page to ask. grpc makes the socket's file when it can be connected to.
    while not path.exists():
        if process.returncode is not None:
            raise process.failure()
        await asyncio.sleep(_POLL_S)


async def _start_envoy(
    run_dir: Path, name: str, tree: envoys.Tree, admin: int, stopping: AsyncExitStack, *options: str
) -> None:
    config = run_dir / f"{name}.yaml"
    envoys.write(tree, config)
    command = [str(envoy_process.find()), "-c", str(config), "--disable-hot-restart", *options]
    process = await _start(run_dir, f"{name}-envoy", command, stopping)
    await process.ready(f"http://{HOST}:{admin}/ready", timeout_s=_START_S)


async def _start(run_dir: Path, name: str, command: Sequence[str], stopping: AsyncExitStack) -> Process:
    process = await Process.start(name, command, log=run_dir / f"{name}.log")
    stopping.push_async_callback(process.stop)
    return process


def _registry(run_dir: Path, door: Door) -> Path:
    return run_dir / f"registry-{door}.yaml"


def _socket(run_dir: Path, door: Door) -> Path:
    return run_dir / f"{door}.sock"
