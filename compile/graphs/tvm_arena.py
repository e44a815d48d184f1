"""Where a CPU program's weights lie: one block of memory, in the order in which a step reads them.

Every layer is laid out alike, so that the code of one layer, with the layer's number, serves all; and reading goes
forward through memory from the first layer to the head, which is what processors fetch ahead.

Matrices `[columns, depth]` are packed in blocks of `LANES` columns, so that one token reads each weight once, in order:

===== ==================================================================================================================
fp32  `[blocks, depth, LANES]`
int8  `[blocks, depth, LANES]`, and beside it a scale per column
int4  uint32 `[blocks, depth / 32, 5, LANES]`: for 32 inputs of a column four words of eight values, the lowest bits
      first, and then the float32 scale of the 32, so that all is one stream
===== ==================================================================================================================

A SwiGLU's two matrices share blocks: half gate, half up.  Biases lie behind their matrix, in blocks like its columns.
`tvm_packing` writes all this.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from autotune.number_formats import INT4_BLOCK, Precision
from autotune.shape import DraftShape, Norm

LANES = 64
"""Columns of a block: four vectors of sixteen floats."""
WORD_VALUES = 8
"""Four-bit values of a 32-bit word."""
ALIGNMENT_BYTES = 64
PAGE_BYTES = 4096

Arrays = dict[str, tuple[tuple[int, ...], str]]
"""Shapes and types of arrays, by name and in order."""


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
    before = _section(_before(shape, precision, capacity_tokens))
    layer = _section(_layer(shape, precision))
    after = _section(_after(shape, precision))
    layers_begin = _round_up(_end(before), PAGE_BYTES)
    layer_bytes = _end(layer)
    after_begins = layers_begin + shape.layers * layer_bytes
    return Arena(before, layer, after, layers_begin, layer_bytes, after_begins, after_begins + _end(after))


def ffn_matrix(shape: DraftShape) -> str:
    """Name of the matrix that leads into the FFN."""
    return "gate_up" if shape.style.gated else "up"


def ffn_width(shape: DraftShape) -> int:
    """Columns that the FFN's activations are stored with: whole blocks, or half blocks behind a SwiGLU."""
    lanes = LANES // 2 if shape.style.gated else LANES
    return -(-shape.ffn // lanes) * lanes


def _before(shape: DraftShape, precision: Precision, capacity_tokens: int) -> Arrays:
    """What is read before the first layer, and the tables of the rotation."""
    style, half = shape.style, shape.head_dim // 2
    arrays: Arrays = {}
    if not style.learned_positions:
        arrays |= dict.fromkeys(("cosines", "sines"), ((capacity_tokens, half), "float32"))
    arrays["embed"] = ((shape.vocab, padded(shape.embed_dim)), "float32")
    if style.embed_dim:
        arrays |= _matrix("embed_project", style.embed_dim, shape.hidden, precision)
    if style.learned_positions:
        arrays["positions"] = ((capacity_tokens, padded(shape.hidden)), "float32")
    return arrays


def _layer(shape: DraftShape, precision: Precision) -> Arrays:
    style, query = shape.style, shape.heads * shape.head_dim

    def biased(*names: str) -> bool:
        return any(name in style.biases for name in names)

    kv = shape.kv_heads * shape.head_dim
    qkv = _matrix("qkv", shape.hidden, query + 2 * kv, precision, biased("attn.q", "attn.k", "attn.v"))
    head_norms: Arrays = {f"{name}_norm": ((shape.head_dim,), "float32") for name in "qk"} if style.qk_norm else {}
    columns = 2 * ffn_width(shape) if style.gated else shape.ffn
    return (
        _norm("attn_norm", shape)
        | qkv
        | head_norms
        | _matrix("o", query, shape.hidden, precision, biased("attn.o"))
        | _norm("ffn_norm", shape)
        | _matrix(ffn_matrix(shape), shape.hidden, columns, precision, biased("ffn.gate", "ffn.up"))
        | _matrix("down", shape.ffn, shape.hidden, precision, biased("ffn.down"))
    )


def _after(shape: DraftShape, precision: Precision) -> Arrays:
    style = shape.style
    arrays = _norm("norm", shape) if style.norm_first else {}
    if style.embed_dim:
        arrays |= _matrix("head_project", shape.hidden, style.embed_dim, precision)
    return arrays | _matrix("head", shape.embed_dim, shape.head_rows, precision)


def _norm(name: str, shape: DraftShape) -> Arrays:
    """What stores a norm of the residual stream."""
    names = (name, f"{name}_bias") if shape.style.norm is Norm.LAYER else (name,)
    return {each: ((padded(shape.hidden),), "float32") for each in names}


def _matrix(name: str, depth: int, columns: int, precision: Precision, biased: bool = False) -> Arrays:
    """What stores a matrix and its bias."""
    count = blocks(columns)
    bias: Arrays = {f"{name}_bias": ((count, LANES), "float32")} if biased else {}
    match precision:
        case Precision.INT8:
            scales = {f"{name}_scales": ((count, LANES), "float32")}
            return {name: ((count, depth, LANES), "int8")} | scales | bias
        case Precision.INT4:
            rows = INT4_BLOCK // WORD_VALUES + 1
            return {name: ((count, -(-depth // INT4_BLOCK), rows, LANES), "uint32")} | bias
    return {name: ((count, depth, LANES), "float32")} | bias


def _section(arrays: Arrays) -> dict[str, Slot]:
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
