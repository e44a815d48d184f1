"""SHA-256 of large files, remembered: a checkpoint of a hundred gigabytes is read once, not at every start."""

import contextlib
import os
import tempfile
import time
from pathlib import Path

from autotune.cache import cache_root, content_key, file_sha256

_SETTLED_S = 2.0
"""A file changed less than this long ago may change again within the resolution of its time stamp."""


def known_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes; not read again while its path, size, time stamp and inode are the same."""
    real = path.resolve()
    state = real.stat()
    key = content_key(str(real), state.st_size, state.st_mtime_ns, state.st_ino)
    note = cache_root() / "hashes" / key
    with contextlib.suppress(OSError, UnicodeDecodeError):
        known = note.read_text("ascii")
        if len(known) == 64:
            return known
    digest = file_sha256(real)
    after = real.stat()
    unchanged = (after.st_size, after.st_mtime_ns, after.st_ino) == (state.st_size, state.st_mtime_ns, state.st_ino)
    if unchanged and time.time() - state.st_mtime > _SETTLED_S:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
            _write(note, digest)
    return digest


def _write(note: Path, digest: str) -> None:
    note.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=note.parent)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(digest)
    Path(beside).replace(note)
