import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from extproc.embedding.quantization import (
    WEIGHT_LIMIT,
    ChannelRange,
    quantize_weight,
    smoothing,
    static_scale,
)
from extproc.embedding.weights import Floats

numbers = st.floats(-50, 50, width=32)
matrices = st_np.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=numbers)


def channel_range(values: Floats) -> ChannelRange:
    return ChannelRange(values.min(axis=0), values.max(axis=0))


@given(matrices)
def test_a_static_scale_represents_the_range_it_saw_to_half_a_step(values: Floats) -> None:
    how = static_scale(channel_range(values))
    quantized = np.clip(np.round(values / how.scale) + int(how.zero), 0, 255)
    restored = (quantized - int(how.zero)) * how.scale
    # Half a step from rounding the value, half a step from rounding the zero point.
    assert np.abs(restored - values).max() <= how.scale * 1.01


@given(matrices)
def test_zero_is_represented_exactly(values: Floats) -> None:
    assert 0 <= int(static_scale(channel_range(values)).zero) <= 255


@given(matrices)
def test_a_weight_is_within_seven_bits_and_half_a_step_per_column(weight: Floats) -> None:
    quantized = quantize_weight(weight)
    assert np.abs(quantized.values).max() <= WEIGHT_LIMIT
    assert (np.abs(quantized.values * quantized.scales - weight) <= quantized.scales * 0.51).all()


def test_pairs_of_products_never_overflow_sixteen_bits() -> None:
    largest_pair = 2 * 255 * WEIGHT_LIMIT
    assert largest_pair <= np.iinfo(np.int16).max


def test_smoothing_leaves_the_product_as_it_was() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 16)).astype(np.float32)
    weight = rng.normal(size=(16, 3)).astype(np.float32)
    factors = smoothing(channel_range(values), weight)
    np.testing.assert_allclose(
        (values / factors) @ (weight * factors[:, None]), values @ weight, rtol=1e-4, atol=1e-5
    )


def test_smoothing_brings_an_outlier_channel_nearer_to_the_others() -> None:
    values = np.ones((4, 8), np.float32)
    values[:, 3] = 100.0
    factors = smoothing(channel_range(values), np.ones((8, 2), np.float32))
    smoothed = (values / factors).max(axis=0)
    assert smoothed[3] / smoothed[0] == pytest.approx(100 ** (1 - 0.6), rel=1e-3)


def test_smoothing_survives_a_channel_that_is_always_zero() -> None:
    factors = smoothing(channel_range(np.zeros((2, 3), np.float32)), np.zeros((3, 2), np.float32))
    assert np.isfinite(factors).all()
    assert (factors > 0).all()


def test_a_union_holds_every_range() -> None:
    first = channel_range(np.array([[1.0, -2.0]], np.float32))
    second = channel_range(np.array([[-3.0, 4.0]], np.float32))
    union = ChannelRange.union([first, second])
    np.testing.assert_array_equal(union.low, [-3.0, -2.0])
    np.testing.assert_array_equal(union.high, [1.0, 4.0])
    np.testing.assert_array_equal(union.magnitude, [3.0, 4.0])
