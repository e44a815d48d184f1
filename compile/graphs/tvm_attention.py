"""Embedding and attention of a decoder, for CPUs.

Activations are `[PIECE_TOKENS, width]` with widths rounded up to whole blocks; the added columns hold zeros.
"""

from collections.abc import Callable
from math import prod
from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812 (its usual name)

from autotune.candidate import DraftShape
from autotune.compile.graphs.tvm_arena import blocks
from autotune.compile.graphs.tvm_primitives import (
    LANES,
    LOWEST,
    VECTOR,
    add,
    exponential,
    fill,
    index_of,
    local,
    reduce_lanes,
    spread,
    store,
)

MIXED_VECTORS = 8
"""Vectors that values are added up in."""


def embed(tokens: Any, table: Any, x: Any, width: int, rows: Any) -> None:
    """Adds the look-up of the tokens' rows; the table's columns are padded."""
    with T.serial(rows) as row, T.serial(blocks(width)) as block, T.vectorized(LANES) as j:
        store(x, [row, block * LANES + j], table[tokens[row], block * LANES + j])


def add_positions(positions: Any, x: Any, hidden: int, begin: Any, rows: Any) -> None:
    """Adds the look-up of what belongs to the rows' positions, which is added to x; the table's columns are padded."""
    with T.serial(rows) as row, T.serial(blocks(hidden)) as block, T.vectorized(LANES) as j:
        column = block * LANES + j
        store(x, [row, column], x[row, column] + positions[begin + row, column])


def attention(
    qkv: Any,
    tables: tuple[Any, Any] | None,
    keys: Any,
    values: Any,
    scores: Any,
    y: Any,
    shape: DraftShape,
    layer: Any,
    span: Any,
) -> None:
    """Adds the attention of one layer: rotates where there are `tables` for it, appends to the cache, attends.

    keys: `[layers, kv_heads, capacity / LANES, head_dim, LANES]`, so that scores of neighbouring positions are
    neighbours; values: `[layers, kv_heads, capacity, head_dim]`.  tables: cosines and sines; scores: scratch
    `[kv_heads, capacity]`, whole blocks; span: position of the first row, and the number of rows.
    """
    heads, kv_heads, head_dim, half = shape.heads, shape.kv_heads, shape.head_dim, shape.head_dim // 2
    group = heads // kv_heads
    layer = index_of(layer, max(prod(int(size) for size in cache.shape) for cache in (keys, values)))
    begin, rows = span

    def rotated(row: Any, head: Any, i: Any) -> tuple[Any, Any]:
        """Elements i and half + i of a query's or key's head, turned by the row's position."""
        assert tables is not None
        cosines, sines = tables
        low, high = qkv[row, head * head_dim + i], qkv[row, head * head_dim + half + i]
        cosine, sine = cosines[begin + row, i], sines[begin + row, i]
        return low * cosine - high * sine, high * cosine + low * sine

    def append(kv: Any, row: Any) -> None:
        position = begin + row

        def append_key(i: Any, value: Any) -> None:
            store(keys, [layer, kv, position // LANES, i, position % LANES], value)

        if tables is None:
            with T.serial(head_dim) as i:
                append_key(i, qkv[row, (heads + kv) * head_dim + i])
        else:
            with T.serial(half) as i:
                low, high = rotated(row, heads + kv, i)
                append_key(i, low)
                append_key(half + i, high)
        with T.vectorized(head_dim) as i:
            store(values, [layer, kv, position, i], qkv[row, (heads + kv_heads + kv) * head_dim + i])

    cache_bytes = 8 * kv_heads * head_dim * int(values.shape[2])
    with spread(kv_heads, cache_bytes) as kv, T.sblock("kv_head"):
        query, mixed = local((head_dim,)), local((_ways(head_dim), head_dim))
        lanes, total = local((2, LANES)), local((1,))
        reduced = local((LANES,))

        def score_with(block: Any, i: Any, way: int) -> None:
            with T.vectorized(LANES) as j:
                store(lanes, [way, j], lanes[way, j] + query[i] * keys[layer, kv, block, i, j])

        def attend(row: Any, head: Any) -> None:
            position = begin + row
            scale = T.float32(head_dim**-0.5)
            if tables is None:
                with T.vectorized(head_dim) as i:
                    store(query, [i], qkv[row, head * head_dim + i] * scale)
            else:
                with T.vectorized(half) as i:
                    store(query, [i], rotated(row, head, i)[0] * scale)
                with T.vectorized(half) as i:
                    store(query, [half + i], rotated(row, head, i)[1] * scale)
            with T.serial(position // LANES + 1) as block:
                for way in range(2):
                    fill(lanes, T.float32(0), LANES, way)
                with T.serial(half) as i:
                    for way in range(2):
                        score_with(block, 2 * i + way, way)
                if head_dim % 2:
                    score_with(block, head_dim - 1, 0)
                with T.vectorized(LANES) as j:
                    seen = block * LANES + j <= position
                    score = T.Select(seen, lanes[0, j] + lanes[1, j], T.float32(LOWEST))
                    store(scores, [kv, block * LANES + j], score)
            _softmax(scores, kv, reduced, total, position)
            _mix(mixed, lambda other, i: scores[kv, other] * values[layer, kv, other, i], head_dim, position + 1)
            with T.vectorized(head_dim) as i:
                store(y, [row, head * head_dim + i], mixed[0, i] / total[0])

        with T.serial(rows) as row:
            append(kv, row)
        with T.serial(rows) as row, T.serial(group) as member:
            attend(row, kv * group + member)


def _softmax(scores: Any, kv: Any, lanes: Any, total: Any, position: Any) -> None:
    """Adds the way from scores to their exponentials, and the sum of these to `total`."""
    parts = position // VECTOR + 1
    with T.vectorized(VECTOR) as j:
        store(lanes, [j], scores[kv, j])
    with T.serial(1, parts) as part, T.vectorized(VECTOR) as j:
        store(lanes, [j], T.max(lanes[j], scores[kv, part * VECTOR + j]))
    reduce_lanes(lanes, total, T.max)
    fill(lanes, T.float32(0), VECTOR)
    with T.serial(parts) as part:
        with T.vectorized(VECTOR) as j:
            store(scores, [kv, part * VECTOR + j], exponential(scores[kv, part * VECTOR + j] - total[0]))
        with T.vectorized(VECTOR) as j:
            store(lanes, [j], lanes[j] + scores[kv, part * VECTOR + j])
    reduce_lanes(lanes, total, add)


def _mix(mixed: Any, value: Callable[[Any, Any], Any], head_dim: int, count: Any) -> None:
    """Adds the sum of `value(position, i)` over so many positions, to `mixed[0]`."""
    ways = _ways(head_dim)

    def take(other: Any, way: int) -> None:
        with T.vectorized(head_dim) as i:
            store(mixed, [way, i], mixed[way, i] + value(other, i))

    for way in range(ways):
        fill(mixed, T.float32(0), head_dim, way)
    with T.serial(count // ways) as several:
        for way in range(ways):
            take(several * ways + way, way)
    with T.serial(count % ways) as rest:
        take(count // ways * ways + rest, 0)
    while ways > 1:
        ways //= 2
        for way in range(ways):
            with T.vectorized(head_dim) as i:
                store(mixed, [way, i], mixed[way, i] + mixed[ways + way, i])


def _ways(head_dim: int) -> int:
    """Sums kept for every element of the mixed value: a power of two."""
    ways = 1
    while ways * 2 * -(-head_dim // VECTOR) <= MIXED_VECTORS:
        ways *= 2
    return ways
