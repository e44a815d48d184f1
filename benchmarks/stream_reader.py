"""The fastest plain way to read a block of memory once: the floor under a decode step, which reads all weights."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

C_SOURCE = """
#include <stddef.h>
#include <stdint.h>
/* Many independent sums, so that no addition waits for the one before it. */
uint64_t read_all(const uint64_t *block, size_t words) {
    uint64_t sums[64] = {0};
    for (size_t i = 0; i + 64 <= words; i += 64)
        for (size_t lane = 0; lane < 64; lane++) sums[lane] += block[i + lane];
    uint64_t total = 0;
    for (size_t lane = 0; lane < 64; lane++) total += sums[lane];
    return total;
}
"""


def stream_reader(size_bytes: int, threads: int, folder: Path) -> tuple[Callable[[], None], str]:
    """A function that reads its own block of that size with that many threads, and what it was made with."""
    block = np.ones(size_bytes // 8, np.uint64)
    read, made_with = _compiled(folder) or (_numpy_read, "NumPy sums of uint64")
    pieces = np.array_split(block, threads)
    if threads == 1:
        return lambda: read(block), made_with
    pool = ThreadPoolExecutor(threads)  # both kinds of read release the interpreter's lock

    def read_in_parallel() -> None:
        for _ in pool.map(read, pieces):
            pass

    return read_in_parallel, made_with


def _numpy_read(block: NDArray[np.uint64]) -> None:
    """Slower than the memory allows: a share of this floor is too good by some 20 %."""
    np.add.reduce(block)


def _compiled(folder: Path) -> tuple[Callable[[NDArray[np.uint64]], None], str] | None:
    """The C reader, if there is a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source, library = folder / "reader.c", folder / "reader.so"
    source.write_text(C_SOURCE)
    command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    function = ctypes.CDLL(str(library)).read_all
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    function.restype = ctypes.c_uint64

    def read(block: NDArray[np.uint64]) -> None:
        function(block.ctypes.data, block.size)

    return read, "C, 64 sums of uint64, cc -O3 -march=native"
