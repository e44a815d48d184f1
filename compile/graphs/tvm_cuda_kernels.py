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

from autotune.candidate import DraftShape, Precision
from autotune.compile.graphs.tvm_cuda_code import (
    LOWEST,
    WARP,
    WORDS,
    Size,
    barrier,
    block_combine,
    block_max,
    block_sum,
    kernel,
    lanes,
    launched,
    load,
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
_ATTENTION_THREADS = 128
_SHORTEST_PART = 32
_LONGEST_PART = 4096

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
                    put(x, [row, column * numbers + i], _number(precision, word, i))

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


def attention_parts(capacity_tokens: int) -> int:
    """Parts that the cached positions are split in, each for a block of threads."""
    return max(16, -(-capacity_tokens // _LONGEST_PART))


def attention_sizes(shape: DraftShape, precision: Precision, capacity_tokens: int) -> dict[str, Size]:
    """Buffers of the attention by name: queries, and what every part makes of them."""
    parts, width = attention_parts(capacity_tokens), words(precision, shape.head_dim) // WORDS * lanes(precision)
    return {
        "query": ((PIECE_TOKENS, shape.heads, width), "float32"),
        "mixed": ((PIECE_TOKENS, shape.heads, parts, shape.head_dim), "float32"),
        "peaks": ((PIECE_TOKENS, shape.heads, parts, 2), "float32"),
    }


def cache_size(shape: DraftShape, precision: Precision, capacity_tokens: int) -> Size:
    """The keys or the values of a layer.  In keys, dimensions i and i + head_dim / 2 are neighbours, as in queries."""
    return (shape.kv_heads, capacity_tokens, words(precision, shape.head_dim)), word_type(precision)


def attend(shape: DraftShape, precision: Precision, capacity_tokens: int) -> Any:
    """A kernel `(query, state, keys, values, mixed, peaks)`: each part's mix of values, not yet divided.

    peaks: the largest score of the part, and the sum of the exponentials of the scores' distances to it.
    """
    head_dim, group = shape.head_dim, shape.heads // shape.kv_heads
    parts, columns = attention_parts(capacity_tokens), words(precision, head_dim)
    vectors, width = columns // WORDS, lanes(precision)
    numbers = width // WORDS
    threads = max(_ATTENTION_THREADS, -(-columns // WARP) * WARP)
    groups = threads // columns
    longest = max(_SHORTEST_PART, -(-capacity_tokens // parts))

    def body(query: Any, state: Any, keys: Any, values: Any, mixed: Any, peaks: Any) -> None:
        with launched(threads, shape.heads, parts) as (thread, head, part):
            asked, scores, sums = shared(vectors * width), shared(longest), shared(groups, columns * numbers)
            packed, mine = registers(WORDS, dtype=word_type(precision)), registers(numbers)
            score, peak, total = registers(1), registers(1), registers(1)
            kv, column, member = head // group, thread % columns, thread // columns

            def score_of(position: Any) -> None:
                put(score, [0], T.float32(0))
                with T.serial(vectors) as vector:
                    load(keys, [kv, position], vector * WORDS, packed)
                    for j in range(width):
                        key = widened(precision, lambda i: packed[i], j)
                        put(score, [0], score[0] + key * asked[vector * width + j])

            def part_of(row: Any, first: Any, count: Any) -> None:
                with _each(vectors * width, thread, threads) as i:
                    put(asked, [i], query[row, head, i])
                barrier()
                put(peak, [0], T.float32(LOWEST))
                with _each(count, thread, threads) as i:
                    score_of(first + i)
                    put(scores, [i], score[0])
                    put(peak, [0], T.max(peak[0], score[0]))
                block_max(peak, thread, threads)
                put(total, [0], T.float32(0))
                with _each(count, thread, threads) as i:
                    put(scores, [i], T.exp(scores[i] - peak[0]))
                    put(total, [0], total[0] + scores[i])
                block_sum(total, thread, threads)
                with when(thread < groups * columns):
                    for n in range(numbers):
                        put(mine, [n], T.float32(0))
                    with _each(count, member, groups) as i:
                        put(packed, [0], values[kv, first + i, column])
                        for n in range(numbers):
                            put(mine, [n], mine[n] + scores[i] * _number(precision, packed, n))
                    for n in range(numbers):
                        put(sums, [member, column * numbers + n], mine[n])
                barrier()
                with _each(head_dim, thread, threads) as i:
                    put(mine, [0], T.float32(0))
                    with T.serial(groups) as other:
                        put(mine, [0], mine[0] + sums[other, i])
                    put(mixed, [row, head, part, i], mine[0])
                with when(thread == 0):
                    put(peaks, [row, head, part, 0], peak[0])
                    put(peaks, [row, head, part, 1], total[0])
                barrier()

            with T.serial(count_of_rows(state)) as row:
                length, share = _lengths(state, row, parts)
                with when(part * share < length):
                    part_of(row, part * share, T.min(share, length - part * share))

    cache = cache_size(shape, precision, capacity_tokens)
    query, *made = attention_sizes(shape, precision, capacity_tokens).values()
    return kernel(body, query=query, state=STATE, keys=cache, values=cache, mixed=made[0], peaks=made[1])


def join(shape: DraftShape, precision: Precision, capacity_tokens: int) -> Any:
    """A kernel `(mixed, peaks, state, y)` that joins the attention's parts."""
    head_dim, parts = shape.head_dim, attention_parts(capacity_tokens)
    threads = -(-head_dim // WARP) * WARP

    def body(mixed: Any, peaks: Any, state: Any, y: Any) -> None:
        with launched(threads, shape.heads) as (thread, head):
            largest, total, mine, factor = registers(1), registers(1), registers(1), registers(1)
            with when(thread < head_dim), T.serial(count_of_rows(state)) as row:
                length, share = _lengths(state, row, parts)
                used = (length + share - 1) // share
                put(largest, [0], T.float32(LOWEST))
                with T.serial(used) as part:
                    put(largest, [0], T.max(largest[0], peaks[row, head, part, 0]))
                for buffer in (total, mine):
                    put(buffer, [0], T.float32(0))
                with T.serial(used) as part:
                    put(factor, [0], T.exp(peaks[row, head, part, 0] - largest[0]))
                    put(total, [0], total[0] + factor[0] * peaks[row, head, part, 1])
                    put(mine, [0], mine[0] + factor[0] * mixed[row, head, part, thread])
                put(y, [row, head * head_dim + thread], mine[0] / total[0])

    _, mixed, peaks = attention_sizes(shape, precision, capacity_tokens).values()
    return kernel(body, mixed=mixed, peaks=peaks, state=STATE, y=rows_of(shape.heads * head_dim))


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
                with _each(share, thread, threads) as i:
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


def _lengths(state: Any, row: Any, parts: int) -> tuple[Any, Any]:
    """Positions that a row attends to, and how many of them are a part."""
    length = T.Cast("int32", state[0]) + row + 1
    return length, T.max(T.int32(_SHORTEST_PART), (length + parts - 1) // parts)


def _at(buffer: Any, row: int, index: int) -> Any:
    """The buffer's element there."""
    return buffer[row, index]


def _number(precision: Precision, word: Any, index: int) -> Any:
    """Number `index` of the word `word[0]`."""
    return widened(precision, lambda _: word[0], index)


class _each:  # noqa: N801 (used like a function)
    """A loop over `0 … count - 1`, dealt out to threads."""

    def __init__(self, count: Any, thread: Any, threads: int):
        self._count, self._thread, self._threads = count, thread, threads

    def __enter__(self) -> Any:
        self._loop = T.serial((self._count + self._threads - 1) // self._threads)
        index = self._loop.__enter__() * self._threads + self._thread
        self._guard = when(index < self._count)
        self._guard.__enter__()
        return index

    def __exit__(self, *error: Any) -> None:
        self._guard.__exit__(*error)
        self._loop.__exit__(*error)
