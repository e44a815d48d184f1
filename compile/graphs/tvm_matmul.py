"""Products of activations with packed matrices, for CPUs.

Rows (tokens) go through a block of columns in tiles of some and a rest: so many tokens read each weight from memory
once, more read it again from the second-level cache.  A single row keeps several sums for every column, since one sum
would have each addition wait for the one before it.

Weights in int8 and int4 become floats in registers, and are multiplied and added up in fp32.  Four-bit values v are not
converted but put into a float's mantissa: that makes 1 + v / 16, for one logical instruction.  With f that float,

    Σ x·(v - 8)·scale = 16·scale · (Σ x·f - 1.5·Σ x)      over the 32 inputs that share a scale,

and Σ x is the same for all columns (`input_sums`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T  # noqa: N812 (its usual name)

from autotune.candidate import INT4_BLOCK, Precision
from autotune.compile.graphs.tvm_arena import WORD_VALUES
from autotune.compile.graphs.tvm_primitives import (
    LANES,
    add,
    exponential,
    fill,
    index_of,
    local,
    reduce_lanes,
    spread,
    store,
)
from autotune.compile.schedule import Schedule, default_schedule

TILE_ROWS = {Precision.FP32: 6, Precision.INT8: 6, Precision.INT4: 4}
"""Rows that go through a block together: 24 accumulators leave enough of 32 registers for weights and activations;
unpacking needs more of them."""

CACHE_LINE_BYTES = 64

_ONE_BITS = 0x3F800000
_MANTISSA_SHIFT = 19
"""Four bits from here on are the highest of a float's mantissa."""
_MASK = 0xF << _MANTISSA_SHIFT


@dataclass(frozen=True)
class Matrix:
    """A packed matrix; see `tvm_arena`."""

    precision: Precision
    depth: int
    count: int
    """Blocks of columns."""
    values: Any
    scales: Any = None
    """Of the columns, for int8; of blocks of inputs, in the memory of `values`, for int4."""
    bias: Any = None
    """Of the columns `[count, LANES]`, if there is one."""

    @property
    def weights(self) -> int:
        """How many there are, those that fill blocks up included."""
        return self.count * LANES * self.depth


def matmul(
    x: Any, y: Any, matrix: Matrix, rows: Any, epilogue: str, sums_of_x: Any = None, schedule: Schedule | None = None
) -> None:
    """Adds `y = x · matrix` for the first `rows` rows.

    What is done with the products: `store` them in y, those above zero for `relu`, `add` them to y, or `swiglu`: each
    block is half gate and half up columns, and y gets silu(gate) · up, half as wide.  sums_of_x: a buffer for
    `input_sums`, for int4.
    """
    if matrix.precision is Precision.INT4:
        input_sums(x, sums_of_x, matrix.depth, rows)
    tile_rows = TILE_ROWS[matrix.precision]
    how = schedule or default_schedule(matrix.precision)
    read_bytes = int(matrix.weights * matrix.precision.weight_bytes)
    if how.parallel is None:
        over_blocks = spread(matrix.count, read_bytes)
    else:
        over_blocks = (T.parallel if how.parallel else T.serial)(matrix.count)
    with over_blocks as number, T.sblock("block"):
        block = index_of(number, matrix.weights)
        # Each a buffer of its own, small enough to be kept in registers.
        sums = [local((LANES,)) for _ in range(max(tile_rows, how.single_row_sums))]
        tile = _tile_of_words if matrix.precision is Precision.INT4 else _tile

        def through(first: Any, count: int) -> None:
            tile(x, sums_of_x, matrix, block, first, count, sums, how)
            for row in range(count):
                _finish(y, sums[row], matrix, block, first + row, epilogue)

        with T.serial(rows // tile_rows) as whole:
            through(whole * tile_rows, tile_rows)
        for rest in range(1, tile_rows):
            with T.If(rows % tile_rows == rest), T.Then():
                through(rows - rest, rest)


def input_sums(x: Any, sums_of_x: Any, depth: int, rows: Any) -> None:
    """Adds `sums_of_x[row, i]` = 1.5 times the sum of the row's i-th block of inputs (x is zero beyond its depth)."""
    with T.serial(rows) as row, T.serial(-(-depth // INT4_BLOCK)) as group, T.sblock("sum"):
        lanes, total = local((INT4_BLOCK,)), local((1,))
        with T.vectorized(INT4_BLOCK) as j:
            store(lanes, [j], x[row, group * INT4_BLOCK + j])
        reduce_lanes(lanes, total, add, INT4_BLOCK)
        store(sums_of_x, [row, group], total[0] * T.float32(1.5))


def _tile(x: Any, _: Any, matrix: Matrix, block: Any, first: Any, count: int, sums: list[Any], how: Schedule) -> None:
    """Adds the products of `count` rows with one block of columns, to `sums[0:count]`."""
    ways = max(1, how.single_row_sums // count)
    turn = ways * how.unroll
    integers = matrix.precision is Precision.INT8

    def multiply(k: Any, way: int) -> None:
        for row in range(count):
            with T.vectorized(LANES) as j:
                weight = matrix.values[block, k, j]
                weight = T.Cast("float32", weight) if integers else weight
                place = way * count + row
                store(sums[place], [j], sums[place][j] + x[first + row, k] * weight)

    for place in range(ways * count):
        fill(sums[place], T.float32(0), LANES)
    with T.serial(matrix.depth // turn) as k:
        _prefetch(matrix.values, [block, k * turn, 0], turn * LANES, how.prefetch_bytes)
        for part in range(turn):
            multiply(k * turn + part, part % ways)
    for part in range(matrix.depth % turn):
        multiply(matrix.depth // turn * turn + part, part % ways)
    _join(sums, ways, count)


def _tile_of_words(
    x: Any, sums_of_x: Any, matrix: Matrix, block: Any, first: Any, count: int, sums: list[Any], how: Schedule
) -> None:
    """As `_tile`, for four-bit values; its loop over a word's values is always written out."""
    ways = how.single_row_sums if count == 1 else 1
    words = INT4_BLOCK // WORD_VALUES
    with T.sblock("tile"):
        parts = [local((LANES,)) for _ in range(ways * count)]
        for row in range(count):
            fill(sums[row], T.float32(0), LANES)
        with T.serial(-(-matrix.depth // INT4_BLOCK)) as group:
            _prefetch(matrix.values, [block, group, 0, 0], (words + 1) * LANES, how.prefetch_bytes)
            for place in range(ways * count):
                fill(parts[place], T.float32(0), LANES)
            with T.serial(words) as word:
                for value in range(WORD_VALUES):
                    k = group * INT4_BLOCK + word * WORD_VALUES + value
                    for row in range(count):
                        place = value % ways * count + row
                        with T.vectorized(LANES) as j:
                            weight = _unpacked(matrix.values[block, group, word, j], value)
                            store(parts[place], [j], parts[place][j] + x[first + row, k] * weight)
            _join(parts, ways, count)
            for row in range(count):
                with T.vectorized(LANES) as j:
                    scale = T.reinterpret("float32", matrix.values[block, group, words, j]) * T.float32(16)
                    part = parts[row][j] - sums_of_x[first + row, group]
                    store(sums[row], [j], sums[row][j] + scale * part)


def _prefetch(values: Any, place: list[Any], count: int, ahead_bytes: int) -> None:
    """Adds requests for the cache lines that lie so far behind `count` values from `place` on; none for 0 bytes."""
    item_bytes = np.dtype(str(values.dtype)).itemsize
    for line in range(0, count * item_bytes if ahead_bytes else 0, CACHE_LINE_BYTES):
        ahead = (ahead_bytes + line) // item_bytes
        address = T.address_of(values[[*place[:-1], place[-1] + ahead]])
        read, keep, data = T.int32(0), T.int32(3), T.int32(1)
        T.evaluate(T.call_intrin("void", "tirx.prefetch", address, read, keep, data))


def _unpacked(word: Any, value: int) -> Any:
    """The float 1 + v / 16 of the four-bit value v at that place of the word."""
    shift = 4 * value - _MANTISSA_SHIFT
    moved = T.shift_right(word, T.uint32(shift)) if shift > 0 else T.shift_left(word, T.uint32(-shift))
    return T.reinterpret("float32", T.bitwise_or(T.bitwise_and(moved, T.uint32(_MASK)), T.uint32(_ONE_BITS)))


def _join(sums: list[Any], ways: int, count: int) -> None:
    """Adds up the sums of all ways in the first `count` rows."""
    while ways > 1:
        ways //= 2
        for place in range(ways * count):
            with T.vectorized(LANES) as j:
                store(sums[place], [j], sums[place][j] + sums[ways * count + place][j])


def _finish(y: Any, sums: Any, matrix: Matrix, block: Any, row: Any, epilogue: str) -> None:
    """Adds what is done with the products of one row and one block of columns."""

    def scaled(j: Any) -> Any:
        product = sums[j] * matrix.scales[block, j] if matrix.precision is Precision.INT8 else sums[j]
        return product if matrix.bias is None else product + matrix.bias[block, j]

    lanes = LANES // 2 if epilogue == "swiglu" else LANES
    with T.vectorized(lanes) as j:
        column, value = block * lanes + j, scaled(j)
        if epilogue == "add":
            value = y[row, column] + value
        if epilogue == "relu":
            value = T.max(value, T.float32(0))
        if epilogue == "swiglu":
            value = value / (T.float32(1) + exponential(-value)) * scaled(lanes + j)
        store(y, [row, column], value)
