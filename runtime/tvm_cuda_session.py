"""Runs a program compiled by TVM for a GPU.

Weights, cache and every buffer are in the device's memory, allocated once and bound once.  A call copies one small
array there, runs a function without arguments, whose kernels the GPU works off without the host, and fetches what is
asked for.  Only TVM's runtime libraries are loaded.

A program is machine code, checked against its checksum before it is loaded; like any executable, open it only if you
trust where it comes from.
"""

import ctypes
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from autotune.errors import ArtifactError
from autotune.program import Drafting, Program
from autotune.runtime.sampled_burst import draw_call_by_call, over_vocabulary
from autotune.runtime.session import Probabilities, SampledBurst, StoppedBurst, Tokens
from autotune.runtime.spans import check_capacity, check_span
from autotune.runtime.stopping_burst import stop_call_by_call
from autotune.runtime.tvm_cuda_library import device, load_program
from autotune.sampling import SamplingSettings
from autotune.stopping import StopRule
from autotune.tvm_cuda_layout import WEIGHTS_FILE, DeviceBuffer, TvmCudaLayout
from autotune.tvm_import import import_tvm_ffi

_POINTER = ctypes.c_void_p


class TvmCudaSession:
    """One sequence's decoder on a GPU; see `autotune.runtime.session.Session`."""

    def __init__(self, folder: Path, program: Program, threads: int):
        """threads: of no use here; the host's one thread only starts what the GPU computes."""
        self.program = program
        self.drafting = program.drafting
        self._folder, self._threads = folder, threads
        layout = TvmCudaLayout.read(folder)
        machine = load_program(folder, layout)
        self._memory = _DeviceMemory()
        self._piece_tokens, self._longest_burst = layout.piece_tokens, layout.longest_burst
        self._state_tokens, self._dice_noise = layout.state_tokens, layout.dice_noise
        self._buffers = {buffer.name: self._memory.zeros(buffer) for buffer in (*layout.state, *layout.scratch)}
        self._buffers |= _upload_weights(folder, layout, self._memory)
        self._buffers |= {buffer.name: self._memory.zeros(buffer) for buffer in layout.caches}
        sizes = {buffer.name: buffer.shape for buffer in layout.state}
        self._state = np.zeros(sizes["state"], np.int64)
        self._dice = np.zeros(sizes["dice"], np.float32)
        self._after = np.zeros(sizes["after"], np.int64)
        self._drafted, self._chosen = np.zeros(sizes["drafted"], np.int64), np.zeros(sizes["chosen"], np.float32)
        self._columns = sizes["logits"][1]
        self._functions = _bind(machine, _function_names(layout), list(self._buffers.values()))
        self._cached_tokens = 0

    def logits(self, tokens: Tokens, start: int) -> NDArray[np.float32]:
        """Logits `[n, head_rows]` after each of the n tokens."""
        check_span(self.program, self._cached_tokens, tokens, start)
        logits = np.empty((len(tokens), self._columns), np.float32)
        for first, piece in self._pieces(tokens):
            self._run("step", piece, start + first)
            self._memory.fetch_rows(self._buffers["logits"], 0, logits[first : first + len(piece)])
        return logits[:, : self.program.shape.head_rows]

    def greedy(self, tokens: Tokens, start: int) -> NDArray[np.int64]:
        """The arg-max token `[n]` after each of the n tokens."""
        check_span(self.program, self._cached_tokens, tokens, start)
        after = np.empty(len(tokens), np.int64)
        for first, piece in self._pieces(tokens):
            self._run("step", piece, start + first)
            self._memory.fetch(self._buffers["after"], self._after)
            after[first : first + len(piece)] = self._after[: len(piece)]
        return after

    def burst(self, tokens: Tokens, start: int, count: int) -> list[int]:
        """`count` greedily drafted tokens; all but the last of them enter the cache behind the given ones."""
        check_span(self.program, self._cached_tokens, tokens, start, count)
        longest = self._longest_burst if self.drafting is Drafting.BURST else 0
        drafted: list[int] = []
        while len(drafted) < count:
            given, pace = drafted[-1:] or tokens, max(1, min(count - len(drafted), longest))
            if longest:
                self._run(f"burst_{pace}", given, start, pace)
                self._memory.fetch(self._buffers["drafted"], self._drafted)
                drafted += self._drafted[:pace].tolist()
            else:
                drafted.append(int(self.greedy(given, start)[-1]))
            start += len(given) + pace - 1
        return drafted

    def sampled_burst(
        self, tokens: Tokens, start: int, count: int, settings: SamplingSettings, noise: Sequence[float]
    ) -> SampledBurst:
        """`count` tokens drawn with these settings, each from one number of `noise`."""
        check_span(self.program, self._cached_tokens, tokens, start, count)
        if self.drafting is Drafting.CALLS or count > self._longest_burst or settings.greedy:
            return draw_call_by_call(self, tokens, start, count, settings, noise)
        self._dice[:3] = (1 / settings.temperature, settings.top_k, settings.top_p)
        self._dice[self._dice_noise : self._dice_noise + count] = noise[:count]
        self._memory.store(self._buffers["dice"], self._dice)
        self._run(f"sampled_burst_{count}", tokens, start, count)
        self._memory.fetch(self._buffers["drafted"], self._drafted)
        self._memory.fetch(self._buffers["chosen"], self._chosen)
        return SampledBurst(self._drafted[:count].tolist(), self._chosen[:count].tolist(), self._distribution)

    def stopping_burst(
        self,
        tokens: Tokens,
        start: int,
        count: int,
        rule: StopRule,
        settings: SamplingSettings,
        noise: Sequence[float],
    ) -> StoppedBurst:
        """At most `count` tokens, a call for each, after which its logits are fetched."""
        check_span(self.program, self._cached_tokens, tokens, start, count)
        return stop_call_by_call(self, tokens, start, count, rule, settings, noise)

    def pretend_cached(self, count: int) -> None:
        """Take the first `count` positions for cached: the cache holds zeros until it is written."""
        check_capacity(self.program, count)
        self._cached_tokens = count

    def sibling(self) -> Self:
        """Another sequence's decoder of the same program, which is loaded once more."""
        return type(self)(self._folder, self.program, self._threads)

    def close(self) -> None:
        """Free the program and its cache; the session cannot be used afterwards, but closed again."""
        self._functions.clear()
        self._buffers.clear()

    def _distribution(self, place: int) -> Probabilities:
        """What the token at that place of the last burst was drawn from, over the whole vocabulary `[vocab]`."""
        row = np.empty((1, self.program.shape.head_rows), np.float32)
        self._memory.fetch_rows(self._buffers["distributions"], place, row)
        return over_vocabulary(self.program, row[0].astype(np.float64))

    def _pieces(self, tokens: Tokens) -> Iterable[tuple[int, Tokens]]:
        """The tokens in pieces that one call can take, each with the place of its first."""
        for first in range(0, len(tokens), self._piece_tokens):
            yield first, tokens[first : first + self._piece_tokens]

    def _run(self, function: str, tokens: Tokens, start: int, steps: int = 1) -> None:
        """Start a function with at most a piece of tokens at `start`; what it reads is then the cached sequence."""
        count = len(tokens)
        self._state[:3] = (start, count, 0)
        self._state[self._state_tokens : self._state_tokens + count] = tokens
        self._memory.store(self._buffers["state"], self._state)
        self._functions[function]()
        self._cached_tokens = start + count + steps - 1


class _DeviceMemory:
    """Allocates, fills and reads the device's memory; every copy is finished when it returns."""

    def __init__(self) -> None:
        ffi = import_tvm_ffi()
        self._device, self._shape, self._dtype = device(), ffi.Shape, ffi.dtype
        self._allocate = ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        self._copy_to_device = ffi.get_global_func("runtime.TVMTensorCopyFromBytes")
        self._copy_to_host = ffi.get_global_func("runtime.TVMTensorCopyToBytes")
        self._view = ffi.get_global_func("runtime.TVMTensorCreateView")

    def empty(self, buffer: DeviceBuffer) -> Any:
        """Memory for a buffer; its content is arbitrary."""
        return self._allocate(self._shape(buffer.shape), self._dtype(buffer.dtype), self._device, None)

    def zeros(self, buffer: DeviceBuffer) -> Any:
        """A buffer of zeros."""
        tensor = self.empty(buffer)
        self.store(tensor, np.zeros(buffer.shape, buffer.dtype))
        return tensor

    def store(self, tensor: Any, array: NDArray[Any]) -> None:
        """Copy a contiguous array into a buffer of its size."""
        self._copy_to_device(tensor, array.ctypes.data_as(_POINTER), array.nbytes)

    def fetch(self, tensor: Any, array: NDArray[Any]) -> None:
        """Copy a buffer into a contiguous array of its size, once the device has finished what was started."""
        self._copy_to_host(tensor, array.ctypes.data_as(_POINTER), array.nbytes)

    def fetch_rows(self, tensor: Any, first: int, rows: NDArray[np.float32]) -> None:
        """Copy the rows of a float32 buffer from `first` on into a contiguous array `[n, columns]`."""
        offset_bytes = first * math.prod(rows.shape[1:]) * rows.itemsize
        self.fetch(self._view(tensor, self._shape(rows.shape), self._dtype("float32"), offset_bytes), rows)


def _upload_weights(folder: Path, layout: TvmCudaLayout, memory: _DeviceMemory) -> dict[str, Any]:
    """The arrays of the weights file, on the device; ArtifactError if the file is missing or of another size."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ArtifactError(f"{folder} is incomplete: {WEIGHTS_FILE} is missing; compile the draft again")
    size = path.stat().st_size
    if size != layout.weights_bytes:
        raise ArtifactError(f"{path} is corrupt: it has {size} bytes, not {layout.weights_bytes}")
    uploaded = {}
    for array in layout.weights:
        stored = np.memmap(path, array.dtype, "r", array.offset_bytes, array.shape)
        uploaded[array.name] = memory.empty(array)
        memory.store(uploaded[array.name], stored)
    return uploaded


def _function_names(layout: TvmCudaLayout) -> list[str]:
    bursts = range(1, layout.longest_burst + 1)
    return ["step", *(f"burst_{count}" for count in bursts), *(f"sampled_burst_{count}" for count in bursts)]


def _bind(machine: Any, names: Iterable[str], buffers: list[Any]) -> dict[str, Callable[[], object]]:
    """The library's functions by name, bound to their buffers."""
    bound: dict[str, Callable[[], object]] = {}
    for name in names:
        machine["save_function"](name, f"bound_{name}", 0, *buffers)
        bound[name] = machine[f"bound_{name}"]
    return bound
