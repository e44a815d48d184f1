"""Hands back the memory of files that are mapped, once what they hold has been used."""

import mmap
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray


def hand_back(array: NDArray[Any]) -> None:
    """Lets go of the pages that an array of a mapped file has in memory; they are read again when they are needed.

    Without this a whole checkpoint would stay in memory while it is compiled, several times the program it becomes.
    Arrays of no file, or of one that is mapped to be changed, are left alone.
    """
    base: Any = array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    if sys.platform.startswith("linux") and isinstance(base, np.memmap) and base.mode == "r":
        mapped: Any = base
        mapped._mmap.madvise(mmap.MADV_DONTNEED)
