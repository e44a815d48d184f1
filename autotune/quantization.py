"""How each precision stores matrices, and what it makes of them (NumPy only).

The graph builders store what `quantise` and `quantise_blocks` return, and the proxy scores what `dequantised` returns,
so the acceptance rate of a quantised draft is estimated on the very weights that its compiled program multiplies with.
A backend that also quantises activations at run time adds a second, smaller error that is not modelled here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.number_formats import INT4_BLOCK, Precision
from autotune.shape import is_matrix
from autotune.weights import FloatArray, ModelWeights

LARGEST = 127
"""Largest magnitude stored in int8; -128 is left out so that the range is symmetric and needs no zero point."""
INT4_ZERO = 8
"""The stored four-bit value (0 … 15) that stands for zero."""

_CHUNK_ELEMENTS = 1 << 20
"""Numbers that `as_stored` turns over at a time."""


@dataclass(frozen=True)
class QuantisedMatrix:
    """A matrix as `values * scales[:, None]`; values: int8 `[out, in]`, scales: float32 `[out]`."""

    values: NDArray[np.int8]
    scales: FloatArray

    def restored(self) -> FloatArray:
        """The float32 matrix `[out, in]` these integers stand for."""
        return self.values.astype(np.float32) * self.scales[:, None]


@dataclass(frozen=True)
class BlockQuantisedMatrix:
    """A matrix of four-bit integers with a scale per block of inputs; the last block is filled up with zeros.

    values: uint8 `[out, blocks, INT4_BLOCK]`, each 0 … 15; scales: float32 `[out, blocks]`; `inputs` of the matrix.
    """

    values: NDArray[np.uint8]
    scales: FloatArray
    inputs: int

    def restored(self) -> FloatArray:
        """The float32 matrix `[out, in]` these integers stand for."""
        signed = self.values.astype(np.float32) - np.float32(INT4_ZERO)
        return (signed * self.scales[..., None]).reshape(len(self.values), -1)[:, : self.inputs]


def quantise(matrix: FloatArray) -> QuantisedMatrix:
    """The nearest int8 matrix, each row scaled so that its largest magnitude becomes 127.  matrix: `[out, in]`."""
    largest = np.abs(matrix).max(axis=1)
    scales = np.where(largest > 0, largest / np.float32(LARGEST), np.float32(1)).astype(np.float32)
    return QuantisedMatrix(np.rint(matrix / scales[:, None]).astype(np.int8), scales)


def quantise_blocks(matrix: FloatArray) -> BlockQuantisedMatrix:
    """The nearest matrix of four-bit integers; in each block the entry of largest magnitude becomes -8.

    matrix: `[out, in]`.  Sixteen values about zero are 8 below and 7 above it: the sign of the scale says which way the
    longer side points.
    """
    outputs, inputs = matrix.shape
    padded = np.pad(matrix, ((0, 0), (0, -inputs % INT4_BLOCK))).reshape(outputs, -1, INT4_BLOCK)
    places = np.abs(padded).argmax(axis=2)[..., None]
    largest = np.take_along_axis(padded, places, axis=2)[..., 0]
    scales = np.where(largest != 0, largest / np.float32(-INT4_ZERO), np.float32(1)).astype(np.float32)
    values = np.clip(np.rint(padded / scales[..., None]) + INT4_ZERO, 0, 15).astype(np.uint8)
    return BlockQuantisedMatrix(values, scales, inputs)


def to_bfloat16_bits(array: FloatArray) -> NDArray[np.uint16]:
    """The nearest bfloat16 numbers (ties to even) as their bit patterns; NumPy has no such type.  Finite input only."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def from_bfloat16_bits(bits: NDArray[np.uint16]) -> FloatArray:
    """The float32 numbers of these bit patterns."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def dequantised(weights: ModelWeights, precision: Precision) -> ModelWeights:
    """The weights as a program compiled at that precision sees them; the same object for fp32."""
    if precision is Precision.FP32:
        return weights
    arrays = {name: as_stored(name, array, precision) for name, array in weights.arrays.items()}
    return ModelWeights(weights.shape, weights.numerics, arrays, weights.token_ids)


def as_stored(name: str, array: FloatArray, precision: Precision) -> FloatArray:
    """What becomes of one array when it is stored at that precision and read again; the array itself if nothing does.

    Rows are stored independently of one another, so a few at a time are: what is needed beside the result stays small.
    """
    restored = _restored_as(precision, is_matrix(name, array.shape))
    if restored is None:
        return array
    result = np.empty(array.shape, np.float32)
    rows = max(1, _CHUNK_ELEMENTS * len(array) // array.size)
    for begin in range(0, len(array), rows):
        result[begin : begin + rows] = restored(array[begin : begin + rows])
    return result


def _restored_as(precision: Precision, multiplied: bool) -> Callable[[FloatArray], FloatArray] | None:
    """What a precision makes of rows of a weight, which activations may be multiplied with; None: nothing."""
    match precision:
        case Precision.FP16:
            return lambda array: array.astype(np.float16).astype(np.float32)
        case Precision.BF16:
            return lambda array: from_bfloat16_bits(to_bfloat16_bits(array))
        case Precision.INT8 if multiplied:
            return lambda matrix: quantise(matrix).restored()
        case Precision.INT4 if multiplied:
            return lambda matrix: quantise_blocks(matrix).restored()
    return None
