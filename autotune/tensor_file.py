"""Safetensors files without torch: memory-mapped reads (bf16 included), atomic writes, one-line errors."""

import errno
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from autotune.errors import BadRequest
from autotune.weights import FloatArray

_STORED_AS = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "F64": np.float64,
    "I32": np.int32,
    "I64": np.int64,
}
_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class StoredTensor:
    """Where one array of a safetensors file lies; nothing of it is in memory yet."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int

    def read(self) -> NDArray[Any]:
        """The array, memory-mapped read-only, in its stored type (bf16: as raw `uint16`)."""
        if self.dtype not in _STORED_AS:
            raise BadRequest(
                f"{self.path} stores {self.name!r} as {self.dtype}: convert the checkpoint to fp16 or fp32"
            )
        dtype = np.dtype(_STORED_AS[self.dtype])
        if 0 in self.shape:
            return np.zeros(self.shape, dtype)
        mapped = np.memmap(self.path, dtype, "r", self.offset_bytes, self.shape)
        return mapped.view(np.ndarray)

    def read_fp32(self) -> FloatArray:
        """The array in fp32, exactly: memory-mapped where it is stored so, converted in memory otherwise."""
        if self.dtype not in _FLOATS:
            raise BadRequest(
                f"{self.path} stores {self.name!r} as {self.dtype}: convert the checkpoint to fp16 or fp32"
            )
        stored = self.read()
        if self.dtype == "BF16":  # bf16 is the upper half of an fp32
            widened = stored.astype(np.uint32)
            widened <<= 16  # in place: the largest arrays have gigabytes
            return widened.view(np.float32)
        return stored.astype(np.float32, copy=False)


@dataclass(frozen=True)
class TensorFile:
    """The header of a safetensors file: its arrays by name, and its metadata."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def open_tensors(path: Path) -> TensorFile:
    """The header of a safetensors file; BadRequest if it is missing, truncated or corrupt."""
    try:
        # The library checks the whole layout: sizes, overlaps, and that the file is not cut short.
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
    except FileNotFoundError:
        raise BadRequest(f"{path} does not exist") from None
    except SafetensorError as error:
        raise BadRequest(f"{path} is corrupt or cut short ({error}): fetch or write it again") from error
    except OSError as error:
        raise BadRequest(f"cannot read {path}: {error.strerror or error}") from error
    metadata = header.pop("__metadata__", {})
    tensors = {
        name: StoredTensor(
            path, name, entry["dtype"], tuple(entry["shape"]), 8 + header_bytes + entry["data_offsets"][0]
        )
        for name, entry in header.items()
    }
    return TensorFile(tensors, metadata)


def check_writable(path: Path) -> None:
    """BadRequest if no file can be written at `path`: to know before the work, not after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise _unwritable(path, error) from error


def write_tensors(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file beside `path` and rename it into place; BadRequest where the disk refuses."""
    beside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(handle)
        beside = Path(name)
        save_file({name: np.require(array, requirements="C") for name, array in arrays.items()}, beside, dict(metadata))
        beside.chmod(0o644)
        beside.replace(path)
    except (OSError, SafetensorError) as error:  # the library wraps a full disk in its own error
        raise _unwritable(path, error) from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def _unwritable(path: Path, error: Exception) -> BadRequest:
    return BadRequest(f"cannot write {path}: {getattr(error, 'strerror', None) or error}")
