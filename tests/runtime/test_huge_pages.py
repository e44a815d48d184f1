import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from autotune.runtime import huge_pages as module
from autotune.runtime.huge_pages import HUGE_PAGE_BYTES, huge_pages

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="huge pages are asked for on Linux only")


def huge_bytes() -> int:
    """Bytes of this process's memory that lie on huge pages."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("AnonHugePages:"))


def test_memory_keeps_its_contents() -> None:
    with huge_pages():
        array = np.arange(3 * HUGE_PAGE_BYTES, dtype=np.uint32)
    assert np.array_equal(array, np.arange(3 * HUGE_PAGE_BYTES, dtype=np.uint32))


@linux
def test_new_memory_moves_onto_huge_pages() -> None:
    before = huge_bytes()
    with huge_pages():
        block = mmap.mmap(-1, 16 * HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        block.write(b"x" * len(block))
    moved = huge_bytes() - before
    assert block[:] == b"x" * len(block)
    block.close()
    if not moved:
        pytest.skip("this kernel gives no huge pages on request")
    assert moved >= 14 * HUGE_PAGE_BYTES


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_an_error_inside_passes_through(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(ValueError, match="inside"), huge_pages():
        raise ValueError("inside")


def test_nothing_is_asked_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_MAPS", tmp_path / "maps")
    monkeypatch.setattr(module.ctypes, "CDLL", lambda *_: pytest.fail("the system was called"))
    with huge_pages():
        pass


@pytest.mark.parametrize(
    ("ranges", "taken", "rest"),
    [
        ([(10, 20)], [], [(10, 20)]),
        ([(10, 20)], [(10, 20)], []),
        ([(10, 20)], [(12, 15)], [(10, 12), (15, 20)]),
        ([(10, 20)], [(5, 12), (18, 30)], [(12, 18)]),
        ([(10, 20), (30, 40)], [(15, 35)], [(10, 15), (35, 40)]),
        ([(10, 20)], [(0, 10), (20, 25)], [(10, 20)]),
        ([(10, 20)], [(11, 12), (13, 14)], [(10, 11), (12, 13), (14, 20)]),
    ],
)
def test_ranges_are_subtracted(
    ranges: list[tuple[int, int]], taken: list[tuple[int, int]], rest: list[tuple[int, int]]
) -> None:
    assert list(module._without(ranges, taken)) == rest
