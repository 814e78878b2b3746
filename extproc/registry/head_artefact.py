"""A trained head on disk: a directory of `weights.npz` and `manifest.json`.

`registry.weights_bundle` writes and reads the files.
"""

from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.errors import ArtefactUnusable
from extproc.registry.weights_bundle import Arrays, Bundle
from extproc.routing.calibration import Calibration
from extproc.routing.embedding_scorer import Meaning
from extproc.routing.fastpath import MEASURES as WORD_MEASURES
from extproc.routing.fastpath import Agreement, Words
from extproc.routing.lexical_features import WIDTH
from extproc.routing.scope import MEASURES, ScopeScore
from extproc.routing.scorers import Centroids, Logistic, Prototypes
from extproc.routing.trained_heads import Head, Lexicon, Linear, OnEmbedding, Perceptron, Standard, Trained

MANIFEST, WEIGHTS = "manifest.json", "weights.npz"
_OF_WORDS = "words_"  # begins the names of the fast path's arrays
FORMAT = 3  # raise it when a reader of the former one would misread the new

# `default`: training kept what decides without an artefact, and there are no weights.
Kind = Literal["centroid", "prototypes", "logistic", "trained", "default"]


class HeadManifest(msgspec.Struct, frozen=True, kw_only=True):
    """Describes a trained head: its routes, its encoder and its quality on rows outside of training."""

    format: int
    scorer: str  # what `extproc train` chose
    kind: Kind  # which arrays the weights hold
    encoder: str  # whose vectors it was fitted on
    routes: tuple[str, ...]
    data_sha256: str
    seed: int
    split: dict[str, float]
    temperature: float
    temperatures: tuple[float, float]  # of the parts of a blend
    norm: float  # of lexical features
    thresholds: dict[str, float]  # margin, in_scope, target_wrong
    scope: dict[str, float]  # of the scope score: temperature, bias and default floor
    metrics: dict[str, Any]
    comparison: dict[str, Any] = {}  # with the default scorer; empty: not compared
    fast_path: dict[str, float] = {}  # temperature, norm, least, and what was measured; empty: there is none
    weights_sha256: str = ""


class Artefact(msgspec.Struct, frozen=True):
    """An artefact in memory."""

    manifest: HeadManifest
    meaning: Meaning
    words: Words | None = None  # of the fast path, where it was trained


_FILES = Bundle(
    manifest=MANIFEST,
    weights=WEIGHTS,
    kind=HeadManifest,
    format=FORMAT,
    command="extproc train",
    manifest_words="the manifest of a trained head",
    weights_words="a trained head",
)


def write(directory: Path, manifest: HeadManifest, meaning: Meaning, words: Words | None = None) -> None:
    """Write both files; an older artefact there is replaced. Raises ``ArtefactUnusable``."""
    _FILES.write(directory, manifest, _arrays(meaning) | ({} if words is None else _word_arrays(words)))


def write_default(directory: Path, manifest: HeadManifest) -> None:
    """Write a manifest without weights: the registry's examples and scorer decide, as without an artefact.

    Raises ``ArtefactUnusable``.
    """
    _FILES.remove(directory)
    _FILES.write_manifest(directory, msgspec.structs.replace(manifest, kind="default"))


def keeps_default(directory: Path) -> bool:
    """Whether training kept the default scorer. Raises ``ArtefactUnusable``."""
    return _FILES.read_manifest(directory).kind == "default"


def remove(directory: Path) -> None:
    """Delete both files, for an artefact that was trained on outcomes alone."""
    _FILES.remove(directory)


def read(directory: Path, routes: tuple[str, ...]) -> Artefact:
    """The artefact for a registry of these routes. Raises ``ArtefactUnusable``."""
    manifest = _FILES.read_manifest(directory)
    if set(manifest.routes) != set(routes):
        raise ArtefactUnusable(
            f"{directory} was trained for the routes {', '.join(manifest.routes)}; expected "
            f"{', '.join(routes)} (train it again)"
        )

    def made(arrays: Arrays) -> Artefact:
        words = _words(manifest, arrays) if manifest.fast_path else None
        return Artefact(manifest, _meaning(manifest, arrays), words)

    return _FILES.read_weights(directory, manifest, made)


def check_encoder(artefact: Artefact, encoder: str) -> None:
    """Raises ``ArtefactUnusable`` if the artefact was trained on vectors of another encoder."""
    if artefact.manifest.encoder != encoder:
        raise ArtefactUnusable(
            f"the artefact was trained on vectors of {artefact.manifest.encoder}, and this encoder is "
            f"{encoder} (train it again, or set encoder.device and encoder.precision as in training)"
        )


def _arrays(meaning: Meaning) -> dict[str, NDArray[Any]]:
    return {
        "examples": meaning.examples,
        "starts": meaning.starts.astype(np.int64),
        "texts": np.frombuffer(msgspec.json.encode(meaning.texts), np.uint8),
        "claimed": meaning.calibration.claimed,
        "reached": meaning.calibration.reached,
        **_scope_arrays(meaning.scope),
        **_head_arrays(meaning.head),
    }


def _scope_arrays(scope: ScopeScore | None) -> dict[str, NDArray[Any]]:
    if scope is None:
        return {}
    return {
        "route_centroids": scope.centroids,
        "scope_centres": scope.centres,
        "scope_scales": scope.scales,
        "scope_weights": scope.weights,
    }


def _head_arrays(head: Head) -> dict[str, NDArray[Any]]:
    match head:
        case OnEmbedding(Centroids(centroids)):
            return {"centroids": centroids}
        case OnEmbedding(Prototypes(prototypes, starts)):
            return {"prototypes": prototypes, "prototype_starts": starts.astype(np.int64)}
        case OnEmbedding(Logistic(weights, bias)):
            return {"weights": weights, "bias": bias}
        case Trained():
            return _trained_arrays(head)
        case _:
            raise TypeError(f"no artefact holds a {type(head).__name__}")


def _trained_arrays(head: Trained) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {
        "centre": head.standard.centre,
        "scale": head.standard.scale,
        "blocks": np.array([head.standard.blocks], np.int64),
    }
    if head.linear is not None:
        found |= {"linear": head.linear.weights, "linear_bias": head.linear.bias}
    if head.lexicon is not None:
        lexicon = head.lexicon
        found |= {"slots": lexicon.slots, "rarity": lexicon.rarity, "lexical": lexicon.weights}
    if head.perceptron is not None:
        part = head.perceptron
        found |= {
            "hidden": part.hidden,
            "hidden_bias": part.hidden_bias,
            "output": part.weights,
            "output_bias": part.bias,
        }
    return found


def _word_arrays(words: Words) -> dict[str, NDArray[Any]]:
    """The arrays of the head, each name with a prefix, and those that say when it decides."""
    return {f"{_OF_WORDS}{name}": array for name, array in _trained_arrays(words.head).items()} | {
        "words_prototypes": words.prototypes.prototypes,
        "words_prototype_starts": words.prototypes.starts.astype(np.int64),
        "words_agreement_centres": words.agreement.centres,
        "words_agreement_scales": words.agreement.scales,
        "words_agreement_weights": words.agreement.weights,
        "words_agreement_biases": words.agreement.biases,
    }


def _words(manifest: HeadManifest, arrays: Arrays) -> Words:
    """Raises ValueError or KeyError where the arrays do not fit each other."""
    about, routes = manifest.fast_path, len(manifest.routes)
    own = {
        name.removeprefix(_OF_WORDS): array for name, array in arrays.items() if name.startswith(_OF_WORDS)
    }
    agreement = Agreement(*(own[f"agreement_{name}"] for name in ("centres", "scales", "weights", "biases")))
    prototypes = Prototypes(own["prototypes"], own["prototype_starts"].astype(np.intp))
    if len(agreement.biases) != routes or len(prototypes.starts) != routes:
        raise ValueError("its fast path does not fit its routes")
    if not len(agreement.centres) == len(agreement.scales) == len(agreement.weights) == len(WORD_MEASURES):
        raise ValueError(f"its fast path has not {len(WORD_MEASURES)} measures")
    head = _trained(own, about["norm"], (1.0, 1.0))
    return Words(manifest.routes, head, about["temperature"], prototypes, agreement, about["least"])


def _lexicon(
    slots: NDArray[np.int32], rarity: NDArray[np.float32], weights: NDArray[np.float32], norm: float
) -> Lexicon:
    if len(slots) != WIDTH or len(rarity) != WIDTH:
        raise ValueError(f"its lexical features are not {WIDTH}")
    if slots.min() < 0 or slots.max() >= len(weights):
        raise ValueError("its lexical features point beyond its weights")
    return Lexicon(slots, rarity, weights, norm)


def kind_of(head: Head) -> Kind:
    """The kind of head, as the manifest names it."""
    match head:
        case OnEmbedding(Centroids()):
            return "centroid"
        case OnEmbedding(Prototypes()):
            return "prototypes"
        case OnEmbedding(Logistic()):
            return "logistic"
        case _:
            return "trained"


def _meaning(manifest: HeadManifest, arrays: Arrays) -> Meaning:
    """Raises ValueError or KeyError where the arrays do not fit each other."""
    texts = msgspec.json.decode(arrays["texts"].tobytes(), type=tuple[str, ...])
    examples, starts = arrays["examples"], arrays["starts"].astype(np.intp)
    if examples.ndim != 2 or len(examples) != len(texts) or len(starts) != len(manifest.routes):
        raise ValueError("its examples do not fit its routes")
    meaning = Meaning(
        routes=manifest.routes,
        head=_head(manifest, arrays),
        calibration=Calibration(manifest.temperature, arrays["claimed"], arrays["reached"]),
        examples=examples,
        texts=texts,
        starts=starts,
        scope=_scope(manifest, arrays) if manifest.scope else None,
    )
    if not all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f"):
        raise ValueError("it has numbers that are not finite")
    return meaning


def _scope(manifest: HeadManifest, arrays: Arrays) -> ScopeScore:
    names = ("scope_centres", "scope_scales", "scope_weights")
    centroids, (centres, scales, weights) = arrays["route_centroids"], (arrays[name] for name in names)
    if centroids.shape != (len(manifest.routes), arrays["examples"].shape[1]):
        raise ValueError("its centroids do not fit its routes")
    if not centres.shape == scales.shape == weights.shape == (len(MEASURES),):
        raise ValueError(f"its scope score has not {len(MEASURES)} measures")
    about = manifest.scope
    return ScopeScore(
        centroids, about["temperature"], centres, scales, weights, about["bias"], about["floor"]
    )


def _head(manifest: HeadManifest, arrays: Arrays) -> Head:
    match manifest.kind:
        case "centroid":
            return OnEmbedding(Centroids(arrays["centroids"]))
        case "prototypes":
            return OnEmbedding(Prototypes(arrays["prototypes"], arrays["prototype_starts"].astype(np.intp)))
        case "logistic":
            return OnEmbedding(Logistic(arrays["weights"], arrays["bias"]))
        case "trained":
            return _trained(arrays, manifest.norm, manifest.temperatures)
        case "default":
            raise ValueError("it has no head")


def _trained(arrays: Arrays, norm: float, temperatures: tuple[float, float]) -> Trained:
    standard = Standard(arrays["centre"], arrays["scale"], int(arrays["blocks"][0]))
    linear = Linear(arrays["linear"], arrays["linear_bias"]) if "linear" in arrays else None
    lexicon = None
    if "slots" in arrays:
        lexicon = _lexicon(arrays["slots"], arrays["rarity"], arrays["lexical"], norm)
    perceptron = None
    if "hidden" in arrays:
        names = ("hidden", "hidden_bias", "output", "output_bias")
        perceptron = Perceptron(*(arrays[name] for name in names))
    if linear is None and perceptron is None:
        raise ValueError("it has no head")
    return Trained(standard, linear, lexicon, perceptron, temperatures)
