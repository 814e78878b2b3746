"""Calibrated log-odds of predicted quality."""

import numpy as np
import pytest

from extproc.lab.train.quality_calibration import calibrate


def test_calibration_of_a_model_with_few_answers_is_that_of_all() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(2000, 2)) * 2
    scores = (random.random((2000, 2)) < 1 / (1 + np.exp(-(0.5 * logits + 1)))).astype(np.float64)
    scores[3:, 1] = np.nan
    slope, shift = calibrate(logits, scores)
    np.testing.assert_allclose(slope, [0.5, 0.5], atol=0.12)
    assert shift[0] == pytest.approx(1.0, abs=0.15)


def test_a_model_that_never_failed_is_not_taken_for_certain() -> None:
    logits = np.linspace(-3, 3, 60)[:, None] * np.ones(2)
    scores = np.stack([np.ones(60), logits[:, 1] > 0], axis=1).astype(np.float64)
    slope, shift = calibrate(logits, scores)
    likely = 1 / (1 + np.exp(-(logits * slope + shift)))
    assert (likely[:, 0] > 0.8).mean() > 0.9
    assert likely.max() < 0.999
