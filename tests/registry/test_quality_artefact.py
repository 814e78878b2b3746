"""Predicted quality on disk, and registries that ask for it."""

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import pytest

from extproc.errors import ArtefactUnusable, RegistryError
from extproc.registry import head_artefact
from extproc.registry import quality_artefact as qualities
from extproc.registry.registry_loading import load
from extproc.registry.snapshot_compiling import compile_snapshot
from extproc.routing.calibration import Calibration
from extproc.routing.embedding_scorer import Meaning
from extproc.routing.pipeline import Pipeline
from extproc.routing.predicted_quality import FOLDED, NAMES, Familiarity, Quality, QualityHead
from extproc.routing.scorers import Centroids, Matrix
from extproc.routing.trained_heads import OnEmbedding, Standard
from extproc.vocabulary import Api, ChatRequest, Embedding, Question, RequestHead

REGISTRY = """\
models:
  small: {base_url: 'http://127.0.0.1:1', price: {input: 1, output: 1}}
  large: {base_url: 'http://127.0.0.1:2', price: {input: 9, output: 9}}
default: large
artefact: trained
routes:
  chat:
    candidates: [large, small]
    quality_bar: 0.7
    examples: [hello]
rules:
  - {name: short, when: {keyword: ping}, route: chat}
thresholds: {margin: 0, similarity: 0}
"""
WIDTH = 4 + len(NAMES) + 2 * FOLDED


def quality(*models: str) -> Quality:
    """`small` is good where the first number of the vector is high, others always are."""
    weights = np.zeros((WIDTH, len(models)), np.float32)
    weights[0, 0] = 4.0
    bias = np.full(len(models), 3.0, np.float32)
    bias[0] = 0.0
    return Quality(
        models=models,
        reading=QualityHead(
            Standard(np.zeros(4, np.float32), np.ones(4, np.float32), 1),
            False,
            np.zeros(len(NAMES), np.float32),
            np.ones(len(NAMES), np.float32),
        ),
        weights=weights,
        bias=bias,
        mean=np.full(len(models), 0.5, np.float32),
        length=np.zeros(WIDTH, np.float32),
        tokens=np.full(len(models), np.nan, np.float32),
        familiarity=Familiarity(
            np.eye(1, 4, dtype=np.float32),
            -3.0,
            -2.0,
            1.0,
            np.zeros(len(models), np.float32),
            np.zeros(len(models), np.float32),
        ),
    )


def manifest(*models: str, encoder: str = "enc") -> qualities.QualityManifest:
    return qualities.QualityManifest(
        format=qualities.FORMAT, encoder=encoder, models=models, deep=False, data_sha256="d", seed=0, texts=40,
        labels=dict.fromkeys(models, 40), penalty=10.0,
        trust={"far": -3.0, "near": -2.0, "most": 1.0}, metrics={},
    )  # fmt: skip


def put_routes(directory: Path) -> None:
    meaning = Meaning(
        routes=("chat",),
        head=OnEmbedding(Centroids(np.eye(1, 4, k=1, dtype=np.float32))),
        calibration=Calibration(),
        examples=np.eye(1, 4, k=1, dtype=np.float32),
        texts=("hello",),
        starts=np.zeros(1, np.intp),
    )
    about = head_artefact.HeadManifest(
        format=head_artefact.FORMAT, scorer="centroid", kind="centroid", encoder="enc", routes=("chat",),
        data_sha256="d", seed=0, split={}, temperature=1.0, temperatures=(1.0, 1.0), norm=0.0,
        thresholds={}, scope={}, metrics={},
    )  # fmt: skip
    head_artefact.write(directory, about, meaning)


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    put_routes(tmp_path / "trained")
    qualities.write(tmp_path / "trained", manifest("small", "large"), quality("small", "large"))
    path = tmp_path / "registry.yaml"
    path.write_text(REGISTRY)
    return path


class Given:
    """An embedder and encoder of one vector."""

    name = "enc"

    def __init__(self, *vector: float) -> None:
        self._vector = np.array(vector, np.float32)

    async def embed(self, text: str, within_s: float | None = None) -> Embedding:
        return Embedding(self._vector, 1, 0.0, 0.0)

    def encode(self, texts: object) -> Matrix:
        raise AssertionError(f"asked to encode {texts}")


def question(text: str) -> Question:
    request = ChatRequest(Api.OPENAI_CHAT, "auto", {}, text, 10, prompt_chars=40)
    return Question(request, RequestHead("POST", "/v1/chat/completions", {}))


async def test_the_cheapest_model_whose_predicted_quality_clears_the_bar_answers(registry: Path) -> None:
    for first, chosen in ((0.8, "small"), (-0.8, "large")):
        embedder = Given(first, 0.6, 0.0, 0.0)
        snapshot = compile_snapshot(load(registry), embedder)
        decision = await Pipeline(embedder, lambda _, s=snapshot: s, lambda: 0.0).decide(question("hi"))
        assert decision.model == chosen
        offers = {offer.model: offer for offer in decision.offers}
        assert offers["large"].quality == pytest.approx(0.9526, abs=1e-3)
        assert offers["small"].quality is not None
        assert (offers["small"].quality >= 0.7) is (chosen == "small")
        assert decision.training_similarity == pytest.approx(first)
        assert offers["small"].cost == pytest.approx((10 + 256) * 1e-6)


async def test_a_request_that_a_rule_routed_is_taken_for_a_usual_one(registry: Path) -> None:
    embedder = Given(1.0, 0.0, 0.0, 0.0)
    snapshot = compile_snapshot(load(registry), embedder)
    decision = await Pipeline(embedder, lambda _: snapshot, lambda: 0.0).decide(question("ping"))
    assert (decision.stage, decision.model) == ("rule", "small")  # none clears .7; the cheaper of equals
    assert [offer.quality for offer in decision.offers] == [0.5, 0.5]


def test_a_route_without_a_bar_predicts_nothing(registry: Path) -> None:
    registry.write_text(REGISTRY.replace("    quality_bar: 0.7\n", ""))
    embedder = Given(-0.8, 0.6, 0.0, 0.0)
    snapshot = compile_snapshot(load(registry), embedder)
    decision = asyncio.run(Pipeline(embedder, lambda _: snapshot, lambda: 0.0).decide(question("hi")))
    assert (decision.model, decision.offers) == ("small", ())


def test_a_bar_without_an_artefact_is_refused_at_its_line(registry: Path) -> None:
    registry.write_text(REGISTRY.replace("artefact: trained\n", ""))
    with pytest.raises(RegistryError, match=r"registry\.yaml:8: .*extproc train --outcomes"):
        load(registry)


def test_a_bar_over_a_model_that_nothing_is_known_of_is_refused_at_its_line(registry: Path) -> None:
    qualities.write(registry.parent / "trained", manifest("small"), quality("small"))
    with pytest.raises(RegistryError, match=r"registry\.yaml:9: .*does not predict the quality of large"):
        load(registry)


def test_an_artefact_without_quality_is_refused_where_a_route_has_a_bar(registry: Path) -> None:
    qualities.remove(registry.parent / "trained")
    with pytest.raises(RegistryError, match=r"registry\.yaml:5: .*quality\.json"):
        load(registry)
    registry.write_text(REGISTRY.replace("    quality_bar: 0.7\n", ""))
    assert load(registry).quality is None


def test_a_bar_out_of_range_is_refused(registry: Path) -> None:
    registry.write_text(REGISTRY.replace("0.7", "1.7"))
    with pytest.raises(RegistryError, match="quality_bar"):
        load(registry)


def test_the_version_follows_predicted_quality(registry: Path) -> None:
    before = load(registry).version
    about = msgspec.structs.replace(manifest("small", "large"), seed=1)
    qualities.write(registry.parent / "trained", about, quality("small", "large"))
    assert load(registry).version != before


def test_what_is_read_is_what_was_written_and_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        qualities.write(tmp_path / name, manifest("small", "large"), quality("small", "large"))
    for file in (qualities.MANIFEST, qualities.WEIGHTS):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    found = qualities.read(tmp_path / "one").quality
    np.testing.assert_array_equal(found.weights, quality("small", "large").weights)
    assert found.models == ("small", "large")


def test_another_encoder_damage_and_a_later_format_are_reported(tmp_path: Path) -> None:
    qualities.write(tmp_path, manifest("small", "large"), quality("small", "large"))
    with pytest.raises(ArtefactUnusable, match="vectors of enc; expected other"):
        qualities.check_encoder(qualities.read(tmp_path), "other")
    weights = (tmp_path / qualities.WEIGHTS).read_bytes()
    (tmp_path / qualities.WEIGHTS).write_bytes(weights[:-1])
    with pytest.raises(ArtefactUnusable, match="damaged"):
        qualities.read(tmp_path)
    later = msgspec.structs.replace(manifest("small", "large"), format=3)
    qualities.write(tmp_path, later, quality("small", "large"))
    with pytest.raises(ArtefactUnusable, match="format 3; expected 2"):
        qualities.read(tmp_path)


def test_weights_of_another_number_of_models_are_refused(tmp_path: Path) -> None:
    qualities.write(tmp_path, manifest("small", "large"), quality("small"))
    with pytest.raises(ArtefactUnusable, match="`weights` has shape"):
        qualities.read(tmp_path)
