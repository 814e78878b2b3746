"""`extproc gate fit` and `extproc gate eval`: fit a gate on a file of answers, and measure it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from extproc.errors import OperatorError
from extproc.lab.figures.number_formats import level, percent, score, threshold, with_interval
from extproc.lab.gates.answer_rows import (
    Pair,
    PairPrices,
    check_usable,
    pair_of,
    read_answers,
    sha256_of,
)
from extproc.lab.gates.gate_fitting import GateTarget, fit, goodness, probabilities
from extproc.lab.gates.gate_worth import FRACTIONS, Worth, without_second, worth_of
from extproc.registry.gate_artefact import CalibratedGate, GateManifest, prompt_key, read, write
from extproc.registry.registry_loading import load


class GateFitOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator asks of a fit."""

    small: str
    large: str
    second: str = ""
    target: GateTarget
    test_share: float = 0.3
    seed: int = 0
    force: bool = False


def fit_gate(
    registry: Path,
    data: Path,
    out: Path,
    options: GateFitOptions,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Worth]:
    """Fit a gate, measure it on the test rows, and write the artefact. Raises ``OperatorError``.

    The first figures are those of the gate that ``options`` ask for. With a second model, the figures of the
    gate without it follow. A gate that costs more than the large model alone is only written with
    ``force``. ``progress`` gets the numbers of rows.
    """
    rows = read_answers(data)
    prices = _prices(registry, options.small, options.large, options.second)
    pair = pair_of(rows, options.small, options.large, options.second, prices)
    check_usable(data, rows, pair)
    gate, worths = calibrate(pair, options, sha256_of(rows))
    progress(
        f"{len(rows)} rows in {data}, {len(pair.prompts)} of them with the answers and scores that are "
        f"needed: {gate.manifest.rows} to fit on, {worths[0].rows} set apart to measure on"
    )
    asked = worths[0]
    if not asked.pays and not options.force:
        raise OperatorError(
            f"this gate is not worth it: a request costs {percent(asked.cost.value)} of what "
            f"{options.large} alone costs. It escalates {percent(asked.realised.value)}; with these "
            f"prices it pays below {percent(asked.break_even)} (expected a lower target, a "
            "cheaper or better small model, or --force)"
        )
    write(out, gate)
    return worths


def calibrate(
    pair: Pair, options: GateFitOptions, data_sha256: str = ""
) -> tuple[CalibratedGate, list[Worth]]:
    """Fit on all prompts except ``test_share`` of them, and measure on these. Raises ``OperatorError``."""
    apart = pair.places(options.seed) < options.test_share
    fitted, test = pair.take(~apart), pair.take(apart)
    alone, beside = fit(fitted, options.target, options.seed, apart=len(test.prompts))
    if not len(test.prompts):
        raise OperatorError("no rows are set apart to measure on (expected a larger --test-share)")
    likely = probabilities(alone.logit, test.features)
    worths = [worth_of(without_second(test), likely, alone.threshold, alone.escalation)]
    if beside is not None:
        likely = probabilities(beside.logit, test.paired_features)
        worths.insert(0, worth_of(test, likely, beside.threshold, beside.escalation))
    manifest = GateManifest(
        small=options.small,
        large=options.large,
        second=options.second,
        threshold=alone.threshold,
        escalation=alone.escalation,
        threshold_paired=beside.threshold if beside else None,
        escalation_paired=beside.escalation if beside else None,
        target=str(options.target),
        data_sha256=data_sha256,
        seed=options.seed,
        rows=len(fitted.prompts),
        metrics={
            "alone" if not worth.second else "beside a second": msgspec.to_builtins(worth) for worth in worths
        },
    )
    keys = np.array([prompt_key(prompt) for prompt in fitted.prompts], np.uint64)
    return CalibratedGate(manifest, goodness(alone, beside), keys), worths


def eval_gate(registry: Path, data: Path, artefact: Path) -> list[Worth]:
    """Measure an artefact on the rows of a file that it was not fitted on, in the order of `fit_gate`.

    Raises ``OperatorError``.
    """
    gate = read(artefact)
    manifest = gate.manifest
    prices = _prices(registry, manifest.small, manifest.large, manifest.second)
    rows = read_answers(data)
    pair = pair_of(rows, manifest.small, manifest.large, manifest.second, prices)
    check_usable(data, rows, pair)
    known = set(gate.fitted.tolist())
    new = pair.take(np.array([prompt_key(prompt) not in known for prompt in pair.prompts], bool))
    if not len(new.prompts):
        raise OperatorError(
            f"{data}: {artefact} was fitted on all of its {len(pair.prompts)} usable prompts (expected rows "
            "that it was not fitted on)"
        )
    likely = probabilities(gate.goodness.alone, new.features)
    worths = [worth_of(without_second(new), likely, manifest.threshold, manifest.escalation)]
    beside, threshold, configured = (
        gate.goodness.paired,
        manifest.threshold_paired,
        manifest.escalation_paired,
    )
    if beside is not None and threshold is not None and configured is not None:
        likely = probabilities(beside, new.paired_features)
        worths.insert(0, worth_of(new, likely, threshold, configured))
    return worths


def as_text(worths: list[Worth]) -> str:
    """The figures as text for a terminal."""
    return "\n\n".join("\n".join(_lines(worth)) for worth in worths)


def _lines(worth: Worth) -> list[str]:
    beside = f" beside an answer of {worth.second}" if worth.second else ""
    verdict = "pays" if worth.pays else "COSTS MORE than going straight to the large model"
    lines = [
        f"{worth.small} before {worth.large}, judged{beside}, on {worth.rows} held-out prompts",
        f"  AUROC of P(good)      {with_interval(worth.auroc)}",
        f"  calibration error     {with_interval(worth.ece)}",
        f"  escalation            {with_interval(worth.realised, percent)}, "
        f"configured {percent(worth.configured)} (threshold {threshold(worth.threshold)})",
        f"  break-even escalation {percent(worth.break_even)}: this gate {verdict}",
        f"  quality               {with_interval(worth.quality, percent)} of the large model's "
        f"{score(worth.large_quality)}; always small {score(worth.small_quality)}",
        f"  cost                  {with_interval(worth.cost, percent)} of always large",
        f"  least cost at {' and '.join(map(level, FRACTIONS))} of the large quality",
    ]
    return lines + [
        f"    {way.name:<19} {'   '.join(with_interval(cost, percent) for cost in way.costs)}"
        for way in worth.ways
    ]


def _prices(registry: Path, *models: str) -> Mapping[str, PairPrices]:
    known = load(registry, untrained=True).registry.models  # the artefact that it names may not exist yet
    found = {}
    for name in filter(None, models):
        if name not in known:
            raise OperatorError(f"{registry}: there is no model {name} (expected one of {', '.join(known)})")
        price = known[name].price
        if price is None:
            raise OperatorError(f"{registry}: {name} has no price (expected one, to know what a gate costs)")
        found[name] = PairPrices(price.input / 1e6, price.output / 1e6)
    return found
