"""Puts the memory that a block of code allocates on huge pages, where the system offers them (Linux 6.1 and later).

A decode step reads all weights once, in order, from memory: on 4 KiB pages a good part of its time goes into address
translation.  Allocators of compiled runtimes do not ask for huge pages; this asks in their stead, after the fact.
"""

import ctypes
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

HUGE_PAGE_BYTES = 2 << 20
MADV_COLLAPSE = 25
"""Make huge pages of a range now; unlike MADV_HUGEPAGE it does not wait for a background thread."""

_MAPS = Path("/proc/self/maps")


@contextmanager
def huge_pages() -> Iterator[None]:
    """Moves what is allocated inside the block, in pieces of at least a huge page, onto huge pages when it ends well.

    It is an optimisation only: where the kernel refuses, memory stays as it was.
    """
    if not sys.platform.startswith("linux") or not _MAPS.exists():
        yield
        return
    before = _anonymous_ranges()
    yield
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    began = time.perf_counter()
    for start, end in _without(_anonymous_ranges(), before):
        first = -(-start // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
        last = end // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
        if first < last:
            madvise(first, last - first, MADV_COLLAPSE)
    logger.debug("collapsed new memory into huge pages in %.3f s", time.perf_counter() - began)


def _anonymous_ranges() -> list[tuple[int, int]]:
    """Address ranges `[start, end)` of this process's private writable memory that belongs to no file, ascending."""
    ranges = []
    for line in _MAPS.read_text().splitlines():
        addresses, permissions, _, _, inode, *name = line.split(maxsplit=5)
        if permissions == "rw-p" and inode == "0" and name in ([], ["[heap]"]):
            start, _, end = addresses.partition("-")
            ranges.append((int(start, 16), int(end, 16)))
    return ranges


def _without(ranges: list[tuple[int, int]], taken: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of the ranges that are in none of the taken ones."""
    for start, end in ranges:
        for taken_start, taken_end in taken:
            if taken_end <= start or end <= taken_start:
                continue
            if start < taken_start:
                yield start, taken_start
            start = taken_end
        if start < end:
            yield start, end
