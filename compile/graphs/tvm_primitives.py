"""What the CPU kernels for TVM are written with: the sizes of blocks and vectors, local buffers and small expressions.

Kernels are statements added to the primitive function being built, by TVM's builder and not by TVMScript: parsing that
takes longer than all other steps of compiling together.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812 (its usual name)

from autotune.compile.graphs.tvm_arena import LANES

VECTOR = 16
"""Lanes of the reductions."""
LOWEST = -3.4e38
SHARED_BYTES = 1 << 20
"""Waking another thread and waiting for it takes some microseconds, in which one thread reads a quarter of this."""

_MOST_NARROW = 2**31 - 1


def spread(count: int, read_bytes: int) -> Any:
    """A loop whose rounds, which read so many bytes in all, are shared among threads if that pays."""
    return T.parallel(count) if read_bytes >= SHARED_BYTES else T.serial(count)


def store(buffer: Any, indices: Sequence[Any], value: Any) -> None:
    """Adds `buffer[indices] = value`."""
    T.buffer_store(buffer, value, list(indices))


def index_of(number: Any, elements: int) -> Any:
    """The number as the first index of an array of so many elements: in 64 bits where places do not fit in 31.

    TVM computes a place in the type of the indices.
    """
    return T.Cast("int64", number) if elements > _MOST_NARROW else number


def fill(buffer: Any, value: Any, width: int, *before: Any) -> None:
    """Adds a vector store of one value to `buffer[*before, 0:width]`."""
    with T.vectorized(width) as j:
        store(buffer, [*before, j], value)


def local(size: Sequence[int], dtype: str = "float32") -> Any:
    """A buffer in registers or on the stack; inside of a `T.sblock`.

    At most a kilobyte: TVM takes larger ones from the heap, as it does those whose scope is "local".
    """
    return T.sblock_alloc_buffer(tuple(size), dtype, scope="global")


def reduce_lanes(lanes: Any, result: Any, combine: Callable[[Any, Any], Any], width: int = VECTOR) -> None:
    """Adds the combination of the first `width` lanes (a power of two), into `result[0]`; the lanes are used up."""
    while width > 1:
        width //= 2
        with T.vectorized(width) as j:
            store(lanes, [j], combine(lanes[j], lanes[width + j]))
    store(result, [0], lanes[0])


def add(left: Any, right: Any) -> Any:
    """The sum, for `reduce_lanes`."""
    return left + right


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


__all__ = [
    "LANES",
    "LOWEST",
    "VECTOR",
    "add",
    "exponential",
    "fill",
    "index_of",
    "local",
    "reduce_lanes",
    "spread",
    "store",
]
