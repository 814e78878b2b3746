"""Do gates judge behind a real Envoy as they do in process? Real answers replayed through both.

    python benchmarks/cascade_replay.py --data DIR [--rows 300] [--run-dir DIR]

DIR is that of benchmarks/cascade.py. A gate is fitted on one half of the prompts with the code of
`extproc gate fit`; the other half is sent to Envoy and `extproc serve`, whose models answer each prompt with
what the data set's models answered. In process the same rows are judged by the features and the weights
alone, as benchmarks/cascade.py does: neither wire nor registry nor judge take part. Costs through Envoy are
those of the records.
"""

import argparse
import asyncio
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import yaml
from aiohttp import web

from benchmarks.cascade import CASES, PRICES, Case, table, told, zeroeval
from extproc.demo.demo_stack import Stack, running_stack
from extproc.demo.loopback_ports import HOST
from extproc.lab.gates.answer_rows import CHARS_PER_TOKEN, LabelledAnswers, Pair, PairPrices, pair_of
from extproc.lab.gates.gate_calibration import GateFitOptions, calibrate
from extproc.lab.gates.gate_fitting import GateTarget, probabilities
from extproc.lab.gates.gate_worth import FRACTIONS, share_of, without_second
from extproc.lab.measure.classification_metrics import Floats, Truths
from extproc.registry.gate_artefact import CalibratedGate, write
from extproc.telemetry.rows import AnyRow, AttemptRow, ExchangeRow
from extproc.telemetry.segments import segment_paths

HELD_OUT = 0.5  # of the prompts
WAY = "x-replay"  # the request header that names the cascade
AT_ONCE = 8  # requests
RECORDED_S = 60.0  # after which a record that has not come will not
_POLL_S = 0.1

Answers = Mapping[str, LabelledAnswers]
"""The rows of the data set by their prompts."""


class Replay(msgspec.Struct, frozen=True):
    """One gate and the prompts that had no part in it."""

    name: str
    aim: float
    pair: Pair
    gate: CalibratedGate
    likely: Floats  # P(good) in process

    @property
    def threshold(self) -> float:
        """The one that counts: of answers beside a second where there is one."""
        paired = self.gate.manifest.threshold_paired
        return self.gate.manifest.threshold if paired is None else paired

    @property
    def up(self) -> Truths:
        """What is escalated in process."""
        return self.likely < self.threshold


class Answered(msgspec.Struct, frozen=True):
    """What a client got."""

    request_id: str
    served_by: str


# --- Gates ----------------------------------------------------------------------------------------


def replays_of(case: Case, rows: Sequence[LabelledAnswers], count: int) -> list[Replay]:
    """Without and with a second answer, for each aim."""
    prices = {name: PairPrices(one / 1e6, other / 1e6) for name, (one, other) in PRICES.items()}
    whole = pair_of(rows, case.small, case.large, case.second, prices)
    place = whole.places(0)
    held = [row for row in np.argsort(place, kind="stable") if place[row] < HELD_OUT][:count]
    found = []
    for pair in (without_second(whole), whole):
        for aim in FRACTIONS:
            wishes = GateFitOptions(
                small=pair.small,
                large=pair.large,
                second=pair.second,
                target=GateTarget(quality=aim),
                test_share=HELD_OUT,
            )
            gate, _ = calibrate(pair, wishes)
            test = pair.take(np.array(held, np.intp))
            beside = gate.goodness.paired
            likely = (
                probabilities(gate.goodness.alone, test.features)
                if beside is None
                else probabilities(beside, test.paired_features)
            )
            name = f"{case.small}-{aim * 100:.0f}{'-second' if pair.second else ''}"
            found.append(Replay(name, aim, test, gate, likely))
    return found


# --- Envoy, sidecar and models --------------------------------------------------------------------


def registry(replays: Sequence[Replay], port: int, egress: Path) -> dict[str, Any]:
    """A cascade for each gate, chosen by a header; every model is the same server."""
    names = sorted({name for one in replays for name in (one.pair.small, one.pair.large, one.pair.second)})
    models = {
        name: {
            "base_url": f"http://{HOST}:{port}",
            "price": dict(zip(("input", "output"), PRICES[name], strict=True)),
        }
        for name in names
        if name
    }
    gates: dict[str, Any] = {one.name: {"artefact": one.name} for one in replays}
    for one in replays:
        if one.pair.second:
            gates[one.name]["second"] = {"model": one.pair.second, "deadline_s": 60.0}
    return {
        "models": models,
        "default": replays[0].pair.large,
        "gates": gates,
        "cascades": {
            one.name: {"tiers": [{"model": one.pair.small, "gate": one.name}, {"model": one.pair.large}]}
            for one in replays
        },
        "routes": {one.name: {"cascade": one.name} for one in replays},
        "rules": [
            {"name": one.name, "when": {"header": {WAY: one.name}}, "route": one.name} for one in replays
        ],
        "trusted_headers": [WAY],
        "envoy": {"egress": f"unix:{egress}"},
        "decision_ms": 10_000,
    }


def write_registry(replays: Sequence[Replay], port: int, run_dir: Path) -> Path:
    """The registry's file, with the artefacts beside it."""
    for replay in replays:
        write(run_dir / replay.name, replay.gate)
    path = run_dir / "registry.yaml"
    tree = registry(replays, port, run_dir.resolve() / "egress.sock")
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def models_of(answers: Answers) -> web.Application:
    """All models: each says what it said in the data set, with a token for every four characters."""

    async def answer(request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read())
        prompt, model = body["messages"][-1]["content"], body["model"]
        text = answers[prompt].answers[model]
        usage = {"prompt_tokens": _tokens(prompt), "completion_tokens": _tokens(text)}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        document = {"object": "chat.completion", "model": model, "choices": [choice], "usage": usage}
        return web.json_response(document)

    application = web.Application()
    application.router.add_post("/v1/chat/completions", answer)
    return application


def _tokens(text: str) -> int:
    return round(len(text) / CHARS_PER_TOKEN)


async def through_envoy(stack: Stack, replay: Replay, answers: Answers) -> list[Answered]:
    """What became of each prompt, in their order. Leaves with a message where it is no model's own answer."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def ask(http: aiohttp.ClientSession, prompt: str) -> Answered:
        body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
        async with (
            slots,
            http.post(f"{stack.url}/v1/chat/completions", json=body, headers={WAY: replay.name}) as got,
        ):
            document = await got.json()
            served_by = got.headers.get("x-router-served-by", "")
        if got.status != 200:
            raise SystemExit(f"{replay.name}: {got.status} {document}")
        if document["choices"][0]["message"]["content"] != answers[prompt].answers.get(served_by):
            raise SystemExit(f"{replay.name}: this is no answer of {served_by!r}: {document}")
        return Answered(got.headers["x-request-id"], served_by)

    async with aiohttp.ClientSession() as http:
        return await asyncio.gather(*(ask(http, prompt) for prompt in replay.pair.prompts))


async def recorded(stack: Stack, request_ids: set[str]) -> list[AnyRow]:
    """The records, once all exchanges have theirs; those of their attempts come before."""
    async with asyncio.timeout(RECORDED_S):
        while True:
            text = b"".join(path.read_bytes() for path in segment_paths(stack.records))
            whole, _, _ = text.rpartition(b"\n")
            rows = [msgspec.json.decode(line, type=AnyRow) for line in whole.splitlines()]
            if {row.request_id for row in rows if isinstance(row, ExchangeRow)} >= request_ids:
                return rows
            await asyncio.sleep(_POLL_S)


# --- The table ------------------------------------------------------------------------------------


def compared(replay: Replay, answered: Sequence[Answered], rows: Sequence[AnyRow]) -> dict[str, str]:
    """A line of the table.

    Raises KeyError where a request left no record, and leaves with a message where it has no verdict or cost.
    """
    pair = replay.pair
    up = np.array([one.served_by == pair.large for one in answered])
    first = {row.request_id: row for row in rows if isinstance(row, AttemptRow) and row.attempt == 1}
    exchanges = {row.request_id: row for row in rows if isinstance(row, ExchangeRow)}
    judged = [first[one.request_id] for one in answered]
    verdicts = np.array([row.verdict for row in judged])
    scores = np.array([np.nan if row.verdict_score is None else row.verdict_score for row in judged])
    spent = np.array([exchanges[one.request_id].cost_usd or np.nan for one in answered])
    if not set(verdicts) <= {"accept", "escalate"} or np.isnan(scores).any() or np.isnan(spent).any():
        raise SystemExit(f"{replay.name}: {set(verdicts)}, with scores {scores} and costs {spent}")
    ids = {one.request_id for one in answered}
    attempts = sum(isinstance(row, AttemptRow) and row.request_id in ids for row in rows)
    seconds = sum(row.second_outcome == "answered" for row in judged)
    in_process = pair.first_cost + np.where(replay.up, pair.large_cost, 0.0)
    return {
        "cascade": f"{pair.small} → {pair.large}",
        "second": pair.second,
        "aim": f"{replay.aim:.0%}",
        "rows": str(len(answered)),
        "escalated through Envoy": str(up.sum()),
        "escalated in process": str(replay.up.sum()),
        "verdicts that differ": str(((up != replay.up) | ((verdicts == "escalate") != replay.up)).sum()),
        "P(good) differs by at most": f"{np.abs(scores - replay.likely).max():.0e}",
        "quality beside large": told(
            share_of(np.where(up, pair.large_score, pair.small_score), pair.large_score)
        ),
        "cost beside large": told(share_of(spent, pair.large_cost)),
        "cost in process": f"{in_process.mean() / pair.large_cost.mean():.3f}",
        "attempts recorded": str(attempts),
        "second answers recorded": str(seconds),
    }


async def run(replays: Sequence[Replay], answers: Answers, run_dir: Path) -> list[dict[str, str]]:
    """The table's lines."""
    runner = web.AppRunner(models_of(answers), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, 0).start()
        path = write_registry(replays, runner.addresses[0][1], run_dir)
        async with running_stack(path, run_dir / "run") as stack:
            answered = [await through_envoy(stack, replay, answers) for replay in replays]
            rows = await recorded(stack, {one.request_id for each in answered for one in each})
        return [compared(replay, each, rows) for replay, each in zip(replays, answered, strict=True)]
    finally:
        await runner.cleanup()


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; 1 where a verdict differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--rows", type=int, default=300, help="prompts of each cascade")
    parser.add_argument("--run-dir", type=Path)
    given = parser.parse_args(arguments)
    rows = zeroeval(given.data)
    replays = [replay for case in CASES[:2] for replay in replays_of(case, rows, given.rows)]
    with tempfile.TemporaryDirectory() as made:
        answers = {row.prompt: row for row in rows}
        lines = asyncio.run(run(replays, answers, given.run_dir or Path(made)))
    print(f"Python {platform.python_version()}, numpy {np.__version__}\n")
    print(table(lines))
    return int(any(line["verdicts that differ"] != "0" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
