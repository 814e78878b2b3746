from pathlib import Path

import msgspec
import numpy as np
import pytest

from extproc.errors import ArtefactUnusable, RegistryError
from extproc.registry.head_artefact import FORMAT, HeadManifest, check_encoder, kind_of, read, write
from extproc.registry.registry_loading import load
from extproc.registry.snapshot_compiling import compile_snapshot
from extproc.routing.calibration import Calibration
from extproc.routing.embedding_scorer import Meaning
from extproc.routing.fastpath import Words
from extproc.routing.lexical_features import WIDTH, lexical
from extproc.routing.scope import MEASURES, ScopeScore
from extproc.routing.scorers import Centroids, Logistic, Matrix, Prototypes
from extproc.routing.trained_heads import Head, Lexicon, Linear, OnEmbedding, Perceptron, Standard, Trained
from extproc.vocabulary import Embedding
from tests.routing.fast_path_words import SameVector, words_of

ROUTES = ("chat", "work")
REGISTRY = """\
models:
  small: {base_url: 'http://127.0.0.1:1'}
default: small
artefact: trained
routes:
  chat: {candidates: small, examples: [hi]}
  work: {candidates: small, examples: [plan]}
"""


def random(*shape: int) -> Matrix:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def blend() -> Trained:
    slots = np.full(WIDTH, 2, np.int32)
    slots[lexical(["plan it"]).columns[:2]] = [0, 1]
    return Trained(
        standard=Standard(random(12), np.abs(random(12)) + 1, 3),
        linear=Linear(random(12, 2), random(2)),
        lexicon=Lexicon(
            slots, np.ones(WIDTH, np.float32), np.array([[1, 0], [0, 1], [0, 0]], np.float32), 0.6
        ),
        perceptron=Perceptron(random(12, 5), random(5), random(5, 2), random(2)),
        temperatures=(2.0, 0.5),
    )


HEADS: dict[str, Head] = {
    "centroid": OnEmbedding(Centroids(random(2, 4))),
    "prototypes": OnEmbedding(Prototypes(random(3, 4), np.array([0, 2]))),
    "logistic": OnEmbedding(Logistic(random(2, 4), random(2))),
    "linear": Trained(
        Standard(random(12), np.ones(12, np.float32), 3), linear=Linear(random(12, 2), random(2))
    ),
    "blend": blend(),
}


def meaning(head: Head) -> Meaning:
    return Meaning(
        routes=ROUTES,
        head=head,
        calibration=Calibration(0.7, np.array([0.5, 1.0]), np.array([0.4, 0.9])),
        examples=random(3, 4),
        texts=("hi", "plan it", "größer ☃"),
        starts=np.array([0, 1]),
        scope=ScopeScore(random(2, 4), 2.1, *random(3, len(MEASURES)).astype(np.float64), 0.3, 0.42),
    )


def manifest(head: Head) -> HeadManifest:
    return HeadManifest(
        format=FORMAT, scorer="x", kind=kind_of(head), encoder="enc/int8", routes=ROUTES, data_sha256="0" * 64,
        seed=0, split={}, temperature=0.7, temperatures=(2.0, 0.5), norm=0.6,
        thresholds={"margin": 0.31, "in_scope": 0.42}, metrics={},
        scope={"temperature": 2.1, "bias": 0.3, "floor": 0.42},
    )  # fmt: skip


def words() -> Words:
    return words_of(ROUTES, {"plan": [1, -1], "hi": [-1, 1]}, least=0.0, temperature=0.8)


def put_with_words(directory: Path, **about: float) -> Path:
    learnt = {"temperature": 0.8, "norm": 0.6, "least": 0.0, **about}
    write(directory, msgspec.structs.replace(manifest(blend()), fast_path=learnt), meaning(blend()), words())
    return directory


def put(directory: Path, head: Head) -> Path:
    write(directory, manifest(head), meaning(head))
    return directory


@pytest.mark.parametrize("kind", HEADS)
def test_what_is_read_scores_as_what_was_written(tmp_path: Path, kind: str) -> None:
    found = read(put(tmp_path, HEADS[kind]), ROUTES).meaning
    embedding = Embedding(random(4), 1, 0.0, 0.0, random(8))
    assert found.score(embedding, "plan it") == meaning(HEADS[kind]).score(embedding, "plan it")


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = put(tmp_path / "one", blend()), put(tmp_path / "other", blend())
    for name in ("manifest.json", "weights.npz"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_another_encoder_is_refused_and_the_expected_one_named(tmp_path: Path) -> None:
    found = read(put(tmp_path, blend()), ROUTES)
    check_encoder(found, "enc/int8")
    with pytest.raises(ArtefactUnusable, match=r"vectors of enc/int8, and this encoder is enc/fp16"):
        check_encoder(found, "enc/fp16")


def test_other_routes_are_refused_and_the_expected_ones_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactUnusable, match="routes chat, work; expected chat, play"):
        read(put(tmp_path, blend()), ("chat", "play"))


@pytest.mark.parametrize(
    ("name", "damage", "problem"),
    [
        ("weights.npz", lambda content: content[:-1], "damaged"),
        ("weights.npz", lambda content: content.replace(b"centre", b"CENTRE"), "damaged"),
        ("weights.npz", None, "expected a directory written by `extproc train`"),
        ("manifest.json", None, "expected a directory written by `extproc train`"),
        ("manifest.json", lambda _: b"[]", "not the manifest of a trained head"),
        ("manifest.json", lambda _: b"{", "not the manifest of a trained head"),
        ("manifest.json", lambda content: content.replace(b'"format": 3', b'"format": 9'), "format 9; expected 3"),
        ("manifest.json", lambda content: content.replace(b'"seed"', b'"sead"'), "not the manifest of a trained head"),
    ],
)  # fmt: skip
def test_damage_is_reported(tmp_path: Path, name: str, damage: object, problem: str) -> None:
    path = put(tmp_path, blend()) / name
    if callable(damage):
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    with pytest.raises(ArtefactUnusable, match=problem):
        read(tmp_path, ROUTES)


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    write(tmp_path, msgspec.structs.replace(manifest(blend()), kind="centroid"), meaning(blend()))
    with pytest.raises(ArtefactUnusable, match="not a trained head"):
        read(tmp_path, ROUTES)


def test_a_directory_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactUnusable, match="cannot write to"):
        put(tmp_path / "file" / "below", blend())


class Never:
    """An encoder that must not be asked: the artefact holds all vectors."""

    def __init__(self, name: str) -> None:
        self.name = name

    def encode(self, texts: object) -> Matrix:
        raise AssertionError(f"asked to encode {texts}")


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    put(tmp_path / "trained", blend())
    path = tmp_path / "registry.yaml"
    path.write_text(REGISTRY)
    return path


def test_a_registry_serves_its_artefact_and_fits_nothing(registry: Path) -> None:
    snapshot = compile_snapshot(load(registry), Never("enc/int8"))
    assert snapshot.meaning is not None
    assert isinstance(snapshot.meaning.head, Trained)
    with pytest.raises(ArtefactUnusable, match="this encoder is enc/fp16"):
        compile_snapshot(load(registry), Never("enc/fp16"))


def test_floors_are_the_artefacts_unless_the_registry_says_otherwise(registry: Path) -> None:
    policy = compile_snapshot(load(registry), Never("enc/int8")).routes["chat"]
    assert (policy.margin_floor, policy.in_scope_floor, policy.similarity_floor) == (0.31, 0.42, None)
    registry.write_text(REGISTRY + "thresholds: {margin: 0.05}\n")
    policy = compile_snapshot(load(registry), Never("enc/int8")).routes["chat"]
    assert (policy.margin_floor, policy.in_scope_floor, policy.similarity_floor) == (0.05, 0.42, None)


def test_the_version_follows_the_artefact(registry: Path) -> None:
    before = load(registry).version
    put(registry.parent / "trained", HEADS["linear"])
    assert load(registry).version != before


def test_a_bad_artefact_is_reported_with_the_line_of_its_key(registry: Path) -> None:
    (registry.parent / "trained" / "weights.npz").write_bytes(b"")
    with pytest.raises(RegistryError, match=r"registry\.yaml:4: artefact: .*damaged"):
        load(registry)
    assert load(registry, untrained=True).artefact is None


def test_the_words_of_a_fast_path_come_back_as_they_were(tmp_path: Path) -> None:
    found = read(put_with_words(tmp_path), ROUTES).words
    assert found is not None
    assert (found.routes, found.least) == (ROUTES, 0.0)
    for text in ("plan it", "hi", "größer ☃"):
        assert found.read(text, SameVector()) == words().read(text, SameVector())
    assert read(put(tmp_path, blend()), ROUTES).words is None


def test_a_registry_takes_the_fast_path_only_when_it_asks_for_it(registry: Path) -> None:
    put_with_words(registry.parent / "trained")
    plain = compile_snapshot(load(registry), Never("enc/int8"), SameVector())
    assert (plain.fast_path, plain.fast_path_open) == (None, None)
    registry.write_text(REGISTRY + "fast_path: {sample: 0.2}\n")
    asked = compile_snapshot(load(registry), Never("enc/int8"), SameVector())
    assert asked.fast_path is not None
    assert (asked.fast_path.sample, asked.fast_path_open) == (0.2, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            REGISTRY + "fast_path: {}\n",
            r"registry\.yaml:8: fast_path: the artefact was trained without a fast path",
        ),
        (
            REGISTRY.replace("artefact: trained\n", "fast_path: {}\n"),
            r"registry\.yaml:4: fast_path: needs an artefact",
        ),
        (REGISTRY + "fast_path: {sample: 0}\n", r"registry\.yaml:8: .*sample.*> 0"),
    ],
)
def test_a_fast_path_that_cannot_be_used_is_reported_with_its_line(
    registry: Path, text: str, said: str
) -> None:
    put(registry.parent / "trained", blend())
    registry.write_text(text)
    with pytest.raises(RegistryError, match=said):
        load(registry)


def test_another_artefact_may_be_taken_in_place_of_the_registrys(registry: Path) -> None:
    other = put(registry.parent / "other", HEADS["linear"])
    loaded = load(registry, artefact=other)
    assert loaded.artefact is not None
    assert type(loaded.artefact.meaning.head) is type(HEADS["linear"])
    assert loaded.version != load(registry).version
    with pytest.raises(RegistryError, match="nowhere"):
        load(registry, artefact=registry.parent / "nowhere")
