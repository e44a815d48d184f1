"""Where a CPU program's weights lie: one block of memory, in the order in which a step reads them (NumPy only).

Every layer is laid out alike, so that the code of one layer, with the layer's number, serves all; and reading goes
forward through memory from the first layer to the head, which is what processors fetch ahead.

Matrices `[columns, depth]` are packed in blocks of `LANES` columns, so that one token reads each weight once, in order:

===== ==================================================================================================================
fp32  `[blocks, depth, LANES]`
int8  `[blocks, depth, LANES]`, and beside it a scale per column
int4  uint32 `[blocks, depth / 32, 5, LANES]`: for 32 inputs of a column four words of eight values, the lowest bits
      first, and then the float32 scale of the 32, so that all is one stream
===== ==================================================================================================================

A SwiGLU's two matrices share blocks: half gate, half up.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from autotune.candidate import INT4_BLOCK, DraftShape, Precision
from autotune.quantization import quantise, quantise_blocks
from autotune.rotary import rotary_caches
from autotune.weights import FloatArray, ModelWeights

LANES = 64
"""Columns of a block: four vectors of sixteen floats."""
WORD_VALUES = 8
"""Four-bit values of a 32-bit word."""
ALIGNMENT_BYTES = 64
PAGE_BYTES = 4096

Array = NDArray[Any]


def blocks(width: int) -> int:
    """Whole blocks of `LANES` columns that hold a width."""
    return -(-width // LANES)


def padded(width: int) -> int:
    """The width rounded up to whole blocks."""
    return blocks(width) * LANES


@dataclass(frozen=True)
class Slot:
    """The place of one array, in bytes from the beginning of its section."""

    offset_bytes: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def end_bytes(self) -> int:
        """Where it ends."""
        return self.offset_bytes + prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Arena:
    """The places of all arrays: sections `before`, `layer` (once per layer) and `after`."""

    before: Mapping[str, Slot]
    layer: Mapping[str, Slot]
    after: Mapping[str, Slot]
    layers_begin_bytes: int
    layer_bytes: int
    """From the beginning of a layer to that of the next."""
    after_begins_bytes: int
    size_bytes: int


def plan(shape: DraftShape, precision: Precision, capacity_tokens: int) -> Arena:
    """The arena of a model's weights."""
    half = shape.head_dim // 2
    columns = padded(shape.hidden)
    before = _section(
        {
            "cosines": ((capacity_tokens, half), "float32"),
            "sines": ((capacity_tokens, half), "float32"),
            "embed": ((shape.vocab, columns), "float32"),
        }
    )
    layer = _section(
        {"attn_norm": ((columns,), "float32")}
        | _matrix("qkv", shape.hidden, (shape.heads + 2 * shape.kv_heads) * shape.head_dim, precision)
        | _matrix("o", shape.heads * shape.head_dim, shape.hidden, precision)
        | {"ffn_norm": ((columns,), "float32")}
        | _matrix("gate_up", shape.hidden, 2 * swiglu_width(shape.ffn), precision)
        | _matrix("down", shape.ffn, shape.hidden, precision)
    )
    after = _section({"norm": ((columns,), "float32")} | _matrix("head", shape.hidden, shape.head_rows, precision))
    layers_begin = _round_up(_end(before), PAGE_BYTES)
    layer_bytes = _end(layer)
    after_begins = layers_begin + shape.layers * layer_bytes
    return Arena(before, layer, after, layers_begin, layer_bytes, after_begins, after_begins + _end(after))


def swiglu_width(ffn: int) -> int:
    """Columns that the SwiGLU's product is stored with: whole half blocks."""
    half = LANES // 2
    return -(-ffn // half) * half


def write_arena(weights: ModelWeights, precision: Precision, capacity_tokens: int, file: BinaryIO) -> None:
    """Write the arena's memory."""
    arena = plan(weights.shape, precision, capacity_tokens)
    cosines, sines = rotary_caches(weights.numerics, weights.shape.head_dim, capacity_tokens)
    embed = _pad_columns(weights.arrays["embed"])
    _write(file, 0, arena.before, iter([("cosines", cosines), ("sines", sines), ("embed", embed)]))
    for index in range(weights.shape.layers):
        begin = arena.layers_begin_bytes + index * arena.layer_bytes
        _write(file, begin, arena.layer, _layer_arrays(weights, index, precision))
    _write(file, arena.after_begins_bytes, arena.after, _last_arrays(weights, precision))
    file.write(bytes(arena.size_bytes - file.tell()))


def _layer_arrays(weights: ModelWeights, index: int, precision: Precision) -> Iterator[tuple[str, Array]]:
    """The arrays of one layer, in order."""
    yield "attn_norm", _pad_columns(weights.layer(index, "attn.norm"))
    qkv = np.concatenate([weights.layer(index, f"attn.{part}") for part in "qkv"])
    yield from _packed("qkv", [qkv], precision)
    yield from _packed("o", [weights.layer(index, "attn.o")], precision)
    yield "ffn_norm", _pad_columns(weights.layer(index, "ffn.norm"))
    yield from _packed("gate_up", [weights.layer(index, f"ffn.{part}") for part in ("gate", "up")], precision)
    yield from _packed("down", [weights.layer(index, "ffn.down")], precision)


def _last_arrays(weights: ModelWeights, precision: Precision) -> Iterator[tuple[str, Array]]:
    yield "norm", _pad_columns(weights.arrays["norm"])
    yield from _packed("head", [weights.arrays["head"]], precision)


def _matrix(name: str, depth: int, columns: int, precision: Precision) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shapes and types of what stores a matrix."""
    count = blocks(columns)
    match precision:
        case Precision.INT8:
            return {name: ((count, depth, LANES), "int8"), f"{name}_scales": ((count, LANES), "float32")}
        case Precision.INT4:
            rows = INT4_BLOCK // WORD_VALUES + 1
            return {name: ((count, -(-depth // INT4_BLOCK), rows, LANES), "uint32")}
    return {name: ((count, depth, LANES), "float32")}


def _packed(name: str, parts: list[FloatArray], precision: Precision) -> Iterator[tuple[str, Array]]:
    """What stores a matrix `[columns, depth]`, or two that share blocks."""
    lanes = LANES // len(parts)
    match precision:
        case Precision.INT8:
            quantised = [quantise(part) for part in parts]
            yield name, _joined([_pack(each.values, lanes) for each in quantised])
            yield f"{name}_scales", _joined([_pack(each.scales[:, None], lanes)[:, 0] for each in quantised])
        case Precision.INT4:
            yield name, _joined([_pack_words(part, lanes) for part in parts])
        case _:
            yield name, _joined([_pack(part, lanes) for part in parts])


def _pack(matrix: Array, lanes: int) -> Array:
    """`[columns, depth]` as blocks `[blocks, depth, lanes]`, the last one filled with zeros."""
    columns, depth = matrix.shape
    count = -(-columns // lanes)
    if columns % lanes:
        matrix = np.pad(matrix, ((0, count * lanes - columns), (0, 0)))
    return matrix.reshape(count, lanes, depth).transpose(0, 2, 1)


def _pack_words(matrix: FloatArray, lanes: int) -> Array:
    """`[columns, depth]` as uint32 `[blocks, depth / 32, 5, lanes]`; see the module."""
    quantised = quantise_blocks(matrix)
    columns, groups, _ = quantised.values.shape
    values = quantised.values.reshape(columns, groups, -1, WORD_VALUES).astype(np.uint32)
    words = np.bitwise_or.reduce(values << (4 * np.arange(WORD_VALUES, dtype=np.uint32)), axis=3)
    scales = quantised.scales.view(np.uint32)[:, :, None]
    rows = np.concatenate([words, scales], axis=2)
    return _pack(rows.reshape(columns, -1), lanes).reshape(-1, groups, rows.shape[2], lanes)


def _joined(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _pad_columns(array: FloatArray) -> FloatArray:
    """The array with its last axis filled up with zeros to whole blocks."""
    added = padded(array.shape[-1]) - array.shape[-1]
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, added)]) if added else array


def _section(arrays: Mapping[str, tuple[tuple[int, ...], str]]) -> dict[str, Slot]:
    """One array behind the other."""
    slots: dict[str, Slot] = {}
    end = 0
    for name, (shape, dtype) in arrays.items():
        slots[name] = Slot(_round_up(end, ALIGNMENT_BYTES), shape, dtype)
        end = slots[name].end_bytes
    return slots


def _end(section: Mapping[str, Slot]) -> int:
    return _round_up(max(slot.end_bytes for slot in section.values()), ALIGNMENT_BYTES)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _write(file: BinaryIO, begin: int, slots: Mapping[str, Slot], arrays: Iterator[tuple[str, Array]]) -> None:
    """Write the arrays to their places in the section at `begin`, which lies behind all that was written so far."""
    for name, array in arrays:
        slot = slots[name]
        if array.shape != slot.shape:
            raise ValueError(f"{name} is {array.shape}, expected {slot.shape}")
        file.write(bytes(begin + slot.offset_bytes - file.tell()))
        file.write(np.ascontiguousarray(array, slot.dtype).data)
