"""The norms of a decoder, for CPUs: of the residual stream, and of queries and keys head by head."""

from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812 (its usual name)

from autotune.compile.graphs.tvm_arena import blocks
from autotune.compile.graphs.tvm_primitives import LANES, VECTOR, add, fill, local, reduce_lanes, store


def rms_norm(x: Any, weight: Any, y: Any, hidden: int, epsilon: float, rows: Any) -> None:
    """Adds the root-mean-square norm over `hidden` columns; the padded ones stay zero.  x and y may be the same."""
    with T.serial(rows) as row, T.sblock("row"):
        squares, scale = local((LANES,)), local((1,))
        fill(squares, T.float32(0), LANES)
        with T.serial(blocks(hidden)) as block, T.vectorized(LANES) as j:
            store(squares, [j], squares[j] + x[row, block * LANES + j] * x[row, block * LANES + j])
        reduce_lanes(squares, scale, add, LANES)
        store(scale, [0], T.float32(1) / T.sqrt(scale[0] / T.float32(hidden) + T.float32(epsilon)))
        with T.serial(blocks(hidden)) as block, T.vectorized(LANES) as j:
            column = block * LANES + j
            store(y, [row, column], x[row, column] * scale[0] * weight[column])


def layer_norm(x: Any, weight: Any, bias: Any, y: Any, hidden: int, epsilon: float, rows: Any) -> None:
    """Adds the LayerNorm over `hidden` columns; the padded ones stay zero.  x and y may be the same.

    The mean is taken first and the squares of what is left of it, since a mean may be much larger than the spread.
    """
    with T.serial(rows) as row, T.sblock("row"):
        lanes, mean, scale = local((LANES,)), local((1,)), local((1,))
        fill(lanes, T.float32(0), LANES)
        with T.serial(blocks(hidden)) as block, T.vectorized(LANES) as j:
            store(lanes, [j], lanes[j] + x[row, block * LANES + j])
        reduce_lanes(lanes, mean, add, LANES)
        store(mean, [0], mean[0] / T.float32(hidden))
        fill(lanes, T.float32(0), LANES)
        with T.serial(blocks(hidden)) as block, T.vectorized(LANES) as j:
            column = block * LANES + j
            distance = x[row, column] - mean[0]
            if hidden % LANES:
                distance = T.Select(column < hidden, distance, T.float32(0))
            store(lanes, [j], lanes[j] + distance * distance)
        reduce_lanes(lanes, scale, add, LANES)
        store(scale, [0], T.float32(1) / T.sqrt(scale[0] / T.float32(hidden) + T.float32(epsilon)))
        with T.serial(blocks(hidden)) as block, T.vectorized(LANES) as j:
            column = block * LANES + j
            store(y, [row, column], (x[row, column] - mean[0]) * scale[0] * weight[column] + bias[column])


def norm_heads(x: Any, weight: Any, first: int, count: int, head_dim: int, epsilon: float, rows: Any) -> None:
    """Adds the root-mean-square norm of each of `count` heads from `first` on, in place.  weight: `[head_dim]`."""
    whole, rest = head_dim // VECTOR, head_dim % VECTOR
    with T.serial(rows) as row, T.serial(count) as head, T.sblock("head"):
        begin = (first + head) * head_dim
        squares, scale = local((VECTOR,)), local((1,))

        def take(offset: Any, width: int) -> None:
            with T.vectorized(width) as j:
                store(squares, [j], squares[j] + x[row, begin + offset + j] * x[row, begin + offset + j])

        fill(squares, T.float32(0), VECTOR)
        for part in range(whole):
            take(part * VECTOR, VECTOR)
        if rest:
            take(whole * VECTOR, rest)
        reduce_lanes(squares, scale, add)
        store(scale, [0], T.float32(1) / T.sqrt(scale[0] / T.float32(head_dim) + T.float32(epsilon)))
        with T.vectorized(head_dim) as i:
            store(x, [row, begin + i], x[row, begin + i] * scale[0] * weight[i])
