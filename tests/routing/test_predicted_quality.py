"""Predicted quality as serving reads it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import EncoderFailed
from extproc.routing.lexical_features import lexical
from extproc.routing.predicted_quality import (
    FOLDED,
    LONGEST,
    NAMES,
    Familiarity,
    Forecast,
    Quality,
    QualityHead,
    fold,
    surface,
)
from extproc.routing.trained_heads import Inputs, Standard
from extproc.vocabulary import Embedding

WIDTH = 4 + len(NAMES) + 2 * FOLDED
# The head counts fully, however near the nearest training prompt is.
TRUSTED = Familiarity(
    np.eye(1, 4, dtype=np.float32), -3.0, -2.0, 1.0, np.zeros(2, np.float32), np.zeros(2, np.float32)
)


def quality(*, deep: bool = False) -> Quality:
    """Model `b` is good where the first layer feature is high; `a` always half; tokens of `a` are known."""
    weights = np.zeros((WIDTH, 2), np.float32)
    weights[0, 1] = 4.0
    return Quality(
        models=("a", "b"),
        reading=QualityHead(
            Standard(np.zeros(4, np.float32), np.ones(4, np.float32), 1),
            deep,
            np.zeros(len(NAMES), np.float32),
            np.ones(len(NAMES), np.float32),
        ),
        weights=weights,
        bias=np.zeros(2, np.float32),
        mean=np.array([0.5, 0.75], np.float32),
        length=np.zeros(WIDTH, np.float32),
        tokens=np.array([np.log(100), np.nan], np.float32),
        familiarity=TRUSTED,
    )


def embedding(*values: float, inner: tuple[float, ...] | None = None) -> Embedding:
    vector = np.array(values, np.float32)
    return Embedding(vector, 1, 0.0, 0.0, None if inner is None else np.array(inner, np.float32))


def test_one_request_is_forecast_as_many_are_predicted() -> None:
    vectors = np.array([[1, 0, 0, 0], [-1, 0, 0, 0], [0, 1, 0, 0]], np.float32)
    texts = ["add 1 and 2", "why?", ""]
    together = quality().predict(Inputs(vectors, words=lexical(texts)), surface(texts))
    for row, vector, text in zip(together, vectors, texts, strict=True):
        found = quality().forecasts(embedding(*vector), text, ["a", "b"]).forecasts
        np.testing.assert_allclose([found["a"].quality, found["b"].quality], row, atol=1e-6)
    assert together[0, 1] > 0.95 > 0.05 > together[1, 1]


def test_only_models_asked_for_are_told_and_a_length_only_where_known() -> None:
    found = quality().forecasts(embedding(0, 1, 0, 0), "x", ["b", "c"]).forecasts
    assert found == {"b": Forecast(pytest.approx(0.5), None)}
    lengths = quality().forecasts(embedding(0, 1, 0, 0), "x", ["a"]).forecasts["a"].tokens
    assert lengths == pytest.approx(100, rel=1e-5)


def test_without_a_text_each_model_is_as_good_as_it_usually_is() -> None:
    assert quality().usual(["b"]).forecasts == {"b": Forecast(0.75)}


def test_an_encoder_without_inner_layers_cannot_take_the_place_of_one_with_them() -> None:
    with pytest.raises(EncoderFailed, match="inner layers"):
        quality(deep=True).forecasts(embedding(1, 0, 0, 0), "x", ["a"])
    opposed = embedding(-1, 0, 0, 0, inner=(1, 0, 0, 0))
    found = quality(deep=True).forecasts(opposed, "x", ["b"]).forecasts
    assert found["b"].quality > 0.95


def test_folding_keeps_texts_that_share_words_close() -> None:
    near, same, far = fold(lexical(["how far is the moon", "how far is the sun", "Grüße"]))
    assert near @ same > 3 * abs(near @ far)
    assert near @ near == pytest.approx(2.0, abs=1e-5)


def of(text: str, name: str) -> float:
    return float(surface([text])[0, NAMES.index(name)])


def test_counts_are_logarithms_of_what_is_there() -> None:
    text = "If 3 of 12.5 apples are not red, how many are? Two."
    assert of(text, "characters") == np.float32(np.log1p(len(text)))
    assert of(text, "numbers") == np.float32(np.log1p(2))
    assert of(text, "sentences") == np.float32(np.log1p(2))
    assert of(text, "negations") == np.float32(np.log1p(1))
    assert of(text, "decimals") == 1.0
    assert of(text, "questions") == np.float32(np.log1p(1))


def test_only_the_length_tells_of_what_stands_beyond_the_longest_text_read() -> None:
    long, longer = "a" * LONGEST, "a" * LONGEST + " 1 2 3 4 ??"
    differ = surface([long])[0] != surface([longer])[0]
    assert [name for name, other in zip(NAMES, differ, strict=True) if other] == ["characters"]


@given(st.text())
def test_any_text_has_them_all_and_they_are_finite(text: str) -> None:
    found = surface([text])
    assert found.shape == (1, len(NAMES))
    assert np.isfinite(found).all()


def test_no_texts_have_no_rows() -> None:
    assert surface([]).shape == (0, len(NAMES))


def test_the_less_a_text_is_like_training_the_more_length_and_mean_count() -> None:
    trust = Familiarity(
        np.eye(1, 4, dtype=np.float32), 0.2, 0.6, 0.8, np.array([0.0, 0.0], np.float32),
        np.array([1.0, -1.0], np.float32),
    )  # fmt: skip
    vectors = np.array([[1, 0, 0, 0], [0.4, 0, 0, 0], [0, 1, 0, 0]], np.float32)
    similarity = trust.similarity(vectors)
    np.testing.assert_allclose(trust.trust(similarity), [0.8, 0.4, 0.0], atol=1e-6)
    head = np.full((3, 2), 2.0, np.float32)
    blended = trust.blend(head, similarity, np.zeros(3, np.float32))
    np.testing.assert_allclose(blended, [[1.8, 1.4], [1.4, 0.2], [1.0, -1.0]], atol=1e-6)


def test_the_similarity_to_training_comes_with_the_forecasts_and_not_without_an_embedding() -> None:
    embedding = Embedding(np.array([0.5, 0, 0, 0], np.float32), 1, 0.0, 0.0)
    assert quality().forecasts(embedding, "hello", ["a"]).similarity == pytest.approx(0.5)
    assert quality().usual(["a"]).similarity is None
