import sys
from pathlib import Path

import numpy as np
import pytest

from autotune.compile.graphs.mapped_pages import hand_back
from autotune.tensor_file import open_tensors, write_tensors

PAGE_COUNT = 4096


def mapped_bytes(path: Path) -> int:
    """Bytes of the file that this process has in memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    mappings = [index for index, line in enumerate(lines) if line.endswith(str(path))]
    return 1024 * sum(
        next(int(line.split()[1]) for line in lines[index:] if line.startswith("Rss:")) for index in mappings
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells and takes")
def test_pages_of_an_array_leave_memory_and_come_back_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    stored = np.arange(PAGE_COUNT * 1024, dtype=np.float32).reshape(PAGE_COUNT, 1024)
    write_tensors(path, {"matrix": stored}, {})
    matrix = open_tensors(path).tensors["matrix"].read()
    np.testing.assert_array_equal(matrix, stored)
    assert mapped_bytes(path) > stored.nbytes / 2
    hand_back(matrix[:5].T)
    assert mapped_bytes(path) < stored.nbytes / 10
    np.testing.assert_array_equal(matrix, stored)


def test_arrays_that_only_memory_holds_are_left_alone(tmp_path: Path) -> None:
    plain = np.ones(4)
    hand_back(plain[::2])
    assert plain.tolist() == [1.0] * 4
    np.ones(1024).tofile(tmp_path / "file")
    private = np.memmap(tmp_path / "file", np.float64, "c")
    private[:] = 2
    hand_back(private)
    assert (private == 2).all()
