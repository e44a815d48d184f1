import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from autotune.candidate import DraftShape, Precision
from autotune.quantization import dequantised, is_quantised, quantise
from autotune.weights import FloatArray, weight_shapes
from tests.support.models import tiny_weights

SHAPE = DraftShape(layers=2, heads=2, kv_heads=1, head_dim=16, hidden=24, ffn=40, vocab=30)


@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False),
    )
)
def test_every_element_is_within_half_a_step(matrix: FloatArray) -> None:
    quantised = quantise(matrix)
    assert quantised.values.dtype == np.int8
    assert quantised.scales.dtype == np.float32
    assert np.abs(quantised.values.astype(int)).max() <= 127
    step = quantised.scales[:, None]
    assert (np.abs(quantised.restored() - matrix) <= step * np.float32(0.5001)).all()


def test_the_largest_of_each_row_becomes_127() -> None:
    matrix = np.array([[0.5, -2.0, 1.0], [1e-3, 2e-3, -1e-3]], np.float32)
    assert quantise(matrix).values.tolist() == [[32, -127, 64], [64, 127, -64]]


def test_rows_of_zeros_stay_zero() -> None:
    assert not quantise(np.zeros((2, 3), np.float32)).restored().any()


def test_quantising_what_was_restored_changes_nothing() -> None:
    matrix = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)
    once = quantise(matrix)
    assert np.array_equal(quantise(once.restored()).values, once.values)


@pytest.mark.parametrize("name", [name for name, _ in weight_shapes(SHAPE)])
def test_matrices_are_quantised_embedding_and_norms_are_not(name: str) -> None:
    weights = tiny_weights(SHAPE)
    changed = not np.array_equal(dequantised(weights, Precision.INT8).arrays[name], weights.arrays[name])
    assert changed == is_quantised(name) == (name != "embed" and weights.arrays[name].ndim == 2)


def test_fp32_is_left_alone() -> None:
    weights = tiny_weights(SHAPE)
    assert dequantised(weights, Precision.FP32) is weights
