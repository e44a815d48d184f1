import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from autotune.candidate import INT4_BLOCK, DraftShape, Precision
from autotune.quantization import (
    as_stored,
    dequantised,
    from_bfloat16_bits,
    quantise,
    quantise_blocks,
    to_bfloat16_bits,
)
from autotune.shape import weight_shapes
from autotune.weights import FloatArray
from tests.support.models import STYLED, styled_weights, tiny_weights

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
    assert not quantise_blocks(np.zeros((2, 3), np.float32)).restored().any()


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 2 * INT4_BLOCK + 1)),
        elements=st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False),
    )
)
def test_four_bits_are_within_a_step_and_the_largest_of_a_block_is_exact(matrix: FloatArray) -> None:
    quantised = quantise_blocks(matrix)
    restored = quantised.restored()
    assert quantised.values.max() <= 15
    assert restored.shape == matrix.shape
    for start in range(0, matrix.shape[1], INT4_BLOCK):
        block, back = matrix[:, start : start + INT4_BLOCK], restored[:, start : start + INT4_BLOCK]
        largest = np.abs(block).max(axis=1)
        assert (np.abs(back - block) <= largest[:, None] / 8 * np.float32(1.001)).all()
        assert np.allclose(np.abs(back).max(axis=1), largest, rtol=1e-6)


def test_four_bits_use_both_ends_of_their_range() -> None:
    matrix = np.zeros((1, INT4_BLOCK), np.float32)
    matrix[0, :3] = (-8, 7, 3)
    quantised = quantise_blocks(matrix)
    assert quantised.values[0, 0, :4].tolist() == [0, 15, 11, 8]
    assert np.array_equal(quantised.restored(), matrix)


@given(st.floats(-(2.0**100), 2.0**100, width=32))
def test_bfloat16_rounds_to_the_nearest(value: float) -> None:
    number = np.array([value], np.float32)
    stored = from_bfloat16_bits(to_bfloat16_bits(number))
    assert stored[0] == torch.tensor([value], dtype=torch.float32).to(torch.bfloat16).float()[0].item()


def test_halves_are_close_and_kept_by_a_second_rounding() -> None:
    weights = tiny_weights(SHAPE)
    for precision, digits in ((Precision.FP16, 2.0**-10), (Precision.BF16, 2.0**-7)):
        once = dequantised(weights, precision)
        for name, array in once.arrays.items():
            assert np.allclose(array, weights.arrays[name], rtol=digits, atol=1e-6)
            assert np.array_equal(dequantised(once, precision).arrays[name], array)


def test_quantising_what_was_restored_changes_nothing() -> None:
    matrix = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)
    once = quantise(matrix)
    assert np.array_equal(quantise(once.restored()).values, once.values)


@pytest.mark.parametrize("name", [name for name, _ in weight_shapes(SHAPE)])
def test_matrices_are_quantised_embedding_and_norms_are_not(name: str) -> None:
    weights = tiny_weights(SHAPE)
    changed = not np.array_equal(dequantised(weights, Precision.INT8).arrays[name], weights.arrays[name])
    assert changed == (name != "embed" and weights.arrays[name].ndim == 2)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT4])
@pytest.mark.parametrize("name", STYLED)
def test_tables_norms_and_biases_of_every_style_are_not_quantised(name: str, precision: Precision) -> None:
    weights = styled_weights(name)
    changed = {key for key, array in dequantised(weights, precision).arrays.items() if array is not weights.arrays[key]}
    assert changed == {key for key, array in weights.arrays.items() if array.ndim == 2} - {"embed", "positions"}


@pytest.mark.parametrize("precision", set(Precision) - {Precision.FP32})
def test_large_arrays_are_stored_as_small_ones_are(precision: Precision) -> None:
    matrix = np.random.default_rng(0).standard_normal((2100, 1000)).astype(np.float32)
    whole = as_stored("head", matrix, precision)
    rows = [as_stored("head", matrix[begin : begin + 7], precision) for begin in range(0, 2100, 7)]
    np.testing.assert_array_equal(whole, np.concatenate(rows))


def test_fp32_is_left_alone() -> None:
    weights = tiny_weights(SHAPE)
    assert dequantised(weights, Precision.FP32) is weights
