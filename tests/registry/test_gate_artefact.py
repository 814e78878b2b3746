"""A calibrated gate on disk: the same again when read, and refused when it is anything else."""

import hashlib
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from extproc.apis.model_answer import ModelAnswer
from extproc.errors import ArtefactUnusable, RegistryError
from extproc.gate.answer_scoring import NAMES, Goodness, Logit
from extproc.gate.judged_request import JudgedRequest
from extproc.gate.refusal_patterns import PATTERNS
from extproc.registry import gate_artefact
from extproc.registry.cascade_settings import Gate
from extproc.registry.gate_artefact import (
    CalibratedGate,
    GateManifest,
    calibrations,
    prompt_key,
    read,
    write,
)
from extproc.registry.registry_files import Files
from extproc.registry.tier_compiling import compile_judge
from extproc.registry.yaml_source import Source
from extproc.vocabulary import Api

ASKED = JudgedRequest(api=Api.OPENAI_CHAT, text="What is 6 * 7?")
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
        ({"format": 99}, "has format 99; expected 2"),
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


# --- Artefacts that a registry names --------------------------------------------------------------


def named_by(directory: Path, text: str) -> tuple[dict[str, CalibratedGate], Files]:
    """The calibrations of a registry that has these gates."""
    source, files = Source(str(directory / "registry.yaml"), text), Files()
    gates = msgspec.convert(source.value["gates"], dict[str, Gate])
    return dict(calibrations(gates, source, files)), files


def test_an_artefact_is_found_beside_the_registry_and_is_part_of_its_version(tmp_path: Path) -> None:
    text = "gates:\n  sound: {finish: true}\n  good: {artefact: learnt}\n"
    write(tmp_path / "learnt", gate())
    found, files = named_by(tmp_path, text)
    assert list(found) == ["good"]
    assert found["good"].manifest.small == "small"
    changed = gate()
    manifest = msgspec.structs.replace(changed.manifest, threshold=0.6)
    write(tmp_path / "learnt", msgspec.structs.replace(changed, manifest=manifest))
    assert named_by(tmp_path, text)[1].version != files.version


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "artefact: nowhere",
            "artefact: .*nowhere/gate.json is not there .*`extproc gate fit --registry .*`",
        ),
        ("threshold: 0.5", "expected `artefact` to name a directory"),
    ],
)
def test_what_is_wrong_is_told_by_its_line(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(RegistryError, match=rf"registry\.yaml:3: .*{problem}"):
        named_by(tmp_path, f"gates:\n  good:\n    {line}\n")


def test_an_artefact_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    text = "gates:\n  good: {artefact: learnt}\n"
    source, files = Source(str(tmp_path / "registry.yaml"), text), Files()
    with pytest.raises(RegistryError):
        calibrations(msgspec.convert(source.value["gates"], dict[str, Gate]), source, files)
    assert list(files.prints) == [tmp_path / "learnt" / "gate.json"]


def test_a_damaged_artefact_is_told_where_it_is_named(tmp_path: Path) -> None:
    write(tmp_path / "learnt", gate())
    (tmp_path / "learnt" / "gate.npz").write_bytes(b"")
    with pytest.raises(RegistryError, match=r"registry\.yaml:2: artefact: .* is damaged"):
        named_by(tmp_path, "gates:\n  good: {artefact: learnt}\n")


def test_the_format_is_of_these_refusal_patterns() -> None:
    """When this fails: raise ``FORMAT``, as a gate was fitted on what the patterns found; take the digest."""
    patterns = "\n".join(f"{name}: {pattern}" for name, pattern in PATTERNS.items())
    digest = hashlib.sha256(patterns.encode()).hexdigest()[:12]
    assert (gate_artefact.FORMAT, digest) == (2, "7cb26bed44a6")
