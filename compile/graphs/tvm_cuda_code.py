"""What the CUDA kernels of `tvm_cuda_kernels` are written with: threads, vectors of 16 bytes, sums over a block.

The grid of a kernel never depends on how many rows a call has, since that number lies in the device's memory: a burst
changes it without the host.  Kernels loop over the rows instead.

Half precisions are stored as words of 32 bits, two numbers each, and read in vectors of four words.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812 (its usual name)

from autotune.candidate import Precision

WARP = 32
WORDS = 4
"""Words of 32 bits that a thread reads at once."""
LOWEST = -3.4e38
_ALL_LANES = 0xFFFFFFFF

Size = tuple[tuple[int, ...], str]
"""Shape and type of a buffer."""


def lanes(precision: Precision) -> int:
    """Numbers in a vector of 16 bytes."""
    return WORDS if precision is Precision.FP32 else 2 * WORDS


def word_type(precision: Precision) -> str:
    """Type of the words that matrices and caches are stored in."""
    return "float32" if precision is Precision.FP32 else "uint32"


def words(precision: Precision, width: int) -> int:
    """Words of a row of that many numbers, in whole vectors."""
    return -(-width // lanes(precision)) * WORDS


def kernel(body: Callable[..., None], **arguments: Size) -> Any:
    """The primitive function of these buffers whose statements `body` makes."""
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("kernel")
            buffers = [T.arg(name, T.buffer(size, dtype)) for name, (size, dtype) in arguments.items()]
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            body(*buffers)
        return builder.get()


@contextmanager
def launched(threads: int, *grid: int) -> Iterator[tuple[Any, ...]]:
    """The thread's number in its block, and the block's numbers in the grid (x, y)."""
    axes = [T.launch_thread(f"blockIdx.{axis}", extent) for axis, extent in zip("xy", grid, strict=False)]
    if len(axes) == 1:
        with axes[0] as x, T.launch_thread("threadIdx.x", threads) as thread, T.sblock("block"):
            yield thread, x
    else:
        with axes[0] as x, axes[1] as y, T.launch_thread("threadIdx.x", threads) as thread, T.sblock("block"):
            yield thread, x, y


def put(buffer: Any, indices: list[Any], value: Any) -> None:
    """Adds `buffer[indices] = value`."""
    T.buffer_store(buffer, value, indices)


@contextmanager
def when(condition: Any) -> Iterator[None]:
    """Statements that only run where the condition holds."""
    with T.If(condition), T.Then():
        yield


def registers(*size: int, dtype: str = "float32") -> Any:
    """A buffer of the thread's own, in registers as long as its indices are constants once loops are unrolled."""
    return T.sblock_alloc_buffer(size, dtype, scope="local")


def shared(*size: int, dtype: str = "float32") -> Any:
    """A buffer of the block."""
    return T.sblock_alloc_buffer(size, dtype, scope="shared")


def barrier() -> None:
    """Adds a wait for all threads of the block; every one of them must come to it."""
    T.evaluate(T.tvm_storage_sync("shared"))


def load(buffer: Any, row: Sequence[Any], first: Any, into: Any, place: Sequence[Any] = ()) -> None:
    """Adds a read of one vector: four words from `[*row, first]` on, to `into[*place, 0 … 3]`."""
    with T.vectorized(WORDS) as j:
        put(into, [*place, j], buffer[(*row, first + j)])


def widened(precision: Precision, vector: Callable[[int], Any], index: int) -> Any:
    """Number `index` of the vector whose words `vector` gives, as float32."""
    if precision is Precision.FP32:
        return vector(index)
    word, high = vector(index // 2), index % 2 == 1
    if precision is Precision.BF16:
        bits = T.bitwise_and(word, T.uint32(0xFFFF0000)) if high else T.shift_left(word, T.uint32(16))
        return T.reinterpret("float32", bits)
    return half(T.Cast("uint16", T.shift_right(word, T.uint32(16)) if high else word))


def half(bits: Any) -> Any:
    """The float32 of a float16's bits."""
    return T.Cast("float32", T.reinterpret("float16", bits))


def narrowed(precision: Precision, low: Any, high: Any) -> Any:
    """The word of two float32 numbers in a half precision."""
    bits = [T.Cast("uint32", _bits(precision, number)) for number in (low, high)]
    return T.bitwise_or(bits[0], T.shift_left(bits[1], T.uint32(16)))


def _bits(precision: Precision, number: Any) -> Any:
    if precision is Precision.FP16:
        return T.reinterpret("uint16", T.Cast("float16", number))
    bits = T.reinterpret("uint32", number)
    odd = T.bitwise_and(T.shift_right(bits, T.uint32(16)), T.uint32(1))
    rounded = T.shift_right(bits + T.uint32(0x7FFF) + odd, T.uint32(16))
    # Rounding up the bits of what is not a number could make them those of one.
    magnitude = T.bitwise_and(bits, T.uint32(0x7FFFFFFF))
    return T.Select(magnitude > T.uint32(0x7F800000), T.uint32(0x7FC0), rounded)


def block_combine(
    values: Any, count: int, thread: Any, threads: int, combine: Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]
) -> None:
    """Adds the combination of `values[0 … count - 1]` (registers) over the block, which every thread gets in them.

    combine: the combination of two lists of `count` expressions.  What threads wrote to
    memory before can be read by all of them afterwards.
    """
    warps = threads // WARP
    other, fresh, gathered = registers(count), registers(count), shared(warps, count)
    mine, others = ([buffer[i] for i in range(count)] for buffer in (values, other))

    def take() -> None:
        for i, value in enumerate(combine(mine, others)):
            put(fresh, [i], value)
        for i in range(count):
            put(values, [i], fresh[i])

    for distance in (16, 8, 4, 2, 1):
        for i in range(count):
            put(other, [i], shuffled(values[i], distance))
        take()
    barrier()
    with when(thread % WARP == 0):
        for i in range(count):
            put(gathered, [thread // WARP, i], values[i])
    barrier()
    for i in range(count):
        put(values, [i], gathered[0, i])
    with T.serial(1, warps) as warp:
        for i in range(count):
            put(other, [i], gathered[warp, i])
        take()


def shuffled(value: Any, distance: int) -> Any:
    """The value of the lane whose number differs in that bit; all lanes of the warp must take part."""
    return T.tvm_warp_shuffle_xor(T.uint32(_ALL_LANES), value, distance, WARP, WARP)


def block_sum(value: Any, thread: Any, threads: int) -> Any:
    """Adds the sum of the threads' `value[0]` (a register), which every thread gets in it."""
    block_combine(value, 1, thread, threads, lambda mine, other: [mine[0] + other[0]])
    return value[0]


def block_max(value: Any, thread: Any, threads: int) -> Any:
    """Adds the largest of the threads' `value[0]` (a register), which every thread gets in it."""
    block_combine(value, 1, thread, threads, lambda mine, other: [T.max(mine[0], other[0])])
    return value[0]


def number(precision: Precision, word: Any, index: int) -> Any:
    """Number `index` of the word `word[0]`."""
    return widened(precision, lambda _: word[0], index)


class each:  # noqa: N801 (used like a function)
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
