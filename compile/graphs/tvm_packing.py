"""Writes the memory that `tvm_arena` plans, a few megabytes at a time: a model may be larger than half of the machine.

NumPy only.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from autotune.compile.graphs.tvm_arena import LANES, WORD_VALUES, Slot, ffn_matrix, padded, plan
from autotune.number_formats import Precision
from autotune.quantization import quantise, quantise_blocks
from autotune.rotary import rotary_caches
from autotune.shape import Norm
from autotune.weights import FloatArray, ModelWeights

PIECE_BYTES = 8 << 20
"""Of a matrix in fp32, which is packed in pieces of about this size."""

Array = NDArray[Any]
Packed = Iterator[tuple[str, Iterable[Array]]]
"""Arrays by name and in the order of their slots, each in pieces along the first axis."""


def write_arena(weights: ModelWeights, precision: Precision, capacity_tokens: int, file: BinaryIO) -> None:
    """Write the arena's memory."""
    arena = plan(weights.shape, precision, capacity_tokens)
    _write(file, 0, arena.before, _first_arrays(weights, precision, capacity_tokens))
    for index in range(weights.shape.layers):
        begin = arena.layers_begin_bytes + index * arena.layer_bytes
        _write(file, begin, arena.layer, _layer_arrays(weights, index, precision))
    _write(file, arena.after_begins_bytes, arena.after, _last_arrays(weights, precision))
    file.write(bytes(arena.size_bytes - file.tell()))


def _first_arrays(weights: ModelWeights, precision: Precision, capacity_tokens: int) -> Packed:
    shape, arrays = weights.shape, weights.arrays
    if not shape.style.learned_positions:
        cosines, sines = rotary_caches(weights.numerics, shape.head_dim, capacity_tokens)
        yield "cosines", [cosines]
        yield "sines", [sines]
    yield "embed", _padded_rows(arrays["embed"])
    if shape.style.embed_dim:
        yield from _matrix("embed_project", [_Stack((arrays["embed.project"],))], precision)
    if shape.style.learned_positions:
        yield "positions", _padded_rows(arrays["positions"][:capacity_tokens])


def _layer_arrays(weights: ModelWeights, index: int, precision: Precision) -> Packed:
    """The arrays of one layer, in order."""
    shape = weights.shape

    def norm(ours: str, name: str) -> Packed:
        return _norm(ours, f"layers.{index}.{name}", weights)

    def matrix(ours: str, *parts: tuple[str, ...]) -> Packed:
        """parts: names of matrices that lie below each other, once or twice beside each other."""
        stacks = [_Stack(tuple(weights.layer(index, name) for name in names)) for names in parts]
        biases = None
        if any(name in shape.style.biases for names in parts for name in names):
            biases = [np.concatenate([_bias(weights, index, name) for name in names]) for names in parts]
        return _matrix(ours, stacks, precision, biases)

    yield from norm("attn_norm", "attn.norm")
    yield from matrix("qkv", ("attn.q", "attn.k", "attn.v"))
    if shape.style.qk_norm:
        for part in "qk":
            yield f"{part}_norm", [weights.layer(index, f"attn.{part}_norm")]
    yield from matrix("o", ("attn.o",))
    yield from norm("ffn_norm", "ffn.norm")
    yield from matrix(ffn_matrix(shape), *([("ffn.gate",)] if shape.style.gated else []), ("ffn.up",))
    yield from matrix("down", ("ffn.down",))


def _last_arrays(weights: ModelWeights, precision: Precision) -> Packed:
    style, arrays = weights.shape.style, weights.arrays
    if style.norm_first:
        yield from _norm("norm", "norm", weights)
    if style.embed_dim:
        yield from _matrix("head_project", [_Stack((arrays["head.project"],))], precision)
    yield from _matrix("head", [_Stack((arrays["head"],))], precision)


def _norm(ours: str, name: str, weights: ModelWeights) -> Packed:
    yield ours, [_pad_columns(weights.arrays[name])]
    if weights.shape.style.norm is Norm.LAYER:
        yield f"{ours}_bias", [_pad_columns(weights.arrays[f"{name}.bias"])]


def _bias(weights: ModelWeights, index: int, name: str) -> FloatArray:
    """The bias of a layer's matrix; zeros where it has none but shares blocks with one that has."""
    if name in weights.shape.style.biases:
        return weights.layer(index, f"{name}.bias")
    return np.zeros(len(weights.layer(index, name)), np.float32)


@dataclass(frozen=True)
class _Stack:
    """Matrices below each other, as one matrix `[columns, depth]` that is never whole in memory."""

    parts: tuple[FloatArray, ...]

    @property
    def size(self) -> tuple[int, int]:
        return sum(len(part) for part in self.parts), self.parts[0].shape[1]

    def rows(self, begin: int, end: int) -> FloatArray:
        """Rows `begin … end - 1`, as far as there are any."""
        found = []
        for part in self.parts:
            found.append(part[max(begin, 0) : max(end, 0)])
            begin, end = begin - len(part), end - len(part)
        return np.concatenate(found)


def _matrix(
    name: str, stacks: Sequence[_Stack], precision: Precision, biases: Sequence[FloatArray] | None = None
) -> Packed:
    """What stores a matrix, or two of one size that share blocks, and their biases."""
    lanes = LANES // len(stacks)
    columns, depth = stacks[0].size
    piece = max(1, PIECE_BYTES // (4 * depth * LANES)) * lanes
    scales: list[Array] = []

    def packed(part: FloatArray) -> Array:
        match precision:
            case Precision.INT8:
                quantised = quantise(part)
                scales_of_parts.append(quantised.scales)
                return _pack(quantised.values, lanes)
            case Precision.INT4:
                return _pack_words(part, lanes)
        return _pack(part, lanes)

    def pieces() -> Iterator[Array]:
        for begin in range(0, columns, piece):
            scales_of_parts.clear()
            yield np.concatenate([packed(stack.rows(begin, begin + piece)) for stack in stacks], axis=-1)
            if scales_of_parts:
                scales.append(_pack_vectors(scales_of_parts, lanes))

    scales_of_parts: list[FloatArray] = []
    yield name, pieces()
    if precision is Precision.INT8:
        yield f"{name}_scales", scales
    if biases is not None:
        yield f"{name}_bias", [_pack_vectors(biases, lanes)]


def _pack(matrix: Array, lanes: int) -> Array:
    """`[columns, depth]` as blocks `[blocks, depth, lanes]`, the last one filled with zeros."""
    columns, depth = matrix.shape
    count = -(-columns // lanes)
    if columns % lanes:
        matrix = np.pad(matrix, ((0, count * lanes - columns), (0, 0)))
    return matrix.reshape(count, lanes, depth).transpose(0, 2, 1)


def _pack_vectors(vectors: Sequence[FloatArray], lanes: int) -> Array:
    """A number for each column of one matrix or two that share blocks, `[columns]` each, as `[blocks, LANES]`."""
    return np.concatenate([_pack(vector[:, None], lanes)[:, 0] for vector in vectors], axis=-1)


def _pack_words(matrix: FloatArray, lanes: int) -> Array:
    """`[columns, depth]` as uint32 `[blocks, depth / 32, 5, lanes]`; see `tvm_arena`."""
    quantised = quantise_blocks(matrix)
    columns, groups, _ = quantised.values.shape
    values = quantised.values.reshape(columns, groups, -1, WORD_VALUES).astype(np.uint32)
    words = np.bitwise_or.reduce(values << (4 * np.arange(WORD_VALUES, dtype=np.uint32)), axis=3)
    scales = quantised.scales.view(np.uint32)[:, :, None]
    rows = np.concatenate([words, scales], axis=2)
    return _pack(rows.reshape(columns, -1), lanes).reshape(-1, groups, rows.shape[2], lanes)


def _padded_rows(table: FloatArray) -> Iterator[Array]:
    """The rows of a table, filled up to whole blocks, in pieces."""
    piece = max(1, PIECE_BYTES // (4 * table.shape[1]))
    for begin in range(0, len(table), piece):
        yield _pad_columns(table[begin : begin + piece])


def _pad_columns(array: FloatArray) -> FloatArray:
    """The array with its last axis filled up with zeros to whole blocks."""
    added = padded(array.shape[-1]) - array.shape[-1]
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, added)]) if added else array


def _write(file: BinaryIO, begin: int, slots: Mapping[str, Slot], arrays: Packed) -> None:
    """Write the arrays to their places in the section at `begin`, which lies behind all that was written so far."""
    for name, pieces in arrays:
        slot, rows = slots[name], 0
        file.write(bytes(begin + slot.offset_bytes - file.tell()))
        for piece in pieces:
            if piece.shape[1:] != slot.shape[1:]:
                raise ValueError(f"{name} has rows of {piece.shape[1:]}, expected {slot.shape[1:]}")
            rows += len(piece)
            file.write(np.ascontiguousarray(piece, slot.dtype).data)
        if rows != slot.shape[0]:
            raise ValueError(f"{name} has {rows} rows, expected {slot.shape[0]}")
