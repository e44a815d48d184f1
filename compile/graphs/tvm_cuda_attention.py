"""The attention of a LLaMA decoder as CUDA kernels: parts of the cached positions, each for a block, and their join."""

from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812 (its usual name)

from autotune.candidate import DraftShape, Precision
from autotune.compile.graphs.tvm_cuda_code import (
    LOWEST,
    WARP,
    WORDS,
    Size,
    barrier,
    block_max,
    block_sum,
    each,
    kernel,
    lanes,
    launched,
    load,
    number,
    put,
    registers,
    shared,
    when,
    widened,
    word_type,
    words,
)
from autotune.compile.graphs.tvm_cuda_kernels import PIECE_TOKENS, STATE, count_of_rows, rows_of

_THREADS = 128
_SHORTEST_PART = 32
_LONGEST_PART = 4096


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
    threads = max(_THREADS, -(-columns // WARP) * WARP)
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
                with each(vectors * width, thread, threads) as i:
                    put(asked, [i], query[row, head, i])
                barrier()
                put(peak, [0], T.float32(LOWEST))
                with each(count, thread, threads) as i:
                    score_of(first + i)
                    put(scores, [i], score[0])
                    put(peak, [0], T.max(peak[0], score[0]))
                block_max(peak, thread, threads)
                put(total, [0], T.float32(0))
                with each(count, thread, threads) as i:
                    put(scores, [i], T.exp(scores[i] - peak[0]))
                    put(total, [0], total[0] + scores[i])
                block_sum(total, thread, threads)
                with when(thread < groups * columns):
                    for n in range(numbers):
                        put(mine, [n], T.float32(0))
                    with each(count, member, groups) as i:
                        put(packed, [0], values[kv, first + i, column])
                        for n in range(numbers):
                            put(mine, [n], mine[n] + scores[i] * number(precision, packed, n))
                    for n in range(numbers):
                        put(sums, [member, column * numbers + n], mine[n])
                barrier()
                with each(head_dim, thread, threads) as i:
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


def _lengths(state: Any, row: Any, parts: int) -> tuple[Any, Any]:
    """Positions that a row attends to, and how many of them are a part."""
    length = T.Cast("int32", state[0]) + row + 1
    return length, T.max(T.int32(_SHORTEST_PART), (length + parts - 1) // parts)
