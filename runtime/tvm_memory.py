"""The memory of a TVM program on the CPU: its weights, cache and buffers, on huge pages where the system has them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.errors import ArtifactError
from autotune.program import Program
from autotune.runtime.huge_pages import HUGE_PAGE_BYTES, huge_pages
from autotune.stopping import CONFIDENCE_BINS
from autotune.tvm_layout import WEIGHTS_FILE, TvmLayout
from autotune.weights import FloatArray

_ALIGNMENT_BYTES = 64


def allocate(layout: TvmLayout, folder: Path, program: Program, weights: FloatArray | None) -> dict[str, NDArray[Any]]:
    """The function's buffers by name (see `TvmLayout`), with the weights read.

    weights: those of another session; None: they are read.

    All but the logits lie in one block, on huge pages where the system has them: the weights because a step reads all
    of them; the rest because a small draft, whose turn comes when the target has just read its own weights, would spend
    much of its time on looking up the addresses of its few pages.
    """
    steps, columns = layout.longest_burst, layout.logits_shape[1]
    keys, values = layout.cache_shapes
    in_block: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
        "floats": ((0 if weights is not None else layout.weights_bytes // 4,), np.float32),
        "keys": (keys, np.float32),
        "values": (values, np.float32),
        "scratch": ((layout.scratch_floats,), np.float32),
        "control": ((5 if layout.stops else 4,), np.int32),
        "tokens": ((layout.piece_tokens,), np.int64),
        "after": ((layout.piece_tokens,), np.int64),
        "drafted": ((steps,), np.int64),
        "settings": ((3,), np.float32),
        "noise": ((steps,), np.float64),
        "probabilities": ((steps,), np.float32),
        "ids": ((program.shape.draft_vocab or 1,), np.int64),
        "log_acceptance": ((CONFIDENCE_BINS,), np.float32),
        "limits": ((steps,), np.float32),
        "survival": ((2,), np.float32),
    }
    with huge_pages():
        arrays = _aligned_zeros(in_block)
        if weights is None:
            _read_weights(folder, layout, arrays["floats"])
        else:
            arrays["floats"] = weights
    arrays |= _aligned_zeros({"logits": (layout.logits_shape, np.float32)})
    arrays |= _aligned_zeros({"distributions": ((steps, columns), np.float32)})
    arrays["codes"] = arrays["floats"].view(layout.code_type)
    if program.head_tokens is not None:
        arrays["ids"][:] = program.head_tokens
    return arrays


def _read_weights(folder: Path, layout: TvmLayout, memory: FloatArray) -> None:
    """Read the weights file into memory of its size; ArtifactError if it is missing or of another size."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ArtifactError(f"{folder} is incomplete: {WEIGHTS_FILE} is missing; compile the draft again")
    size = path.stat().st_size
    if size != layout.weights_bytes:
        raise ArtifactError(f"{path} is corrupt: it has {size} bytes, not {layout.weights_bytes}")
    with path.open("rb") as file:
        file.readinto(memory.data)


def _aligned_zeros(arrays: Mapping[str, tuple[tuple[int, ...], type[np.generic]]]) -> dict[str, NDArray[Any]]:
    """Zeros, in one block that begins on a huge page and fills whole ones.

    TVM's vector instructions fault on arrays that NumPy aligns to 16 bytes only.
    """
    places, end = {}, 0
    for name, (shape, dtype) in arrays.items():
        length = math.prod(shape) * np.dtype(dtype).itemsize
        places[name] = slice(end, end + length)
        end += -(-length // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    whole = -(-end // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    memory = np.zeros(whole + HUGE_PAGE_BYTES, np.uint8)
    block = memory[-memory.ctypes.data % HUGE_PAGE_BYTES :]
    return {name: block[places[name]].view(dtype).reshape(shape) for name, (shape, dtype) in arrays.items()}
