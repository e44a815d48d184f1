"""A disk that is full in the middle of a file."""

import errno
import os
from pathlib import Path


def full_disk(arrays: object, path: str | Path, metadata: object = None) -> None:
    """In place of `safetensors.numpy.save_file`: writes a little, and then there is no room."""
    Path(path).write_bytes(b"half of it")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
