"""The kernels of a LLaMA decoder for CUDA, scheduled by hand as TVM primitive functions.

`state` `[3 + PIECE_TOKENS]` int64 holds the position of the first row (token), the number of rows, how many tokens a
burst has drafted so far, and the tokens.  Activations are float32 `[PIECE_TOKENS, width]` with widths rounded up to
eights; the added columns hold zeros.

Decoding one token is bound by the bandwidth of the memory, so matrices are read once, in vectors of 16 bytes, for up
to `TILE_ROWS` rows; more rows read them again from the caches.  A matrix is stored `[blocks, columns, words]`: the
`columns` rows of it that one block of threads multiplies, in pairs, so that whatever joins two products (a rotation,
a gate) is done where they are made.  Its threads share the inputs and add up at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812 (its usual name)

from autotune.candidate import Precision
from autotune.compile.graphs.tvm_cuda_code import (
    LOWEST,
    WARP,
    WORDS,
    Size,
    barrier,
    block_combine,
    each,
    kernel,
    lanes,
    launched,
    load,
    number,
    put,
    registers,
    shared,
    shuffled,
    when,
    widened,
    word_type,
    words,
)

PIECE_TOKENS = 64
TILE_ROWS = 9
"""Rows that go through a matrix together: a verification of eight drafted tokens."""
ROW_VARIANTS = (1, 2, 4, TILE_ROWS)
"""Numbers of rows with code of their own; a rest takes the next larger one."""
STATE_TOKENS = 3
"""Where the tokens begin in `state`."""
ARGMAX_PARTS = 32
"""Blocks that search a row of logits."""

STATE: Size = ((STATE_TOKENS + PIECE_TOKENS,), "int64")
AFTER: Size = ((PIECE_TOKENS,), "int64")
TOPS: Size = ((PIECE_TOKENS, ARGMAX_PARTS, 2), "float32")

_MOST_THREADS = 256
_ENOUGH_BLOCKS = 256

Finish = Callable[[Any, Any, Any, Any], None]
"""Adds what becomes of the two products of a pair: row, pair, first product, second product."""


def padded(width: int) -> int:
    """The width rounded up to eights."""
    return -(-width // 8) * 8


def rows_of(width: int) -> Size:
    """Activations of that width."""
    return (PIECE_TOKENS, padded(width)), "float32"


def count_of_rows(state: Any) -> Any:
    """How many rows there are."""
    return T.Cast("int32", state[1])


@dataclass(frozen=True)
class Matrix:
    """How a matrix of pairs of columns is stored and multiplied."""

    precision: Precision
    depth: int
    """Its inputs."""
    pairs: int
    """Pairs of its outputs."""

    @property
    def columns(self) -> int:
        """Outputs of a block: four read the inputs half as often as two, where that leaves enough blocks."""
        return 4 if self.pairs // 2 >= _ENOUGH_BLOCKS else 2

    @property
    def blocks(self) -> int:
        """Blocks of threads."""
        return -(-self.pairs // (self.columns // 2))

    @property
    def vectors(self) -> int:
        """Vectors of 16 bytes in a row."""
        return words(self.precision, self.depth) // WORDS

    @cached_property
    def threads(self) -> int:
        """Threads of a block: whole warps, none of them idle if there are enough vectors."""
        return max(WARP, min(_MOST_THREADS, self.vectors // WARP * WARP))

    @property
    def size(self) -> Size:
        """Shape and type it is stored with."""
        return (self.blocks, self.columns, self.vectors * WORDS), word_type(self.precision)


def embed(precision: Precision, vocab: int, hidden: int) -> Any:
    """A kernel `(state, table, x)` that looks up the rows of the tokens."""
    columns, threads = words(precision, hidden), 128
    numbers = lanes(precision) // WORDS

    def body(state: Any, table: Any, x: Any) -> None:
        with launched(threads, -(-columns // threads)) as (thread, block):
            word = registers(1, dtype=word_type(precision))
            column = block * threads + thread
            with when(column < columns), T.serial(count_of_rows(state)) as row:
                put(word, [0], table[T.Cast("int32", state[STATE_TOKENS + row]), column])
                for i in range(numbers):
                    put(x, [row, column * numbers + i], number(precision, word, i))

    return kernel(body, state=STATE, table=((vocab, columns), word_type(precision)), x=rows_of(hidden))


def matmul(matrix: Matrix, make_finish: Callable[..., Finish], norm_eps: float | None = None, **outputs: Size) -> Any:
    """A kernel `(x, state, [gain,] weight, *outputs)` that multiplies rows `[depth]` and finishes pairs of products.

    norm_eps: if given, of the root-mean-square norm that x goes through first, with weights `gain`.  Its scale is a
    factor of the products, so nobody waits for it.  make_finish: what is done with the products, given the state and
    the outputs.
    """
    columns, threads, vectors = matrix.columns, matrix.threads, matrix.vectors
    width, normed = lanes(matrix.precision), norm_eps is not None
    sums_of_row = columns + normed
    pairs, warps = columns // 2, threads // WARP

    def body(x: Any, state: Any, *others: Any) -> None:
        gain = others[0] if normed else x  # x stands in; it is not read as one
        weight, *targets = others[normed:]
        finish = make_finish(state, *targets)
        with launched(threads, matrix.blocks) as (thread, block):
            packed, weights = registers(columns, WORDS, dtype=word_type(matrix.precision)), registers(columns, width)
            inputs, gains, sums = registers(width), registers(width), registers(TILE_ROWS, sums_of_row)
            gathered, total = shared(warps, TILE_ROWS, sums_of_row), registers(3)

            def add_vector(vector: Any, first: Any, rows: int) -> None:
                for c in range(columns):
                    load(weight, [block, c], vector * WORDS, packed, [c])
                for c in range(columns):
                    for j in range(width):
                        put(weights, [c, j], widened(matrix.precision, partial(_at, packed, c), j))
                if normed:
                    for start in range(0, width, WORDS):
                        with T.vectorized(WORDS) as j:
                            put(gains, [start + j], gain[vector * width + start + j])
                with T.unroll(rows) as r:
                    for start in range(0, width, WORDS):
                        with T.vectorized(WORDS) as j:
                            put(inputs, [start + j], x[first + r, vector * width + start + j])
                    if normed:
                        with T.unroll(width) as j:
                            put(sums, [r, columns], sums[r, columns] + inputs[j] * inputs[j])
                            put(inputs, [j], inputs[j] * gains[j])
                    with T.unroll(columns) as c, T.unroll(width) as j:
                        put(sums, [r, c], sums[r, c] + inputs[j] * weights[c, j])

            def tile(first: Any, rows: int) -> None:
                with T.unroll(rows) as r, T.unroll(sums_of_row) as c:
                    put(sums, [r, c], T.float32(0))
                with T.serial(-(-vectors // threads)) as step:
                    vector = step * threads + thread
                    if vectors % threads:
                        with when(vector < vectors):
                            add_vector(vector, first, rows)
                    else:
                        add_vector(vector, first, rows)
                with T.unroll(rows) as r, T.unroll(sums_of_row) as c:
                    for distance in (16, 8, 4, 2, 1):
                        put(sums, [r, c], sums[r, c] + shuffled(sums[r, c], distance))
                with when(thread % WARP == 0), T.unroll(rows) as r, T.unroll(sums_of_row) as c:
                    put(gathered, [thread // WARP, r, c], sums[r, c])
                barrier()
                row, pair = first + thread // pairs, thread % pairs
                with when(T.And(thread < rows * pairs, row < count_of_rows(state))):
                    for i, column in enumerate((pair * 2, pair * 2 + 1, columns)[: 2 + normed]):
                        put(total, [i], gathered[0, thread // pairs, column])
                        with T.serial(1, warps) as warp:
                            put(total, [i], total[i] + gathered[warp, thread // pairs, column])
                    if normed:
                        mean = total[2] / T.float32(matrix.depth)
                        put(total, [2], T.float32(1) / T.sqrt(mean + T.float32(norm_eps)))
                        for i in range(2):
                            put(total, [i], total[i] * total[2])
                    finish(row, block * pairs + pair, total[0], total[1])
                barrier()

            rows = count_of_rows(state)
            with T.serial(rows // TILE_ROWS) as whole:
                tile(whole * TILE_ROWS, TILE_ROWS)
            rest, smaller = rows % TILE_ROWS, 0
            for variant in ROW_VARIANTS:
                with when(T.And(rest > smaller, rest <= variant)):
                    tile(rows - rest, variant)
                smaller = variant

    gains: dict[str, Size] = {"gain": ((padded(matrix.depth),), "float32")} if normed else {}
    return kernel(body, x=rows_of(matrix.depth), state=STATE, **gains, weight=matrix.size, **outputs)


def argmax(head_rows: int, logits: Size) -> Any:
    """A kernel `(logits, state, tops)`: the first of the largest logits of each part of each row, and its place.

    Places are kept as float32, which is exact up to 2^24.
    """
    threads, share = 256, -(-head_rows // ARGMAX_PARTS)

    def body(logits: Any, state: Any, tops: Any) -> None:
        with launched(threads, ARGMAX_PARTS) as (thread, part):
            best = registers(2)
            with T.serial(count_of_rows(state)) as row:
                put(best, [0], T.float32(LOWEST))
                put(best, [1], T.Cast("float32", part * share))
                with each(share, thread, threads) as i:
                    place = part * share + i
                    with when(place < head_rows), when(logits[row, place] > best[0]):
                        put(best, [0], logits[row, place])
                        put(best, [1], T.Cast("float32", place))
                block_combine(best, 2, thread, threads, _better)
                with when(thread == 0):
                    for i in range(2):
                        put(tops, [row, part, i], best[i])
                barrier()

    return kernel(body, logits=logits, state=STATE, tops=TOPS)


def choose(longest_burst: int, head_tokens: Size | None) -> Any:
    """A kernel `(tops, state, [ids,] after[, drafted])`: the arg-max token after each row.

    head_tokens: size of the tokens that a trimmed head's rows stand for.  In a burst (`longest_burst` above 0) the last
    row's token is noted as drafted and becomes the next step's only row.
    """
    threads = PIECE_TOKENS

    def body(tops: Any, state: Any, *others: Any) -> None:
        ids = others[0] if head_tokens else None
        after, *drafted = others[bool(head_tokens) :]
        with launched(threads, 1) as (thread, _):
            best, token = registers(2), registers(1, dtype="int64")
            rows = count_of_rows(state)
            with when(thread < rows):
                for i in range(2):
                    put(best, [i], tops[thread, 0, i])
                with T.serial(1, ARGMAX_PARTS) as part:
                    better = tops[thread, part, 0] > best[0]  # parts come in order: the first of equal ones stays
                    with when(better):
                        for i in (1, 0):
                            put(best, [i], tops[thread, part, i])
                place = T.Cast("int32", best[1])
                put(token, [0], T.Cast("int64", place) if ids is None else ids[place])
                put(after, [thread], token[0])
            if drafted:
                barrier()
                with when(thread == 0):
                    put(token, [0], after[rows - 1])
                    advance(state, drafted[0], token[0])

    sizes: dict[str, Size] = {"ids": head_tokens} if head_tokens else {}
    sizes["after"] = AFTER
    if longest_burst:
        sizes["drafted"] = ((longest_burst,), "int64")
    return kernel(body, tops=TOPS, state=STATE, **sizes)


def advance(state: Any, drafted: Any, token: Any) -> None:
    """Adds: the token is drafted and becomes the next step's only row.  For one thread, after a barrier."""
    put(drafted, [T.Cast("int32", state[2])], token)
    put(state, [STATE_TOKENS], token)
    put(state, [0], state[0] + state[1])
    put(state, [1], T.int64(1))
    put(state, [2], state[2] + T.int64(1))


def _better(mine: Any, other: Any) -> list[Any]:
    """The larger of two (logit, place) pairs, the earlier of equal ones."""
    wins = T.Or(other[0] > mine[0], T.And(other[0] == mine[0], other[1] < mine[1]))
    return [T.Select(wins, theirs, own) for theirs, own in zip(other, mine, strict=True)]


def _at(buffer: Any, row: int, index: int) -> Any:
    """The buffer's element there."""
    return buffer[row, index]
