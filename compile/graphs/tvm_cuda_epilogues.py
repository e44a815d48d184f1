"""What becomes of pairs of products in the CUDA kernels of matrices: see `tvm_cuda_kernels.matmul`."""

from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812 (its usual name)

from autotune.candidate import DraftShape, Precision
from autotune.compile.graphs.tvm_cuda_code import narrowed, put, when
from autotune.compile.graphs.tvm_cuda_kernels import Finish


def store(state: Any, y: Any) -> Finish:
    """Stores both in y."""

    def finish(row: Any, pair: Any, low: Any, high: Any) -> None:
        put(y, [row, 2 * pair], low)
        put(y, [row, 2 * pair + 1], high)

    return finish


def add(state: Any, y: Any) -> Finish:
    """Adds both to y."""

    def finish(row: Any, pair: Any, low: Any, high: Any) -> None:
        put(y, [row, 2 * pair], y[row, 2 * pair] + low)
        put(y, [row, 2 * pair + 1], y[row, 2 * pair + 1] + high)

    return finish


def gate(state: Any, y: Any) -> Finish:
    """Stores silu(first) · second in y, half as wide."""

    def finish(row: Any, pair: Any, low: Any, high: Any) -> None:
        put(y, [row, pair], low / (T.float32(1) + T.exp(-low)) * high)

    return finish


def rotate(
    shape: DraftShape,
    precision: Precision,
    state: Any,
    cosines: Any,
    sines: Any,
    query: Any,
    keys: Any,
    values: Any,
) -> Finish:
    """Turns queries and keys by their position; stores queries, scaled, and appends keys and values to the cache."""
    half, keys_end = shape.head_dim // 2, shape.heads + shape.kv_heads

    def append(cache: Any, kv: Any, position: Any, pair: Any, low: Any, high: Any) -> None:
        if precision is Precision.FP32:
            put(cache, [kv, position, 2 * pair], low)
            put(cache, [kv, position, 2 * pair + 1], high)
        else:
            put(cache, [kv, position, pair], narrowed(precision, low, high))

    def finish(row: Any, pair: Any, low: Any, high: Any) -> None:
        head, i = pair // half, pair % half
        position = T.Cast("int32", state[0]) + row
        cosine, sine = cosines[position, i], sines[position, i]
        turned = low * cosine - high * sine, high * cosine + low * sine
        with when(head < shape.heads):
            for n, number in enumerate(turned):
                put(query, [row, head, 2 * i + n], number * T.float32(shape.head_dim**-0.5))
        with when(T.And(head >= shape.heads, head < keys_end)):
            append(keys, head - shape.heads, position, i, *turned)
        with when(T.And(head >= keys_end, head < keys_end + shape.kv_heads)):
            append(values, head - keys_end, position, i, low, high)

    return finish
