"""Calibrating a gate on a small world of sums, and what it is worth there."""

import json
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest

from extproc.errors import DataError, OperatorError
from extproc.lab.gates.answer_rows import LabelledAnswers, Pair, PairPrices, pair_of, read_answers
from extproc.lab.gates.gate_calibration import GateFitOptions, as_text, calibrate, eval_gate, fit_gate
from extproc.lab.gates.gate_fitting import GateTarget, choose_threshold, fit, probabilities
from extproc.lab.gates.gate_worth import Worth, break_even, cost_at, worth_of
from extproc.registry.gate_artefact import CalibratedGate

PRICES = {
    "small": PairPrices(0.1e-6, 0.1e-6),
    "other": PairPrices(0.1e-6, 0.1e-6),
    "large": PairPrices(2e-6, 8e-6),
}
QUALITY = GateTarget(quality=0.95)


def rows(count: int = 240) -> list[LabelledAnswers]:
    """Six in ten of the small model's answers are right; wrong ones are long and miscount, mostly."""
    dice = random.Random(7)
    made = []
    for _ in range(count):
        first, second = dice.randrange(100, 1000), dice.randrange(100, 1000)
        right = dice.random() < 0.6
        slip = 0 if right else dice.randrange(1, 9)
        told = f"{first} + {second} = {first + second + slip}."
        if dice.random() < (0.1 if right else 0.8):
            told = "Well, however one looks at it, this is not easy. " + told
        agrees = first + second + (0 if dice.random() < 0.9 else 10)
        made.append(
            LabelledAnswers(
                prompt=f"{dice.choice(NAMES)} has {first} {dice.choice(THINGS)} and gets {second}. How many?",
                answers={"small": told, "other": f"It is {agrees}.", "large": f"It is {first + second}."},
                scores={"small": float(right), "large": 1.0},
            )
        )
    return made


NAMES = ("Ann", "Bo", "Chris", "Dee", "Eve", "Flo", "Gus", "Hal")
THINGS = ("apples", "boats", "coins", "dates", "eggs", "figs", "gems", "hats")


@pytest.fixture(scope="module")
def pair() -> Pair:
    return pair_of(rows(), "small", "large", "other", PRICES)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A registry with prices, and the rows."""
    data, registry = tmp_path / "answers.jsonl", tmp_path / "registry.yaml"
    data.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows()))
    models = {
        name: {
            "base_url": "http://127.0.0.1:1",
            "price": {"input": price.input * 1e6, "output": price.output * 1e6},
        }
        for name, price in PRICES.items()
    }
    registry.write_text(json.dumps({"models": models, "default": "large"}))
    return registry, data


@pytest.fixture(scope="module")
def calibrated(pair: Pair) -> tuple[CalibratedGate, list[Worth]]:
    return calibrate(pair, wishes(second="other", test_share=0.4))


def wishes(**more: object) -> GateFitOptions:
    return msgspec.structs.replace(GateFitOptions(small="small", large="large", target=QUALITY), **more)


def test_costs_are_of_prompts_and_answers(pair: Pair) -> None:
    row = LabelledAnswers("x" * 40, {"small": "y" * 80, "large": "z"}, {"small": 1, "large": 1}, {"large": 7})
    one = pair_of([row], "small", "large", "", PRICES)
    assert one.small_cost[0] == pytest.approx(10 * 0.1e-6 + 20 * 0.1e-6)
    assert one.large_cost[0] == pytest.approx(10 * 2e-6 + 7 * 8e-6)
    assert one.second_cost[0] == 0.0
    assert len(pair.prompts) == 240
    assert (pair.first_cost > pair.small_cost).all()


def test_rows_without_all_answers_are_left_out() -> None:
    some = rows(3)
    known = [
        some[0],
        msgspec.structs.replace(some[1], scores={"small": 1.0}),
        msgspec.structs.replace(some[2], answers={"small": "1", "large": "1"}),
    ]
    assert pair_of(known, "small", "large", "other", PRICES).prompts == (some[0].prompt,)
    assert len(pair_of(known, "small", "large", "", PRICES).prompts) == 2


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"prompt": "a", "answers": {}, "scores": {"m": 1}}', "no answer of m"),
        ('{"prompt": "a", "answers": {"m": "b"}, "scores": {"m": 2}}', "scores"),
        ("{", "not JSON"),
    ],
)
def test_a_bad_row_is_told_by_its_line(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a", "answers": {"m": "b"}, "scores": {}}\n' + line)
    with pytest.raises(DataError, match=rf"bad\.jsonl:2: .*{problem}"):
        read_answers(path)


def test_good_answers_are_told_from_bad_ones_and_a_second_one_helps(
    calibrated: tuple[CalibratedGate, list[Worth]],
) -> None:
    gate, (beside, alone) = calibrated
    assert alone.auroc.value > 0.8
    assert beside.auroc.value > 0.9
    assert beside.auroc.low <= beside.auroc.value <= beside.auroc.high
    assert alone.rows + gate.manifest.rows == 240
    assert gate.manifest.threshold_paired == beside.threshold
    assert gate.manifest.escalation == alone.configured
    assert gate.manifest.escalation_paired == beside.configured


def test_the_gate_is_cheaper_than_chance_at_the_same_quality(
    calibrated: tuple[CalibratedGate, list[Worth]],
) -> None:
    _, (_, worth) = calibrated
    costs = {way.name: way.costs[0].value for way in worth.ways}
    assert costs["gate"] < costs["random"]
    assert worth.pays
    assert worth.quality.value > 0.9
    assert abs(worth.realised.value - worth.configured) < 0.15


def test_a_fit_knows_nothing_of_the_rows_it_is_measured_on(pair: Pair) -> None:
    apart = pair.places(0) < 0.3
    spoilt = msgspec.structs.replace(
        pair, small_score=np.where(apart, 1 - pair.small_score, pair.small_score)
    )
    first, second = calibrate(pair, wishes())[0], calibrate(spoilt, wishes())[0]
    assert np.array_equal(first.goodness.alone.weights, second.goodness.alone.weights)
    assert first.manifest.threshold == second.manifest.threshold


def test_a_target_escalation_is_met_on_held_out_predictions(pair: Pair) -> None:
    fitted, none = fit(msgspec.structs.replace(pair, second=""), GateTarget(escalation=0.25), 0)
    assert none is None
    assert fitted.escalation == pytest.approx(0.25, abs=0.02)


def test_more_quality_asks_for_more_escalation(pair: Pair) -> None:
    shares = [fit(pair, GateTarget(quality=wish), 0)[0].escalation for wish in (0.7, 0.9, 0.99)]
    assert shares == sorted(shares)
    assert shares[0] < shares[2]


def test_a_quality_that_is_there_already_asks_for_none(pair: Pair) -> None:
    assert choose_threshold(np.linspace(0, 1, 240), pair, GateTarget(quality=0.1)) == 0.0


def test_a_quality_that_no_threshold_reaches_asks_for_the_large_model(pair: Pair) -> None:
    worse = msgspec.structs.replace(pair, small_score=np.zeros(240), large_score=np.ones(240))
    assert choose_threshold(np.linspace(0, 1, 240), worse, GateTarget(quality=0.999)) == 1.0


def test_answers_of_one_probability_stay_together(pair: Pair) -> None:
    two = np.where(np.arange(240) < 100, 0.2, 0.8)
    assert choose_threshold(two, pair, GateTarget(escalation=0.3)) == pytest.approx(0.5)


def test_break_even_is_where_the_cascade_costs_what_the_large_model_does(pair: Pair) -> None:
    share = break_even(pair)
    assert pair.first_cost.mean() + share * pair.large_cost.mean() == pytest.approx(pair.large_cost.mean())


def test_figures_are_those_of_the_rows() -> None:
    made = pair_of(rows(40), "small", "large", "", PRICES)
    likely = made.small_score * 0.8 + 0.1  # knows everything
    worth = worth_of(made, likely, 0.5, 0.4)
    assert worth.auroc.value == 1.0
    assert worth.quality.value == 1.0
    assert worth.realised.value == pytest.approx(1 - worth.small_quality)
    assert 0.05 < worth.ece.value <= 0.1 + 1e-9
    spent = made.small_cost.sum() + made.large_cost[likely < 0.5].sum()
    assert worth.cost.value == pytest.approx(spent / made.large_cost.sum())
    gate, length, chance = worth.ways
    assert gate.costs[1].value <= min(worth.cost.value, length.costs[1].value, chance.costs[1].value) + 1e-9


def test_the_cheapest_point_that_is_good_enough_is_taken() -> None:
    from extproc.lab.measure.cost_quality import cost_quality

    curve = cost_quality(np.array([3.0, 2.0, 1.0]), np.array([0.0, 1.0, 1.0]), np.ones(3), 1.0, 11.0)
    assert cost_at(curve, 1.0, 0.9) == pytest.approx(1 + 10 / 3)
    assert cost_at(curve, 1.0, 0.5) == pytest.approx(1.0)


def test_too_few_rows_fit_nothing(pair: Pair) -> None:
    with pytest.raises(OperatorError, match="expected at least 40"):
        fit(pair.take(np.arange(30)), QUALITY, 0)
    all_good = msgspec.structs.replace(pair, small_score=np.ones(240))
    with pytest.raises(OperatorError, match="good ones and bad ones"):
        fit(all_good, QUALITY, 0)


def test_probabilities_are_calibrated_on_rows_that_were_held_out(pair: Pair) -> None:
    fitted, _ = fit(pair, QUALITY, 0)
    assert abs(float(fitted.held_out.mean()) - float(pair.good.mean())) < 0.05
    assert ((probabilities(fitted.logit, pair.features) > 0) & (fitted.held_out < 1)).all()


def test_the_same_rows_give_the_same_bytes_and_only_new_rows_measure(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    registry, data = files
    first, second = tmp_path / "first", tmp_path / "second"
    worths = fit_gate(registry, data, first, wishes(second="other"))
    fit_gate(registry, data, second, wishes(second="other"))
    for name in ("gate.json", "gate.npz"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    again = eval_gate(registry, data, first)
    assert as_text(again) == as_text(worths)


def test_an_artefact_is_not_measured_on_what_it_was_fitted_on(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    registry, data = files
    fit_gate(registry, data, tmp_path / "gate", wishes(test_share=0.3))
    apart = pair_of(rows(), "small", "large", "", PRICES).places(0) < 0.3
    lines = data.read_text().splitlines()
    data.write_text("\n".join(line for line, out in zip(lines, apart, strict=True) if not out))
    with pytest.raises(OperatorError, match=r"gate was fitted on all of its \d+ usable prompts"):
        eval_gate(registry, data, tmp_path / "gate")


def test_a_gate_that_costs_more_than_it_saves_is_refused_unless_forced(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    registry, data = files
    upside_down = (
        registry.read_text()
        .replace('"output": 8.0', '"output": 0.01')
        .replace('"input": 2.0', '"input": 0.01')
    )
    registry.write_text(upside_down)
    with pytest.raises(OperatorError, match=r"not worth it: .* --force"):
        fit_gate(registry, data, tmp_path / "gate", wishes())
    assert not (tmp_path / "gate").exists()
    (worth,) = fit_gate(registry, data, tmp_path / "gate", wishes(force=True))
    assert not worth.pays
    assert "COSTS MORE" in as_text([worth])
    assert (tmp_path / "gate" / "gate.json").exists()


@pytest.mark.parametrize("measured", ["fit", "eval"])
def test_what_the_rows_lack_is_named(files: tuple[Path, Path], tmp_path: Path, measured: str) -> None:
    registry, data = files
    fit_gate(registry, data, tmp_path / "gate", wishes(second="other"))

    def again(changed: list[LabelledAnswers]) -> None:
        data.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in changed))
        if measured == "eval":
            eval_gate(registry, data, tmp_path / "gate")
        else:
            fit_gate(registry, data, tmp_path / "other", wishes(second="other"))

    without_second = [msgspec.structs.replace(row, answers={"small": "1", "large": "1"}) for row in rows(50)]
    with pytest.raises(
        OperatorError,
        match="of 50 rows, 50 have a score of small, 50 have a score of large, 0 have an answer of other",
    ):
        again(without_second)
    without_score = [msgspec.structs.replace(row, scores={"small": 1.0}) for row in rows(50)]
    with pytest.raises(
        OperatorError, match="50 have a score of small, 0 have a score of large, 50 have an answer of other"
    ):
        again(without_score)


def test_the_gate_that_was_asked_for_comes_first(files: tuple[Path, Path], tmp_path: Path) -> None:
    registry, data = files
    fitted = fit_gate(registry, data, tmp_path / "gate", wishes(second="other"))
    assert [worth.second for worth in fitted] == ["other", ""]
    assert [worth.second for worth in eval_gate(registry, data, tmp_path / "gate")] == ["other", ""]
    assert [worth.second for worth in fit_gate(registry, data, tmp_path / "gate", wishes())] == [""]


def test_models_without_a_price_are_told(files: tuple[Path, Path], tmp_path: Path) -> None:
    registry, data = files
    with pytest.raises(OperatorError, match="no model tiny"):
        fit_gate(registry, data, tmp_path / "gate", wishes(small="tiny"))
    registry.write_text('{"models": {"small": {"base_url": "http://127.0.0.1:1"}}, "default": "small"}')
    with pytest.raises(OperatorError, match="small has no price"):
        fit_gate(registry, data, tmp_path / "gate", wishes(large="small"))
