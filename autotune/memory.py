"""Whether this machine has the memory a step needs, asked before anything is loaded."""

from pathlib import Path

import psutil

from autotune.errors import BadRequest
from autotune.number_formats import Precision
from autotune.shape import DraftShape

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_GIB = 2**30


def check_memory(need_bytes: int, what: str) -> None:
    """BadRequest, with the number needed, if `what` needs more memory than there is."""
    available = available_bytes()
    if need_bytes > available:
        raise BadRequest(
            f"{what} needs {need_bytes / _GIB:,.1f} GiB of memory, but this machine has {available / _GIB:,.1f} GiB "
            "available: choose a smaller model, or a machine with more memory"
        )


def available_bytes() -> int:
    """Bytes of memory that this process can still get: the machine's, or less where its cgroups say so."""
    free: int = psutil.virtual_memory().available
    return min([free, *(room for folder in _cgroups() if (room := _room(folder)) is not None)])


def worker_bytes() -> int:
    """Bytes of memory that a build or a measurement may take unless said otherwise: half of what there is at all."""
    whole: int = psutil.virtual_memory().total
    return min([whole, *(limit for folder in _cgroups() if (limit := _limit(folder)) is not None)]) // 2


def compile_bytes(shape: DraftShape, precision: Precision, capacity_tokens: int) -> int:
    """Bytes that compiling and opening a model takes at least: its compiled weights and key/value cache.

    The checkpoint's own weights are memory-mapped and may leave memory again.
    """
    return shape.weight_bytes(precision) + shape.kv_bytes_per_token * capacity_tokens


def source_bytes(shape: DraftShape, copies: int) -> int:
    """Bytes that cutting drafts from a source takes at least, as a multiple of its fp32 weights."""
    return shape.weight_bytes(Precision.FP32) * copies


def _cgroups() -> list[Path]:
    """Folders of the cgroups (version 2) that this process is in, from its own to the root."""
    try:
        lines = _MEMBERSHIP.read_text().splitlines()
    except OSError:  # not Linux
        return []
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    if path is None:
        return []
    own = _CGROUPS / path.strip("/")
    return [folder for folder in (own, *own.parents) if folder.is_relative_to(_CGROUPS)]


def _limit(folder: Path) -> int | None:
    """Bytes that one cgroup may take; None if it has no limit."""
    try:
        return int((folder / "memory.max").read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None


def _room(folder: Path) -> int | None:
    """Bytes left in one cgroup; pages of files that it could give up count as left.  None if it has no limit."""
    limit = _limit(folder)
    if limit is None:
        return None
    try:
        used = int((folder / "memory.current").read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return max(0, limit - used + int(statistics.get("inactive_file", 0)))
