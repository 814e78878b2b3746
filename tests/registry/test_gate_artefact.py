"""A calibrated gate on disk: the same again when read, and refused when it is anything else."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from extproc.apis.model_answer import ModelAnswer
from extproc.errors import ArtefactUnusable
from extproc.gate.answer_features import NAMES
from extproc.gate.gate_vocabulary import Asked
from extproc.gate.goodness import Goodness, Logit
from extproc.registry.gate_artefact import CalibratedGate, GateManifest, prompt_key, read, write
from extproc.registry.gate_settings import Gate
from extproc.registry.judge_compiling import compile_judge
from extproc.vocabulary import Api

ASKED = Asked(api=Api.OPENAI_CHAT, text="What is 6 * 7?")
GOOD, BAD = ModelAnswer(text="6 * 7 = 42"), ModelAnswer(text="6 * 7 = 43")


def logit(width: int, wrong_sums: float, agrees: float = 0.0) -> Logit:
    weights = np.zeros(width)
    weights[NAMES.index("sums_wrong")] = wrong_sums
    if width > len(NAMES):
        weights[-1] = agrees
    return Logit(np.zeros(width), np.ones(width), weights, 1.0)


def gate(paired: bool = True) -> CalibratedGate:
    manifest = GateManifest(
        small="small",
        large="large",
        threshold=0.5,
        threshold_paired=0.5 if paired else None,
        escalation=0.3,
        target="quality 0.95",
        data_sha256="",
        seed=0,
        rows=2,
        metrics={},
    )
    beside = logit(len(NAMES) + 1, -4.0, 3.0) if paired else None
    keys = np.array([prompt_key("a"), prompt_key("b")], np.uint64)
    return CalibratedGate(manifest, Goodness(logit(len(NAMES), -4.0), beside), keys)


@pytest.mark.parametrize("paired", [True, False])
def test_what_is_read_judges_as_what_was_written(tmp_path: Path, paired: bool) -> None:
    write(tmp_path, gate(paired))
    found = read(tmp_path)
    assert set(found.fitted.tolist()) == {prompt_key("a"), prompt_key("b")}
    for second in (None, GOOD):
        for answer in (GOOD, BAD):
            probability = found.goodness.probability(ASKED, answer, second)
            assert probability == gate(paired).goodness.probability(ASKED, answer, second)


def test_the_registrys_judge_scores_by_it_and_a_second_answer_counts(tmp_path: Path) -> None:
    write(tmp_path, gate())
    judge = compile_judge(Gate(), read(tmp_path))
    assert judge.judge(ASKED, GOOD).keep
    rejected = judge.judge(ASKED, BAD)
    assert (rejected.keep, rejected.gate, rejected.reason) == (False, "score", "low_score")
    assert judge.judge(ASKED, BAD, BAD).keep
    assert not compile_judge(Gate(threshold=0.9), read(tmp_path)).judge(ASKED, GOOD).keep


def test_features_far_from_all_that_was_fitted_on_stay_bounded() -> None:
    far = logit(len(NAMES), -4.0).log_odds(np.full(len(NAMES), 1e300))
    assert far == pytest.approx(1.0 - 4.0 * 6.0)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    write(tmp_path, gate())
    weights = tmp_path / "gate.npz"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtefactUnusable, match="damaged"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": 99}, "has format 99; expected 1"),
        ({"features": ["length"]}, "fit it anew"),
        ({"threshold": "high"}, "not the manifest of a gate"),
    ],
)
def test_a_manifest_of_another_make_is_refused(
    tmp_path: Path, change: dict[str, object], problem: str
) -> None:
    write(tmp_path, gate())
    manifest = tmp_path / "gate.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    with pytest.raises(ArtefactUnusable, match=problem):
        read(tmp_path)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    good = gate(paired=False)
    alone = msgspec.structs.replace(good.goodness.alone, bias=float("nan"))
    write(tmp_path, msgspec.structs.replace(good, goodness=Goodness(alone)))
    with pytest.raises(ArtefactUnusable, match="not finite"):
        read(tmp_path)


def test_an_empty_directory_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(ArtefactUnusable, match="extproc gate fit"):
        read(tmp_path)
