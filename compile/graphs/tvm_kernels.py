"""The kernels of a LLaMA decoder for CPUs, scheduled by hand as TVM primitive functions.

A call decodes up to `PIECE_TOKENS` rows (tokens); how many is known only when it runs: `span` `[3]` int32 holds the
position of the first row, the number of rows, and how many tokens a burst has drafted so far.  Activations are
`[PIECE_TOKENS, width]` with widths rounded up to whole blocks of `LANES` columns; the added columns hold zeros.

Matrices are packed in blocks `[columns / LANES, in, LANES]`, so that one token reads each weight once, in order.  Rows
go through a block in tiles of six and a rest: up to six tokens read each weight from memory once, more read it again
from the second-level cache.

Written with TVM's builder, not with TVMScript: parsing that takes longer than all other steps of compiling together.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812 (its usual name)

from autotune.candidate import DraftShape

LANES = 64
"""Columns of a block: four vectors of sixteen floats."""
TILE_ROWS = 6
"""Rows that go through a block together: 24 accumulators leave enough of 32 registers for weights and activations."""
VECTOR = 16
"""Lanes of the reductions."""
PIECE_TOKENS = 64

_LOWEST = -3.4e38
_SPAN = ((3,), "int32")
_TOKENS = ((PIECE_TOKENS,), "int64")

Arguments = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape and type of every buffer of a kernel, by name."""


def blocks(width: int) -> int:
    """Whole blocks of `LANES` columns that hold a width."""
    return -(-width // LANES)


def padded(width: int) -> int:
    """The width rounded up to whole blocks."""
    return blocks(width) * LANES


def matmul(depth: int, width: int, columns: int, epilogue: str) -> Any:
    """A kernel `(x, span, weight, y)` that multiplies rows `[depth]` by `[columns / LANES, depth, LANES]`.

    width: columns that x is stored with.  What is done with the products: `store` them in y, `add` them to y, or
    `swiglu`: each block is half gate and half up columns, and y gets silu(gate) · up, half as wide.
    """
    count = blocks(columns)
    lanes_out = LANES // 2 if epilogue == "swiglu" else LANES

    def finish(y: Any, sums: Any, block: Any, row: Any, r: int) -> None:
        with T.vectorized(lanes_out) as j:
            column, value = block * lanes_out + j, sums[r, j]
            if epilogue == "add":
                value = y[row, column] + value
            if epilogue == "swiglu":
                value = value / (T.float32(1) + exponential(-value)) * sums[r, lanes_out + j]
            _set(y, [row, column], value)

    def body(x: Any, span: Any, weight: Any, y: Any) -> None:
        def tile(first: Any, rows: int) -> None:
            for r in range(rows):
                with T.vectorized(LANES) as j:
                    _set(sums, [r, j], T.float32(0))
            with T.serial(depth) as k:
                for r in range(rows):
                    with T.vectorized(LANES) as j:
                        _set(sums, [r, j], sums[r, j] + x[first + r, k] * weight[block, k, j])
            for r in range(rows):
                finish(y, sums, block, first + r, r)

        with T.parallel(count) as block, T.sblock("block"):
            sums = _local((TILE_ROWS, LANES))
            with T.serial(span[1] // TILE_ROWS) as whole:
                tile(whole * TILE_ROWS, TILE_ROWS)
            for rest in range(1, TILE_ROWS):
                with T.If(span[1] % TILE_ROWS == rest), T.Then():
                    tile(span[1] - rest, rest)

    return _kernel(
        body, x=_rows(width), span=_SPAN, weight=((count, depth, LANES), "float32"), y=_rows(count * lanes_out)
    )


def embed(vocab: int, hidden: int) -> Any:
    """A kernel `(tokens, span, table, x)` that looks up the rows of the tokens; the table's columns are padded."""
    width = padded(hidden)

    def body(tokens: Any, span: Any, table: Any, x: Any) -> None:
        with T.serial(span[1]) as row, T.serial(blocks(hidden)) as block, T.vectorized(LANES) as j:
            _set(x, [row, block * LANES + j], table[tokens[row], block * LANES + j])

    return _kernel(body, tokens=_TOKENS, span=_SPAN, table=((vocab, width), "float32"), x=_rows(width))


def rms_norm(hidden: int, epsilon: float) -> Any:
    """A kernel `(x, span, weight, y)`: the root-mean-square norm over `hidden` columns; the padded ones stay zero."""
    width = padded(hidden)

    def body(x: Any, span: Any, weight: Any, y: Any) -> None:
        with T.serial(span[1]) as row, T.sblock("row"):
            squares, scale = _local((LANES,)), _local((1,))
            with T.vectorized(LANES) as j:
                _set(squares, [j], T.float32(0))
            with T.serial(blocks(hidden)) as block, T.vectorized(LANES) as j:
                _set(squares, [j], squares[j] + x[row, block * LANES + j] * x[row, block * LANES + j])
            for part in range(1, LANES // VECTOR):
                with T.vectorized(VECTOR) as j:
                    _set(squares, [j], squares[j] + squares[part * VECTOR + j])
            _reduce(squares, scale, lambda total, lane: total + lane)
            _set(scale, [0], T.float32(1) / T.sqrt(scale[0] / T.float32(hidden) + T.float32(epsilon)))
            with T.serial(blocks(hidden)) as block, T.vectorized(LANES) as j:
                column = block * LANES + j
                _set(y, [row, column], x[row, column] * scale[0] * weight[column])

    return _kernel(body, x=_rows(width), span=_SPAN, weight=((width,), "float32"), y=_rows(width))


def attention(shape: DraftShape, capacity_tokens: int) -> Any:
    """A kernel `(qkv, span, cosines, sines, keys, values, y)`: rotates, appends to the cache, attends.

    keys: `[kv_heads, capacity / LANES, head_dim, LANES]`, so that scores of neighbouring positions are neighbours;
    values: `[kv_heads, capacity, head_dim]`.  Both are written at the rows' positions and read before them.
    """
    heads, kv_heads, head_dim, half = shape.heads, shape.kv_heads, shape.head_dim, shape.head_dim // 2
    group, key_blocks = heads // kv_heads, blocks(capacity_tokens)

    def body(qkv: Any, span: Any, cosines: Any, sines: Any, keys: Any, values: Any, y: Any) -> None:
        def rotated(row: Any, head: Any, i: Any) -> tuple[Any, Any]:
            """Elements i and half + i of a query's or key's head, turned by the row's position."""
            low, high = qkv[row, head * head_dim + i], qkv[row, head * head_dim + half + i]
            cosine, sine = cosines[span[0] + row, i], sines[span[0] + row, i]
            return low * cosine - high * sine, high * cosine + low * sine

        def append(kv: Any, row: Any) -> None:
            position = span[0] + row
            with T.serial(half) as i:
                low, high = rotated(row, heads + kv, i)
                _set(keys, [kv, position // LANES, i, position % LANES], low)
                _set(keys, [kv, position // LANES, half + i, position % LANES], high)
            with T.vectorized(head_dim) as i:
                _set(values, [kv, position, i], qkv[row, (heads + kv_heads + kv) * head_dim + i])

        def attend(kv: Any, row: Any, head: Any) -> None:
            position = span[0] + row
            scale = T.float32(head_dim**-0.5)
            with T.vectorized(half) as i:
                _set(query, [i], rotated(row, head, i)[0] * scale)
            with T.vectorized(half) as i:
                _set(query, [half + i], rotated(row, head, i)[1] * scale)
            with T.serial(position // LANES + 1) as block:
                with T.vectorized(LANES) as j:
                    _set(lanes, [j], T.float32(0))
                with T.serial(head_dim) as i, T.vectorized(LANES) as j:
                    _set(lanes, [j], lanes[j] + query[i] * keys[kv, block, i, j])
                with T.vectorized(LANES) as j:
                    seen = block * LANES + j <= position
                    _set(scores, [block * LANES + j], T.Select(seen, lanes[j], T.float32(_LOWEST)))
            softmax(position)
            with T.vectorized(head_dim) as i:
                _set(mixed, [i], T.float32(0))
            with T.serial(position + 1) as other, T.vectorized(head_dim) as i:
                _set(mixed, [i], mixed[i] + scores[other] * values[kv, other, i])
            with T.vectorized(head_dim) as i:
                _set(y, [row, head * head_dim + i], mixed[i] / total[0])

        def softmax(position: Any) -> None:
            """Scores to their exponentials, and the sum of these to `total`."""
            parts = position // VECTOR + 1
            with T.vectorized(VECTOR) as j:
                _set(lanes, [j], scores[j])
            with T.serial(1, parts) as part, T.vectorized(VECTOR) as j:
                _set(lanes, [j], T.max(lanes[j], scores[part * VECTOR + j]))
            _reduce(lanes, total, T.max)
            with T.vectorized(VECTOR) as j:
                _set(lanes, [j], T.float32(0))
            with T.serial(parts) as part:
                with T.vectorized(VECTOR) as j:
                    _set(scores, [part * VECTOR + j], exponential(scores[part * VECTOR + j] - total[0]))
                with T.vectorized(VECTOR) as j:
                    _set(lanes, [j], lanes[j] + scores[part * VECTOR + j])
            _reduce(lanes, total, lambda sum_, lane: sum_ + lane)

        with T.parallel(kv_heads) as kv, T.sblock("kv_head"):
            query, mixed = _local((head_dim,)), _local((head_dim,))
            scores, lanes, total = _local((key_blocks * LANES,)), _local((LANES,)), _local((1,))
            with T.serial(span[1]) as row:
                append(kv, row)
            with T.serial(span[1]) as row, T.serial(group) as member:
                attend(kv, row, kv * group + member)

    return _kernel(
        body,
        qkv=_rows(padded((heads + 2 * kv_heads) * head_dim)),
        span=_SPAN,
        cosines=((capacity_tokens, half), "float32"),
        sines=((capacity_tokens, half), "float32"),
        keys=((kv_heads, key_blocks, head_dim, LANES), "float32"),
        values=((kv_heads, capacity_tokens, head_dim), "float32"),
        y=_rows(padded(heads * head_dim)),
    )


def argmax(vocab: int) -> Any:
    """A kernel `(logits, span, after)`: the first of the largest logits of each row, padded columns left out."""

    def body(logits: Any, span: Any, after: Any) -> None:
        with T.serial(span[1]) as row, T.sblock("row"):
            best, place = _local((LANES,)), _local((LANES,), "int32")
            largest, found = _local((1,)), _local((1,), "int32")
            with T.vectorized(LANES) as j:
                _set(best, [j], T.float32(_LOWEST))
            with T.vectorized(LANES) as j:
                _set(place, [j], T.int32(0))
            with T.serial(blocks(vocab)) as block:
                for target, chosen in ((place, lambda token, _: token), (best, lambda _, logit: logit)):
                    with T.vectorized(LANES) as j:
                        token = block * LANES + j
                        logit = T.Select(token < vocab, logits[row, token], T.float32(_LOWEST))
                        _set(target, [j], T.Select(logit > best[j], chosen(token, logit), target[j]))
            _set(largest, [0], best[0])
            _set(found, [0], place[0])
            with T.serial(1, LANES) as j:
                earlier = T.And(best[j] == largest[0], place[j] < found[0])
                with T.If(T.Or(best[j] > largest[0], earlier)), T.Then():
                    _set(largest, [0], best[j])
                    _set(found, [0], place[j])
            _set(after, [row], T.Cast("int64", found[0]))

    return _kernel(body, logits=_rows(padded(vocab)), span=_SPAN, after=_TOKENS)


def advance(longest_burst: int) -> Any:
    """A kernel `(after, tokens, span, drafted)`: notes the last row's token and makes it the next step's only row."""

    def body(after: Any, tokens: Any, span: Any, drafted: Any) -> None:
        _set(tokens, [0], after[span[1] - 1])
        _set(drafted, [span[2]], after[span[1] - 1])
        _set(span, [0], span[0] + span[1])
        _set(span, [1], T.int32(1))
        _set(span, [2], span[2] + 1)

    return _kernel(body, after=_TOKENS, tokens=_TOKENS, span=_SPAN, drafted=((longest_burst,), "int64"))


def exponential(x: Any) -> Any:
    """e to the power x, in vector instructions where the loop is vectorised (a library call would be made per lane).

    x = n·ln 2 + r with whole n: e^x = 2^n · e^r, the first by its exponent bits, the second by a polynomial.
    """
    clamped = T.min(T.float32(88), T.max(T.float32(-87), x))
    whole = T.floor(clamped * T.float32(1.44269504) + T.float32(0.5))
    rest = clamped - whole * T.float32(0.693359375) - whole * T.float32(-2.12194440e-4)
    series = T.float32(1.9875691500e-4)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        series = series * rest + T.float32(coefficient)
    power = T.reinterpret("float32", T.shift_left(T.Cast("int32", whole) + T.int32(127), T.int32(23)))
    return (series * rest * rest + rest + T.float32(1)) * power


def _kernel(body: Callable[..., None], **arguments: tuple[tuple[int, ...], str]) -> Any:
    """The primitive function of these buffers whose statements `body` makes."""
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("kernel")
            buffers = [T.arg(name, T.buffer(size, dtype)) for name, (size, dtype) in arguments.items()]
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            body(*buffers)
        return builder.get()


def _set(buffer: Any, indices: list[Any], value: Any) -> None:
    """Adds `buffer[indices] = value`."""
    T.buffer_store(buffer, value, indices)


def _reduce(lanes: Any, result: Any, combine: Callable[[Any, Any], Any]) -> None:
    """Adds the combination of the first `VECTOR` lanes, into `result[0]`."""
    _set(result, [0], lanes[0])
    for j in range(1, VECTOR):
        _set(result, [0], combine(result[0], lanes[j]))


def _local(size: tuple[int, ...], dtype: str = "float32") -> Any:
    """A buffer in registers or on the stack."""
    return T.sblock_alloc_buffer(size, dtype, scope="local")


def _rows(width: int) -> tuple[tuple[int, ...], str]:
    return (PIECE_TOKENS, width), "float32"
