"""Matrices as the graph's operators read them, converted piece by piece: no more than the result is ever in memory."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from autotune.number_formats import INT4_BLOCK
from autotune.quantization import quantise, quantise_blocks
from autotune.weights import FloatArray

UNSIGNED_ZERO = 128
"""The unsigned byte that stands for zero where signed ones are stored so."""
_PIECE_ROWS = 64
"""In pieces that fit the cache, a transposition is four times faster."""


def side_by_side(
    parts: Sequence[FloatArray], dtype: DTypeLike, stored: Callable[[FloatArray], NDArray[Any]]
) -> NDArray[Any]:
    """The transposes of the `[out, in]` parts side by side, `[in, sum of outs]`; stored: what becomes of some rows."""
    together = np.empty((parts[0].shape[1], _outputs(parts)), dtype)
    for row, piece in _pieces(parts):
        together[:, row : row + len(piece)] = stored(piece).T
    return together


def eight_bit(parts: Sequence[FloatArray]) -> tuple[NDArray[np.int8], FloatArray]:
    """The transposes of the `[out, in]` parts side by side, quantised: int8 `[in, outs]` and scales `[outs]`."""
    values = np.empty((parts[0].shape[1], _outputs(parts)), np.int8)
    scales = np.empty(_outputs(parts), np.float32)
    for row, piece in _pieces(parts):
        quantised = quantise(piece)
        values[:, row : row + len(piece)] = quantised.values.T
        scales[row : row + len(piece)] = quantised.scales
    return values, scales


def unsigned(values: NDArray[np.int8]) -> NDArray[np.uint8]:
    """The same integers about `UNSIGNED_ZERO`; in the memory of what is given."""
    flipped = values.view(np.uint8)
    flipped ^= np.uint8(UNSIGNED_ZERO)
    return flipped


def packed_blocks(parts: Sequence[FloatArray]) -> tuple[NDArray[np.uint8], FloatArray]:
    """The `[out, in]` parts below one another: bytes `[outs, blocks, INT4_BLOCK / 2]` and scales `[outs, blocks]`.

    As ONNX Runtime's MatMulNBits reads them: a byte holds two neighbouring inputs, the first in its low half.  No zero
    points: the operator assumes 8 without.
    """
    blocks = -(-parts[0].shape[1] // INT4_BLOCK)
    packed = np.empty((_outputs(parts), blocks, INT4_BLOCK // 2), np.uint8)
    scales = np.empty((_outputs(parts), blocks), np.float32)
    for row, piece in _pieces(parts):
        quantised = quantise_blocks(piece)
        packed[row : row + len(piece)] = quantised.values[..., 0::2] | (quantised.values[..., 1::2] << 4)
        scales[row : row + len(piece)] = quantised.scales
    return packed, scales


def _outputs(parts: Sequence[FloatArray]) -> int:
    return sum(len(part) for part in parts)


def _pieces(parts: Sequence[FloatArray]) -> Iterator[tuple[int, FloatArray]]:
    """Some rows of a part at a time, with the number of the first among all."""
    before = 0
    for part in parts:
        for row in range(0, len(part), _PIECE_ROWS):
            yield before + row, part[row : row + _PIECE_ROWS]
        before += len(part)
