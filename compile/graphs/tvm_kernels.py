"""The kernels of a LLaMA decoder for CPUs, scheduled by hand as TVM primitive functions.

A call decodes up to `PIECE_TOKENS` rows (tokens); how many is known only when it runs: `span` `[3]` int32 holds the
position of the first row, the number of rows, and how many tokens a burst has drafted so far.  Activations are
`[PIECE_TOKENS, width]` with widths rounded up to whole blocks of `LANES` columns; the added columns hold zeros.

Matrices are packed in blocks `[columns / LANES, in, LANES]`, so that one token reads each weight once, in order.  Rows
go through a block in tiles of six and a rest: up to six tokens read each weight from memory once, more read it again
from the second-level cache.
"""

import tvm
from tvm.script import tirx as T  # noqa: N812 (the name that TVMScript is written with)

from autotune.candidate import DraftShape

LANES = 64
"""Columns of a block: four vectors of sixteen floats."""
TILE_ROWS = 6
"""Rows that go through a block together: 24 accumulators leave enough of 32 registers for weights and activations."""
VECTOR = 16
"""Lanes of the reductions."""
PIECE_TOKENS = 64

_LOWEST = -3.4e38

# What a decorated function closes over, TVM reads from its source: names used inside must be locals or globals.


def blocks(width: int) -> int:
    """Whole blocks of `LANES` columns that hold a width."""
    return -(-width // LANES)


def padded(width: int) -> int:
    """The width rounded up to whole blocks."""
    return blocks(width) * LANES


def matmul(depth: int, width: int, columns: int, epilogue: str) -> tvm.tirx.PrimFunc:
    """A kernel `(x, span, weight, y)` that multiplies rows `[depth]` by `[columns / LANES, depth, LANES]`.

    width: columns that x is stored with.  What is done with the products: `store` them in y, `add` them to y, or
    `swiglu`: each block is half gate and half up columns, and y gets silu(gate) · up, half as wide.
    """
    count = blocks(columns)
    out = LANES // 2 if epilogue == "swiglu" else LANES

    @T.inline
    def store(y, sums, block, row, r):  # type: ignore[no-untyped-def]
        for j in T.vectorized(LANES):
            y[row, block * LANES + j] = sums[r, j]

    @T.inline
    def add(y, sums, block, row, r):  # type: ignore[no-untyped-def]
        for j in T.vectorized(LANES):
            y[row, block * LANES + j] = y[row, block * LANES + j] + sums[r, j]

    @T.inline
    def swiglu(y, sums, block, row, r):  # type: ignore[no-untyped-def]
        for j in T.vectorized(out):
            y[row, block * out + j] = sums[r, j] / (T.float32(1) + exponential(-sums[r, j])) * sums[r, out + j]

    finish = {"store": store, "add": add, "swiglu": swiglu}[epilogue]

    @T.inline
    def tile(x, weight, y, sums, block, row, rows):  # type: ignore[no-untyped-def]
        for r in T.unroll(rows):
            for j in T.vectorized(LANES):
                sums[r, j] = T.float32(0)
        for k in T.serial(depth):
            for r in T.unroll(rows):
                for j in T.vectorized(LANES):
                    sums[r, j] = sums[r, j] + x[row + r, k] * weight[block, k, j]
        for r in T.unroll(rows):
            finish(y, sums, block, row + r, r)

    @T.prim_func(s_tir=True)
    def kernel(
        x: T.Buffer((PIECE_TOKENS, width), "float32"),
        span: T.Buffer((3,), "int32"),
        weight: T.Buffer((count, depth, LANES), "float32"),
        y: T.Buffer((PIECE_TOKENS, count * out), "float32"),
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        for block in T.parallel(count):
            with T.sblock("block"):
                sums = T.sblock_alloc_buffer((TILE_ROWS, LANES), "float32", scope="local")
                for whole in T.serial(span[1] // TILE_ROWS):
                    tile(x, weight, y, sums, block, whole * TILE_ROWS, TILE_ROWS)
                if span[1] % TILE_ROWS == 1:
                    tile(x, weight, y, sums, block, span[1] - 1, 1)
                if span[1] % TILE_ROWS == 2:
                    tile(x, weight, y, sums, block, span[1] - 2, 2)
                if span[1] % TILE_ROWS == 3:
                    tile(x, weight, y, sums, block, span[1] - 3, 3)
                if span[1] % TILE_ROWS == 4:
                    tile(x, weight, y, sums, block, span[1] - 4, 4)
                if span[1] % TILE_ROWS == 5:
                    tile(x, weight, y, sums, block, span[1] - 5, 5)

    return kernel


def embed(vocab: int, hidden: int) -> tvm.tirx.PrimFunc:
    """A kernel `(tokens, span, table, x)` that looks up the rows of the tokens; the table's columns are padded."""
    width = padded(hidden)

    @T.prim_func(s_tir=True)
    def kernel(
        tokens: T.Buffer((PIECE_TOKENS,), "int64"),
        span: T.Buffer((3,), "int32"),
        table: T.Buffer((vocab, width), "float32"),
        x: T.Buffer((PIECE_TOKENS, width), "float32"),
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        for row in T.serial(span[1]):
            for block in T.serial(width // LANES):
                for j in T.vectorized(LANES):
                    x[row, block * LANES + j] = table[tokens[row], block * LANES + j]

    return kernel


def rms_norm(hidden: int, epsilon: float) -> tvm.tirx.PrimFunc:
    """A kernel `(x, span, weight, y)`: the root-mean-square norm over `hidden` columns; the padded ones stay zero."""
    width = padded(hidden)

    @T.prim_func(s_tir=True)
    def kernel(
        x: T.Buffer((PIECE_TOKENS, width), "float32"),
        span: T.Buffer((3,), "int32"),
        weight: T.Buffer((width,), "float32"),
        y: T.Buffer((PIECE_TOKENS, width), "float32"),
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        for row in T.serial(span[1]):
            with T.sblock("row"):
                squares = T.sblock_alloc_buffer((LANES,), "float32", scope="local")
                scale = T.sblock_alloc_buffer((1,), "float32", scope="local")
                for j in T.vectorized(LANES):
                    squares[j] = T.float32(0)
                for block in T.serial(width // LANES):
                    for j in T.vectorized(LANES):
                        squares[j] = squares[j] + x[row, block * LANES + j] * x[row, block * LANES + j]
                for part in T.unroll(1, LANES // VECTOR):
                    for j in T.vectorized(VECTOR):
                        squares[j] = squares[j] + squares[part * VECTOR + j]
                scale[0] = T.float32(0)
                for j in T.unroll(VECTOR):
                    scale[0] = scale[0] + squares[j]
                scale[0] = T.float32(1) / T.sqrt(scale[0] / T.float32(hidden) + T.float32(epsilon))
                for block in T.serial(width // LANES):
                    for j in T.vectorized(LANES):
                        y[row, block * LANES + j] = x[row, block * LANES + j] * scale[0] * weight[block * LANES + j]

    return kernel


def attention(shape: DraftShape, capacity_tokens: int) -> tvm.tirx.PrimFunc:
    """A kernel `(qkv, span, cosines, sines, keys, values, y)`: rotates, appends to the cache, attends.

    keys: `[kv_heads, capacity / LANES, head_dim, LANES]`, so that scores of neighbouring positions are neighbours;
    values: `[kv_heads, capacity, head_dim]`.  Both are written at the rows' positions and read before them.
    """
    heads, kv_heads, head_dim, half = shape.heads, shape.kv_heads, shape.head_dim, shape.head_dim // 2
    group, key_blocks = heads // kv_heads, blocks(capacity_tokens)
    qkv_width, width = padded((heads + 2 * kv_heads) * head_dim), padded(heads * head_dim)
    scale = head_dim**-0.5

    @T.prim_func(s_tir=True)
    def kernel(
        qkv: T.Buffer((PIECE_TOKENS, qkv_width), "float32"),
        span: T.Buffer((3,), "int32"),
        cosines: T.Buffer((capacity_tokens, half), "float32"),
        sines: T.Buffer((capacity_tokens, half), "float32"),
        keys: T.Buffer((kv_heads, key_blocks, head_dim, LANES), "float32"),
        values: T.Buffer((kv_heads, capacity_tokens, head_dim), "float32"),
        y: T.Buffer((PIECE_TOKENS, width), "float32"),
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        for kv in T.parallel(kv_heads):
            with T.sblock("kv_head"):
                query = T.sblock_alloc_buffer((head_dim,), "float32", scope="local")
                scores = T.sblock_alloc_buffer((key_blocks * LANES,), "float32", scope="local")
                lanes = T.sblock_alloc_buffer((LANES,), "float32", scope="local")
                total = T.sblock_alloc_buffer((2,), "float32", scope="local")
                mixed = T.sblock_alloc_buffer((head_dim,), "float32", scope="local")
                for row in T.serial(span[1]):
                    for i in T.serial(half):
                        keys[kv, (span[0] + row) // LANES, i, (span[0] + row) % LANES] = (
                            qkv[row, (heads + kv) * head_dim + i] * cosines[span[0] + row, i]
                            - qkv[row, (heads + kv) * head_dim + half + i] * sines[span[0] + row, i]
                        )
                        keys[kv, (span[0] + row) // LANES, half + i, (span[0] + row) % LANES] = (
                            qkv[row, (heads + kv) * head_dim + half + i] * cosines[span[0] + row, i]
                            + qkv[row, (heads + kv) * head_dim + i] * sines[span[0] + row, i]
                        )
                    for i in T.vectorized(head_dim):
                        values[kv, span[0] + row, i] = qkv[row, (heads + kv_heads + kv) * head_dim + i]
                for row in T.serial(span[1]):
                    for member in T.serial(group):
                        for i in T.vectorized(half):
                            query[i] = T.float32(scale) * (
                                qkv[row, (kv * group + member) * head_dim + i] * cosines[span[0] + row, i]
                                - qkv[row, (kv * group + member) * head_dim + half + i] * sines[span[0] + row, i]
                            )
                        for i in T.vectorized(half):
                            query[half + i] = T.float32(scale) * (
                                qkv[row, (kv * group + member) * head_dim + half + i] * cosines[span[0] + row, i]
                                + qkv[row, (kv * group + member) * head_dim + i] * sines[span[0] + row, i]
                            )
                        for block in T.serial((span[0] + row) // LANES + 1):
                            for j in T.vectorized(LANES):
                                lanes[j] = T.float32(0)
                            for i in T.serial(head_dim):
                                for j in T.vectorized(LANES):
                                    lanes[j] = lanes[j] + query[i] * keys[kv, block, i, j]
                            for j in T.vectorized(LANES):
                                scores[block * LANES + j] = T.Select(
                                    block * LANES + j <= span[0] + row, lanes[j], T.float32(_LOWEST)
                                )
                        for j in T.vectorized(VECTOR):
                            lanes[j] = T.float32(_LOWEST)
                        for part in T.serial((span[0] + row) // VECTOR + 1):
                            for j in T.vectorized(VECTOR):
                                lanes[j] = T.max(lanes[j], scores[part * VECTOR + j])
                        total[0] = T.float32(_LOWEST)
                        for j in T.unroll(VECTOR):
                            total[0] = T.max(total[0], lanes[j])
                        for j in T.vectorized(VECTOR):
                            lanes[j] = T.float32(0)
                        for part in T.serial((span[0] + row) // VECTOR + 1):
                            for j in T.vectorized(VECTOR):
                                scores[part * VECTOR + j] = exponential(scores[part * VECTOR + j] - total[0])
                            for j in T.vectorized(VECTOR):
                                lanes[j] = lanes[j] + scores[part * VECTOR + j]
                        total[1] = T.float32(0)
                        for j in T.unroll(VECTOR):
                            total[1] = total[1] + lanes[j]
                        for i in T.vectorized(head_dim):
                            mixed[i] = T.float32(0)
                        for position in T.serial(span[0] + row + 1):
                            for i in T.vectorized(head_dim):
                                mixed[i] = mixed[i] + scores[position] * values[kv, position, i]
                        for i in T.vectorized(head_dim):
                            y[row, (kv * group + member) * head_dim + i] = mixed[i] / total[1]

    return kernel


def argmax(vocab: int) -> tvm.tirx.PrimFunc:
    """A kernel `(logits, span, after)`: the first of the largest logits of each row, padded columns left out."""
    width = padded(vocab)

    @T.prim_func(s_tir=True)
    def kernel(
        logits: T.Buffer((PIECE_TOKENS, width), "float32"),
        span: T.Buffer((3,), "int32"),
        after: T.Buffer((PIECE_TOKENS,), "int64"),
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        for row in T.serial(span[1]):
            with T.sblock("row"):
                here = T.sblock_alloc_buffer((LANES,), "float32", scope="local")
                best = T.sblock_alloc_buffer((LANES,), "float32", scope="local")
                place = T.sblock_alloc_buffer((LANES,), "int32", scope="local")
                largest = T.sblock_alloc_buffer((1,), "float32", scope="local")
                found = T.sblock_alloc_buffer((1,), "int32", scope="local")
                for j in T.vectorized(LANES):
                    best[j] = T.float32(_LOWEST)
                for j in T.vectorized(LANES):
                    place[j] = 0
                for block in T.serial(width // LANES):
                    for j in T.vectorized(LANES):
                        here[j] = T.Select(
                            block * LANES + j < vocab, logits[row, block * LANES + j], T.float32(_LOWEST)
                        )
                    for j in T.vectorized(LANES):
                        place[j] = T.Select(here[j] > best[j], block * LANES + j, place[j])
                    for j in T.vectorized(LANES):
                        best[j] = T.max(best[j], here[j])
                largest[0] = best[0]
                found[0] = place[0]
                for j in T.serial(1, LANES):
                    if best[j] > largest[0] or (best[j] == largest[0] and place[j] < found[0]):
                        largest[0] = best[j]
                        found[0] = place[j]
                after[row] = T.cast(found[0], "int64")

    return kernel


def advance(longest_burst: int) -> tvm.tirx.PrimFunc:
    """A kernel `(after, tokens, span, drafted)`: notes the last row's token and makes it the next step's only row."""

    @T.prim_func(s_tir=True)
    def kernel(
        after: T.Buffer((PIECE_TOKENS,), "int64"),
        tokens: T.Buffer((PIECE_TOKENS,), "int64"),
        span: T.Buffer((3,), "int32"),
        drafted: T.Buffer((longest_burst,), "int64"),
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        with T.sblock("advance"):
            tokens[0] = after[span[1] - 1]
            drafted[span[2]] = after[span[1] - 1]
            span[0] = span[0] + span[1]
            span[1] = 1
            span[2] = span[2] + 1

    return kernel


def exponential(x: tvm.ir.Expr) -> tvm.ir.Expr:
    """e to the power x, in vector instructions where the loop is vectorised (a library call would be made per lane).

    x = n·ln 2 + r with whole n: e^x = 2^n · e^r, the first by its exponent bits, the second by a polynomial.
    """
    clamped = T.min(T.float32(88), T.max(T.float32(-87), x))
    whole = T.floor(clamped * T.float32(1.44269504) + T.float32(0.5))
    rest = clamped - whole * T.float32(0.693359375) - whole * T.float32(-2.12194440e-4)
    series = T.float32(1.9875691500e-4)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        series = series * rest + T.float32(coefficient)
    power = T.reinterpret("float32", T.shift_left(T.cast(whole, "int32") + 127, T.int32(23)))
    return (series * rest * rest + rest + T.float32(1)) * power
