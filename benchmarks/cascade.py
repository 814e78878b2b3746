"""How good are calibrated gates on real answers, and what do cascades save? In process, without Envoy.

    python benchmarks/cascade.py --data DIR

DIR holds zeroeval_gsm_texts, zeroeval_gsm_matrix, alpacaeval_texts, gsm8k_mixtral_gpt4 and
refusal_labels, each a .jsonl.gz. Prompts are split in five parts: each part is judged by a fit, and
escalated by a threshold, that knows only the other four, with the code of `extproc gate fit`. So no
figure of a gate is of rows that fitted or chose anything. Those of answer length and of chance are at
the best threshold in hindsight, which favours them. Intervals are 95 % bootstrap intervals over prompts.
"""

import argparse
import gzip
import hashlib
import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from extproc.gate.answer_checks import refuses
from extproc.gate.judged_request import JudgedRequest
from extproc.lab.gates.answer_rows import LabelledAnswers, Pair, PairPrices, answer_of, pair_of
from extproc.lab.gates.gate_fitting import GateTarget, fit, goodness, probabilities
from extproc.lab.gates.gate_worth import FRACTIONS, break_even, cheapest, share_of, without_second
from extproc.lab.measure.classification_metrics import Floats, Truths, auroc, ece
from extproc.lab.measure.intervals import Figure, auroc_of, bootstrap, wilson
from extproc.registry.cascade_settings import Gate, Length, Repetition
from extproc.registry.gate_artefact import CalibratedGate, GateManifest
from extproc.registry.tier_compiling import compile_judge
from extproc.vocabulary import Api

FOLDS = 5
ESCALATION = 0.3
# Dollars per million tokens, input and output: what providers asked when these models were current, rounded.
PRICES = {
    "gemma-2-2b-it": (0.04, 0.08),
    "Meta-Llama-3-8B-Instruct": (0.05, 0.10),
    "Qwen2-7B-Instruct": (0.05, 0.10),
    "Mixtral-8x7B-Instruct-v0.1": (0.5, 0.5),
    "gpt-3.5-turbo-0125": (0.5, 1.5),
    "claude-3-haiku-20240307": (0.25, 1.25),
    "Meta-Llama-3.1-405B": (3.0, 3.0),
    "gpt-4o-2024-08-06": (2.5, 10.0),
    "claude-3-5-sonnet-20241022": (3.0, 15.0),
    "mixtral": (0.5, 0.5),
    "gpt4": (10.0, 30.0),
    "gemma-2b-it": (0.04, 0.08),
    "vicuna-7b-v1.5": (0.05, 0.10),
    "gpt-3.5-turbo-1106": (1.0, 2.0),
    "FuseChat-Llama-3.2-3B-Instruct": (0.05, 0.10),
    "gpt4_1106_preview": (10.0, 30.0),
}


class Case(msgspec.Struct, frozen=True):
    """One cascade on one data set."""

    data: str
    small: str
    large: str
    second: str = ""


CASES = (
    Case("ZeroEval GSM8K", "gemma-2-2b-it", "gpt-4o-2024-08-06", "Qwen2-7B-Instruct"),
    Case("ZeroEval GSM8K", "Meta-Llama-3-8B-Instruct", "gpt-4o-2024-08-06", "Qwen2-7B-Instruct"),
    Case("ZeroEval GSM8K", "Qwen2-7B-Instruct", "claude-3-5-sonnet-20241022", "Meta-Llama-3-8B-Instruct"),
    Case("ZeroEval GSM8K", "Mixtral-8x7B-Instruct-v0.1", "Meta-Llama-3.1-405B", "Meta-Llama-3-8B-Instruct"),
    Case("ZeroEval GSM8K", "gpt-3.5-turbo-0125", "gpt-4o-2024-08-06", "Qwen2-7B-Instruct"),
    Case("ZeroEval GSM8K", "claude-3-haiku-20240307", "claude-3-5-sonnet-20241022", "Qwen2-7B-Instruct"),
    Case("RouteLLM GSM8K", "mixtral", "gpt4"),
    Case("AlpacaEval", "FuseChat-Llama-3.2-3B-Instruct", "gpt4_1106_preview", "vicuna-7b-v1.5"),
    Case("AlpacaEval", "gpt-3.5-turbo-1106", "gpt4_1106_preview", "vicuna-7b-v1.5"),
)


class Cross(msgspec.Struct, frozen=True):
    """What fits that did not know a row say of it."""

    likely: Floats
    up: Truths  # is it escalated?
    configured: float  # escalation, as the fits promised; mean over rows


# --- Data ---------------------------------------------------------------------------------------


def rows_of(directory: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one file."""
    with gzip.open(directory / f"{name}.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def zeroeval(directory: Path) -> list[LabelledAnswers]:
    """Answers without a verdict have no score. Of Llama 3.1 405B only verdicts are there: it is taken to
    write as much as its smaller sister."""
    verdicts = {row["id"]: row["correct"] for row in rows_of(directory, "zeroeval_gsm_matrix")}
    made = []
    for row in rows_of(directory, "zeroeval_gsm_texts"):
        answers = {model: answer["text"] for model, answer in row["answers"].items()}
        scores = {model: answer["correct"] for model, answer in row["answers"].items()}
        answers["Meta-Llama-3.1-405B"] = answers["Meta-Llama-3.1-70B-Instruct"]
        scores["Meta-Llama-3.1-405B"] = verdicts[row["id"]]["Llama-3.1-405B-Inst@sambanova"]
        known = {model: float(score) for model, score in scores.items() if score is not None}
        made.append(LabelledAnswers(row["prompt"], answers, known))
    return made


def routellm(directory: Path) -> list[LabelledAnswers]:
    """Prompts that models were seen to have learnt by heart are left out."""
    return [
        LabelledAnswers(
            row["prompt"],
            {"mixtral": row["weak_answer"], "gpt4": row["strong_answer"]},
            {"mixtral": float(row["weak_correct"]), "gpt4": float(row["strong_correct"])},
        )
        for row in rows_of(directory, "gsm8k_mixtral_gpt4")
        if not row["contaminated"]
    ]


def alpacaeval(directory: Path) -> list[LabelledAnswers]:
    """A win over the strong model scores 1; the strong model against itself, a half."""
    return [
        LabelledAnswers(
            row["instruction"],
            {row["strong_model"]: row["strong_answer"]}
            | {model: weak["text"] for model, weak in row["weak"].items()},
            {row["strong_model"]: 0.5} | {model: float(weak["win"]) for model, weak in row["weak"].items()},
        )
        for row in rows_of(directory, "alpacaeval_texts")
    ]


# --- Measuring ----------------------------------------------------------------------------------


def cross(pair: Pair, target: GateTarget, *, second: bool) -> Cross:
    """Judged in folds by prompt."""
    folds = (pair.places(1) * 1e9).astype(np.int64) % FOLDS
    likely, threshold, configured = (np.empty(len(folds)) for _ in range(3))
    for fold in range(FOLDS):
        out = folds == fold
        fitted = fit(pair.take(~out), target, 0)[int(second)]
        assert fitted is not None
        values = pair.paired_features if second else pair.features
        likely[out] = probabilities(fitted.logit, values[out])
        threshold[out], configured[out] = fitted.threshold, fitted.escalation
    return Cross(likely, likely < threshold, float(configured.mean()))


def measured(case: Case, rows: Sequence[LabelledAnswers]) -> Iterator[dict[str, str]]:
    """A line of the table without, and one with the second sample."""
    prices = {name: PairPrices(one / 1e6, other / 1e6) for name, (one, other) in PRICES.items()}
    whole = pair_of(rows, case.small, case.large, case.second, prices)
    for second in (False, True) if case.second else (False,):
        pair = whole if second else without_second(whole)
        yield {
            "cascade": f"{case.small} → {case.large}, {case.data}",
            "second": case.second if second else "",
            "prompts": str(len(pair.prompts)),
            "good, small / large": f"{pair.small_score.mean():.3f} / {pair.large_score.mean():.3f}",
            **_judged(pair, second),
        }


def _judged(pair: Pair, second: bool) -> dict[str, str]:
    by_share = cross(pair, GateTarget(escalation=ESCALATION), second=second)
    good = pair.good
    found = {
        "AUROC": told(
            Figure.of(
                auroc(by_share.likely[good], by_share.likely[~good]),
                bootstrap(auroc_of(by_share.likely, good), len(good)),
            )
        ),
        "ECE": f"{ece(by_share.likely, good):.3f}",
    }
    gaps = [100 * (by_share.up.mean() - by_share.configured)]
    for fraction in FRACTIONS:
        made = cross(pair, GateTarget(quality=fraction), second=second)
        gaps.append(100 * (made.up.mean() - made.configured))
        quality = share_of(np.where(made.up, pair.large_score, pair.small_score), pair.large_score)
        cost = share_of(pair.first_cost + np.where(made.up, pair.large_cost, 0.0), pair.large_cost)
        found[f"aim {fraction:.0%}: quality"] = told(quality)
        found[f"aim {fraction:.0%}: cost"] = told(cost)
        plain = without_second(pair)
        hindsight = [
            cheapest(score, plain, fraction).value for score in (pair.length, np.zeros(len(pair.prompts)))
        ]
        found[f"{fraction:.0%}: length / random"] = " / ".join(f"{cost:.3f}" for cost in hindsight)
    found["realised - configured, points"] = " ".join(f"{gap:+.1f}" for gap in gaps)
    found["break-even"] = f"{break_even(pair):.3f}"
    return found


def told(figure: Figure) -> str:
    """With its interval."""
    return f"{figure.value:.3f} ({figure.low:.3f}-{figure.high:.3f})"


def refusals(directory: Path) -> Iterator[dict[str, str]]:
    """Precision and recall on both halves; a row's half is that of the hash of its number.

    Some patterns came from a set that was chosen on one half by the hash of the text, so that only what
    is held out in both ways had no part in any. Models repeat themselves: texts that stand in the first half
    too are no test.
    """
    rows = rows_of(directory, "refusal_labels")
    held = np.array([hashlib.sha256(str(n).encode()).digest()[0] & 1 for n in range(len(rows))], bool)
    found = np.array([refuses(row["completion"]) for row in rows])
    kind = np.array([row["label"][0] for row in rows])
    texts = np.array([row["completion"] for row in rows])
    other = np.array([hashlib.sha256(text.encode()).digest()[-1] & 1 for text in texts], bool)
    parts = {
        "patterns were chosen on": ~held,
        "held out": held,
        "held out in both ways": held & other,
        "held out, texts that only stand there": held & ~np.isin(texts, texts[~held]),
    }
    for name, half in parts.items():
        full, none, partial = (half & (kind == label) for label in "213")
        hits, false = int((found & full).sum()), int((found & none).sum())
        precision, recall = wilson(hits, hits + false), wilson(hits, int(full.sum()))
        yield {
            "half": name,
            "full refusals": str(full.sum()),
            "compliances": str(none.sum()),
            "precision": told(Figure.of(hits / (hits + false), precision)),
            "recall": told(Figure.of(hits / full.sum(), recall)),
            "partial ones found": f"{(found & partial).sum()} of {partial.sum()}",
        }


def judging_time(pair: Pair, rows: Sequence[LabelledAnswers]) -> dict[str, str]:
    """CPU time of all checks, and of the score too, for each answer."""
    fitted, _ = fit(without_second(pair), GateTarget(quality=FRACTIONS[0]), 0)
    manifest = GateManifest(
        small=pair.small,
        large=pair.large,
        threshold=fitted.threshold,
        escalation=fitted.escalation,
        target="",
        data_sha256="",
        seed=0,
        rows=len(pair.prompts),
        metrics={},
    )
    every = Gate(
        finish=True, length=Length(), refusal=True, format=True, repetition=Repetition(), language=True
    )
    scorer = CalibratedGate(manifest, goodness(fitted, None), np.zeros(0, np.uint64))
    spent: dict[str, list[float]] = {"checks": [], "checks and score": []}
    for name, judge in (("checks", compile_judge(every)), ("checks and score", compile_judge(every, scorer))):
        for row in rows:
            asked = JudgedRequest(api=Api.OPENAI_CHAT, text=row.prompt)
            answer = answer_of(row.answers[pair.small])
            start = time.process_time()
            judge.judge(asked, answer)
            spent[name].append(1e3 * (time.process_time() - start))
    return {
        f"{name}, CPU ms": f"p50 {np.median(times):.2f}, p99 {np.quantile(times, 0.99):.2f}"
        for name, times in spent.items()
    }


COSTS = ("aim", "99%: length", "95%: length", "break-even")  # how the columns of the second table begin


def table(lines: Sequence[Mapping[str, str]], names: Sequence[str] = ()) -> str:
    """Markdown."""
    names = names or list(dict.fromkeys(name for line in lines for name in line))
    head = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return "\n".join(head + [f"| {' | '.join(line.get(name, '') for name in names)} |" for line in lines])


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(arguments)
    sets = {
        "ZeroEval GSM8K": zeroeval(options.data),
        "RouteLLM GSM8K": routellm(options.data),
        "AlpacaEval": alpacaeval(options.data),
    }
    lines = []
    for case in CASES:
        print(f"{case.data}: {case.small} before {case.large}", file=sys.stderr)
        lines += list(measured(case, sets[case.data]))
    print(f"Python {platform.python_version()}, numpy {np.__version__}\n")
    names = [name for name in lines[0] if not name.startswith(COSTS)]
    print(table(lines, names))
    print("\n" + table(lines, [*names[:2], *(name for name in lines[0] if name.startswith(COSTS))]))
    print("\n" + table(list(refusals(options.data))))
    rows = sets["ZeroEval GSM8K"]
    prices = {name: PairPrices(one / 1e6, other / 1e6) for name, (one, other) in PRICES.items()}
    pair = pair_of(rows, CASES[1].small, CASES[1].large, "", prices)
    print("\n" + table([judging_time(pair, rows)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
