"""Calibrate the log-odds of predicted quality, model by model."""

import numpy as np

from extproc.lab.measure.classification_metrics import Floats
from extproc.routing.predicted_quality import sigmoid

# The penalty on the deviation of a model's calibration (slope, shift) from the common one: about the number
# of answers from which on its own counts more.
_OWN_CALIBRATION = (20.0, 1.0)
_COMMON_CALIBRATION = (1e-3, 1e-3)


def calibrate(logits: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """Slope and shift of each model's log-odds (Platt, 1999), drawn to the common slope and shift.

    A model with few answers gets about the common slope and shift.
    """
    known = ~np.isnan(scores)
    slope, shift = _platt(logits[known], scores[known], 1.0, 0.0, _COMMON_CALIBRATION)
    each = [
        _platt(logits[known[:, m], m], scores[known[:, m], m], slope, shift, _OWN_CALIBRATION)
        for m in range(scores.shape[1])
    ]
    return np.array([pair[0] for pair in each]), np.array([pair[1] for pair in each])


def _platt(
    logits: Floats, scores: Floats, slope: float, shift: float, prior: tuple[float, float]
) -> tuple[float, float]:
    """Platt scaling by Newton's method, with a penalty on the distance to the given slope and shift.

    Targets are those of Platt (1999), (N+ + 1) / (N+ + 2) and 1 / (N- + 2), so no prediction becomes certain.
    """
    good = float(scores.sum())
    low, high = 1.0 / (len(scores) - good + 2.0), (good + 1.0) / (good + 2.0)
    targets = low + (high - low) * scores
    start = np.array([slope, shift])
    theta = start.copy()
    design = np.stack([logits, np.ones_like(logits)], axis=1)
    drawn = np.array(prior)
    for _ in range(25):
        likely = sigmoid(design @ theta).astype(np.float64)
        gradient = design.T @ (likely - targets) + drawn * (theta - start)
        curve = (design * (likely * (1 - likely))[:, None]).T @ design + np.diag(drawn)
        step = np.linalg.solve(curve, gradient)
        theta -= np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-8:
            break
    # A negative slope would invert the predictions.
    return (float(theta[0]), float(theta[1])) if theta[0] > 0.05 else (0.05, float(theta[1]))
