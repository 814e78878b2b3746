import numpy as np
import pytest

from extproc.routing.lexical_features import WIDTH, lexical
from extproc.routing.scorers import Matrix, softmax
from extproc.routing.trained_heads import Inputs, Lexicon, Linear, Perceptron, Standard, Trained, log_softmax

RANDOM = np.random.default_rng(0)
TEXTS = ["how do I sort a list", "good morning to you", ""]


def random(*shape: int) -> Matrix:
    return RANDOM.normal(size=shape).astype(np.float32)


VECTORS, INNER = random(3, 4), random(3, 8)
STANDARD = Standard(centre=random(12), scale=np.abs(random(12)) + 1, blocks=3)
LINEAR = Linear(random(12, 2), random(2))
PERCEPTRON = Perceptron(random(12, 5), random(5), random(5, 2), random(2))


def lexicon() -> Lexicon:
    slots = np.full(WIDTH, 6, np.int32)
    slots[lexical(TEXTS[:1]).columns[:6]] = np.arange(6)
    weights = random(7, 2)
    weights[6] = 0
    return Lexicon(slots, np.abs(random(WIDTH)) + 1, weights, norm=0.6)


def test_each_block_counts_the_same_whatever_its_scale() -> None:
    rows = STANDARD.apply(Inputs(VECTORS, INNER)).reshape(3, 3, 4)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=2), 1, rtol=1e-5)


def test_words_and_characters_of_any_text_weigh_as_much_as_agreed() -> None:
    found, words = lexicon(), lexical(TEXTS)
    for row in (0, 1):
        values, split = found.values(words, row), int(words.words[row])
        assert np.linalg.norm(values[:split]) == pytest.approx(0.6, rel=1e-5)
        assert np.linalg.norm(values[split:]) == pytest.approx(0.6, rel=1e-5)


def test_features_that_training_never_saw_add_nothing() -> None:
    logits = lexicon().logits(lexical(TEXTS))
    assert np.abs(logits[0]).max() > 0
    np.testing.assert_array_equal(logits[2], 0)


def test_rarity_is_not_changed_by_scoring() -> None:
    found = lexicon()
    before = found.rarity.copy()
    found.logits(lexical(TEXTS))
    np.testing.assert_array_equal(found.rarity, before)


def test_one_row_scores_as_it_does_among_others() -> None:
    head = Trained(STANDARD, LINEAR, lexicon(), PERCEPTRON, (2.0, 0.5))
    together = head.logits(Inputs(VECTORS, INNER, lexical(TEXTS)))
    for row, text in enumerate(TEXTS):
        alone = head.logits(Inputs(VECTORS[row : row + 1], INNER[row : row + 1], lexical([text])))
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-4, atol=1e-5)


def test_a_blend_is_the_mean_of_both_parts_log_probabilities_at_their_temperatures() -> None:
    inputs = Inputs(VECTORS, INNER)
    linear = Trained(STANDARD, linear=LINEAR).logits(inputs)
    perceptron = Trained(STANDARD, perceptron=PERCEPTRON).logits(inputs)
    both = Trained(STANDARD, LINEAR, None, PERCEPTRON, (2.0, 0.5)).logits(inputs)
    expected = (np.log(softmax(linear / 2)) + np.log(softmax(perceptron / 0.5))) / 2
    np.testing.assert_allclose(both, expected, rtol=1e-4, atol=1e-5)


def test_impossible_routes_have_finite_log_probabilities() -> None:
    assert np.isfinite(log_softmax(np.array([[0.0, -1e6]], np.float32))).all()
