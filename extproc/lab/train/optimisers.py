"""Minimise a loss in float32: L-BFGS over all rows, and AdamW over batches.

Both change no more than their own buffers, and the same losses give the same weights. scipy's L-BFGS works in
float64 with many copies: with millions of weights, it takes longer than the products with the data.
"""

from collections.abc import Callable, Sequence

import numpy as np

from extproc.routing.scorers import Matrix

Loss = Callable[[Matrix], tuple[float, Matrix]]  # of weights: the value and its gradient

PAIRS = 5  # steps that L-BFGS remembers
_ENOUGH = 1e-4  # of the decrease that the slope promises (Armijo's condition)
_SHORTER, _TRIES = 0.4, 12  # of the line search
_CONVERGED = 1e-5  # relative decrease of the loss in one step
_FIRST = 10.0  # length of the first step

DECAY = 1e-2  # decoupled from the gradient (AdamW, Loshchilov and Hutter, 2019)


class _Pair:
    """A step, the change of the gradient over it, and 1 / their product."""

    def __init__(self, step: Matrix, change: Matrix, product: float) -> None:
        self.step, self.change, self.inverse = step, change, 1.0 / product


def minimise(loss: Loss, start: Matrix, scale: Matrix, steps: int) -> Matrix:
    """Weights of small loss after at most ``steps`` steps of L-BFGS (Liu and Nocedal, 1989).

    ``scale`` is the first guess of the inverse curvature, by weight (Nocedal and Wright, 2006, 7.2): rare
    features need larger steps than common ones.
    """
    weights, pairs = start.astype(np.float32), list[_Pair]()
    value, gradient = loss(weights)
    for _ in range(steps):
        direction = _direction(gradient, pairs, scale)
        slope, length = float(np.vdot(gradient, direction)), 1.0
        for _ in range(_TRIES):
            moved = weights - np.float32(length) * direction
            lower, turned = loss(moved)
            if lower <= value - _ENOUGH * length * slope:
                break
            length *= _SHORTER
        else:
            break
        step, change = moved - weights, turned - gradient
        product = float(np.vdot(step, change))
        if product > 0:
            pairs = [*pairs[-(PAIRS - 1) :], _Pair(step, change, product)]
        converged = value - lower <= _CONVERGED * value
        weights, value, gradient = moved, lower, turned
        if converged:
            break
    return weights


def _direction(gradient: Matrix, pairs: Sequence[_Pair], scale: Matrix) -> Matrix:
    """The inverse curvature times the gradient, by the two loops over the remembered pairs."""
    found, shares, spare = gradient.copy(), [], np.empty_like(gradient)  # fresh memory would take longer
    for pair in reversed(pairs):
        share = pair.inverse * float(np.vdot(pair.step, found))
        found -= np.multiply(pair.change, np.float32(share), out=spare)
        shares.append(share)
    found *= scale
    if not pairs:
        found *= np.float32(_FIRST / max(float(np.linalg.norm(found)), 1e-12))
        return found
    latest = pairs[-1]
    found *= np.float32(
        1.0 / (latest.inverse * float(np.vdot(latest.change, np.multiply(latest.change, scale, out=spare))))
    )
    for pair, share in zip(pairs, reversed(shares), strict=True):
        share -= pair.inverse * float(np.vdot(pair.change, found))
        found += np.multiply(pair.step, np.float32(share), out=spare)
    return found


class Adam:
    """AdamW: Adam (Kingma and Ba, 2015) with decoupled decay, in place; biases have no decay."""

    def __init__(self, weights: Sequence[Matrix]) -> None:
        self._weights = weights
        self._mean = [np.zeros_like(weight) for weight in weights]
        self._square = [np.zeros_like(weight) for weight in weights]
        self._change = [np.empty_like(weight) for weight in weights]
        self._steps = 0

    def step(self, gradients: Sequence[Matrix], rate: float) -> None:
        """One update. The gradients are overwritten."""
        self._steps += 1
        first, second = 1 - 0.9**self._steps, 1 - 0.999**self._steps
        for weight, mean, square, change, gradient in zip(
            self._weights, self._mean, self._square, self._change, gradients, strict=True
        ):
            np.multiply(gradient, np.float32(0.1), out=change)
            mean *= np.float32(0.9)
            mean += change
            np.multiply(gradient, gradient, out=gradient)
            gradient *= np.float32(0.001)
            square *= np.float32(0.999)
            square += gradient
            np.divide(square, np.float32(second), out=change)
            np.sqrt(change, out=change)
            change += np.float32(1e-8)
            np.divide(mean, change, out=change)
            change *= np.float32(rate / first)
            if weight.ndim == 2:
                weight *= np.float32(1 - rate * DECAY)
            weight -= change
