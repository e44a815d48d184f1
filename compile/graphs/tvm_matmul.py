"""Products of activations with packed matrices, for CPUs.

Rows (tokens) go through a block of columns in tiles of some and a rest: so many tokens read each weight from memory
once, more read it again from the caches.  The sums of a tile must fit into the vector registers: where these are few,
a tile has fewer rows and goes through the block in parts of its columns.  A single row takes all columns at once, in
the order they lie in memory, and keeps several sums for every column where registers are so wide that the sums would
otherwise be few, and each addition wait for the one before it.

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
from autotune.compile.processor import WIDE_REGISTERS, register_floats
from autotune.compile.schedule import Schedule, default_schedule

CACHE_LINE_BYTES = 64

_ONE_BITS = 0x3F800000
_MANTISSA_SHIFT = 19
"""Four bits from here on are the highest of a float's mantissa."""
_MASK = 0xF << _MANTISSA_SHIFT


@dataclass(frozen=True)
class Tile:
    """Rows that go through a block together, so many of its columns at a time."""

    rows: int
    columns: int


def tile_for(precision: Precision) -> Tile:
    """The tile whose sums leave enough of the processor's vector registers for weights and activations.

    Unpacking four-bit values needs more of them.
    """
    if register_floats() >= WIDE_REGISTERS:  # 6 · 64 sums are 24 of AVX-512's 32 registers
        return Tile(4 if precision is Precision.INT4 else 6, LANES)
    return Tile(2 if precision is Precision.INT4 else 3, LANES // 2)  # 3 · 32 sums are 12 of AVX2's 16 registers


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
    tile, how = tile_for(matrix.precision), schedule or default_schedule(matrix.precision)
    read_bytes = int(matrix.weights * matrix.precision.weight_bytes)
    if how.parallel is None:
        over_blocks = spread(matrix.count, read_bytes)
    else:
        over_blocks = (T.parallel if how.parallel else T.serial)(matrix.count)
    with over_blocks as number, T.sblock("block"):
        block = index_of(number, matrix.weights)
        # Each a buffer of its own, small enough to be kept in registers.
        most = max(tile.rows, how.single_row_sums)
        several = [[local((tile.columns,)) for _ in range(LANES // tile.columns)] for _ in range(most)]
        single = several if tile.columns == LANES else [[local((LANES,))] for _ in range(how.single_row_sums)]
        multiply = _tile_of_words if matrix.precision is Precision.INT4 else _tile

        def through(first: Any, count: int) -> None:
            sums, columns = (single, LANES) if count == 1 else (several, tile.columns)
            for part in range(LANES // columns):
                held = _Part(part * columns, columns, [each[part] for each in sums])
                multiply(x, sums_of_x, matrix, block, first, count, held, how)
            for row in range(count):
                _finish(y, sums[row], columns, matrix, block, first + row, epilogue)

        with T.serial(rows // tile.rows) as whole:
            through(whole * tile.rows, tile.rows)
        for rest in range(1, tile.rows):
            with T.If(rows % tile.rows == rest), T.Then():
                through(rows - rest, rest)


@dataclass(frozen=True)
class _Part:
    """Columns of a block whose sums are in registers together."""

    first: int
    count: int
    sums: list[Any]
    """`[count]` each: those of the rows, then again for every further way of adding up."""


def input_sums(x: Any, sums_of_x: Any, depth: int, rows: Any) -> None:
    """Adds `sums_of_x[row, i]` = 1.5 times the sum of the row's i-th block of inputs (x is zero beyond its depth)."""
    with T.serial(rows) as row, T.serial(-(-depth // INT4_BLOCK)) as group, T.sblock("sum"):
        lanes, total = local((INT4_BLOCK,)), local((1,))
        with T.vectorized(INT4_BLOCK) as j:
            store(lanes, [j], x[row, group * INT4_BLOCK + j])
        reduce_lanes(lanes, total, add, INT4_BLOCK)
        store(sums_of_x, [row, group], total[0] * T.float32(1.5))


def _tile(x: Any, _: Any, matrix: Matrix, block: Any, first: Any, count: int, part: _Part, how: Schedule) -> None:
    """Adds the products of `count` rows with one part of a block, to the first `count` sums."""
    ways = max(1, how.single_row_sums // count)
    turn = ways * how.unroll
    integers, sums = matrix.precision is Precision.INT8, part.sums

    def multiply(k: Any, way: int) -> None:
        for row in range(count):
            with T.vectorized(part.count) as j:
                weight = matrix.values[block, k, part.first + j]
                weight = T.Cast("float32", weight) if integers else weight
                place = way * count + row
                store(sums[place], [j], sums[place][j] + x[first + row, k] * weight)

    for place in range(ways * count):
        fill(sums[place], T.float32(0), part.count)
    with T.serial(matrix.depth // turn) as k:
        if not part.first:
            _prefetch(matrix.values, [block, k * turn, 0], turn * LANES, how.prefetch_bytes)
        for step in range(turn):
            multiply(k * turn + step, step % ways)
    for step in range(matrix.depth % turn):
        multiply(matrix.depth // turn * turn + step, step % ways)
    _join(part, ways, count)


def _tile_of_words(
    x: Any, sums_of_x: Any, matrix: Matrix, block: Any, first: Any, count: int, part: _Part, how: Schedule
) -> None:
    """As `_tile`, for four-bit values; its loop over a word's values is always written out."""
    ways = how.single_row_sums if count == 1 else 1
    words = INT4_BLOCK // WORD_VALUES
    with T.sblock("tile"):
        held = _Part(part.first, part.count, [local((part.count,)) for _ in range(ways * count)])
        for row in range(count):
            fill(part.sums[row], T.float32(0), part.count)
        with T.serial(-(-matrix.depth // INT4_BLOCK)) as group:
            if not part.first:
                _prefetch(matrix.values, [block, group, 0, 0], (words + 1) * LANES, how.prefetch_bytes)
            for place in range(ways * count):
                fill(held.sums[place], T.float32(0), part.count)
            with T.serial(words) as word:
                for value in range(WORD_VALUES):
                    k = group * INT4_BLOCK + word * WORD_VALUES + value
                    for row in range(count):
                        place = value % ways * count + row
                        with T.vectorized(part.count) as j:
                            weight = _unpacked(matrix.values[block, group, word, part.first + j], value)
                            store(held.sums[place], [j], held.sums[place][j] + x[first + row, k] * weight)
            _join(held, ways, count)
            for row in range(count):
                with T.vectorized(part.count) as j:
                    stored = matrix.values[block, group, words, part.first + j]
                    scale = T.reinterpret("float32", stored) * T.float32(16)
                    product = held.sums[row][j] - sums_of_x[first + row, group]
                    store(part.sums[row], [j], part.sums[row][j] + scale * product)


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


def _join(part: _Part, ways: int, count: int) -> None:
    """Adds up the sums of all ways in the first `count` ones."""
    sums = part.sums
    while ways > 1:
        ways //= 2
        for place in range(ways * count):
            with T.vectorized(part.count) as j:
                store(sums[place], [j], sums[place][j] + sums[ways * count + place][j])


def _finish(y: Any, sums: list[Any], columns: int, matrix: Matrix, block: Any, row: Any, epilogue: str) -> None:
    """Adds what is done with the products of one row and one block, the sums of so many `columns` in each buffer."""

    def scaled(lane: int, j: Any) -> Any:
        product = sums[lane // columns][lane % columns + j]
        if matrix.precision is Precision.INT8:
            product = product * matrix.scales[block, lane + j]
        return product if matrix.bias is None else product + matrix.bias[block, lane + j]

    lanes = LANES // 2 if epilogue == "swiglu" else LANES
    together = min(columns, lanes)
    for lane in range(0, lanes, together):
        with T.vectorized(together) as j:
            column, value = block * lanes + lane + j, scaled(lane, j)
            if epilogue == "add":
                value = y[row, column] + value
            if epilogue == "relu":
                value = T.max(value, T.float32(0))
            if epilogue == "swiglu":
                value = value / (T.float32(1) + exponential(-value)) * scaled(lanes + lane, j)
            store(y, [row, column], value)
