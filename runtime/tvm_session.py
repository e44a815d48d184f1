"""Runs a program compiled by TVM.

Only TVM's runtime library and its binding layer are loaded, neither the compiler nor the rest of the package `tvm`.
Every buffer is allocated and bound once: a call writes tokens and their place into two small arrays and runs a
function without arguments.  A burst is one such call for every eight tokens.

A program is machine code, checked against its checksum and the processor's instruction sets before it is loaded; like
any executable, open it only if you trust where it comes from.
"""

import ctypes
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.devices import find_device
from autotune.errors import ArtifactError
from autotune.program import Program
from autotune.runtime.huge_pages import huge_pages
from autotune.runtime.sampled_burst import draw_call_by_call
from autotune.runtime.session import SampledBurst, Tokens
from autotune.runtime.tvm_threads import prepare_pool, use_threads
from autotune.sampling import SamplingSettings
from autotune.tvm_import import import_tvm_ffi
from autotune.tvm_layout import LIBRARY_FILE, WEIGHTS_FILE, TvmLayout
from autotune.weights import FloatArray

_RUNTIME_LIBRARY = "libtvm_runtime"
_CPU, _POOLED_ALLOCATOR = 1, 2
_PAGE_BYTES = 4096


class TvmSession:
    """One sequence's decoder on the CPU; see `autotune.runtime.session.Session`."""

    def __init__(self, folder: Path, program: Program, threads: int):
        self.program = program
        self.drafting = program.drafting
        self._threads = threads
        layout = TvmLayout.read(folder)
        machine = _load(folder, layout, threads)
        self._configure = import_tvm_ffi().get_global_func("runtime.config_threadpool")
        self._piece_tokens, self._longest_burst = layout.piece_tokens, layout.longest_burst
        self._tokens = _aligned_zeros((layout.piece_tokens,), np.int64)
        self._span = _aligned_zeros((3,), np.int32)
        self._after = _aligned_zeros((layout.piece_tokens,), np.int64)
        self._logits = _aligned_zeros(layout.logits_shape, np.float32)
        self._drafted = _aligned_zeros((layout.longest_burst,), np.int64)
        with huge_pages():
            weights = _read_weights(folder, layout)
        scratch = [_aligned_zeros(size, np.float32) for size in layout.scratch_shapes]
        caches = [_aligned_zeros(size, np.float32) for size in layout.cache_shapes]
        self._functions = _bind(
            machine,
            layout,
            [self._tokens, self._span, self._after, self._logits],
            self._drafted,
            [*scratch, *weights, *caches],
        )
        self._step = self._functions["step"]
        self._cached_tokens = 0

    def logits(self, tokens: Tokens, start: int) -> NDArray[np.float32]:
        """Logits `[n, vocab]` after each of the n tokens; a view, valid until the next call."""
        self._check(tokens, start)
        vocab = self.program.shape.vocab
        if len(tokens) <= self._piece_tokens:
            self._advance(tokens, start)
            return self._logits[: len(tokens), :vocab]
        logits = np.empty((len(tokens), vocab), np.float32)
        for first in range(0, len(tokens), self._piece_tokens):
            piece = tokens[first : first + self._piece_tokens]
            self._advance(piece, start + first)
            logits[first : first + len(piece)] = self._logits[: len(piece), :vocab]
        return logits

    def greedy(self, tokens: Tokens, start: int) -> NDArray[np.int64]:
        """The arg-max token `[n]` after each of the n tokens; a view, valid until the next call."""
        self._check(tokens, start)
        if len(tokens) <= self._piece_tokens:
            self._advance(tokens, start)
            return self._after[: len(tokens)]
        after = np.empty(len(tokens), np.int64)
        for first in range(0, len(tokens), self._piece_tokens):
            piece = tokens[first : first + self._piece_tokens]
            self._advance(piece, start + first)
            after[first : first + len(piece)] = self._after[: len(piece)]
        return after

    def burst(self, tokens: Tokens, start: int, count: int) -> list[int]:
        """`count` greedily drafted tokens; all but the last of them enter the cache behind the given ones."""
        if count < 1:
            raise ValueError(f"a burst drafts at least one token, not {count}")
        self._check(tokens, start, count - 1)
        drafted: list[int] = []
        while len(drafted) < count:
            pace = min(count - len(drafted), self._longest_burst)
            given = drafted[-1:] or tokens
            self._place(given, start)
            self._functions[f"burst_{pace}"]()
            drafted += self._drafted[:pace].tolist()
            start += len(given) + pace - 1
            self._cached_tokens = start
        return drafted

    def sampled_burst(
        self, tokens: Tokens, start: int, count: int, settings: SamplingSettings, noise: Sequence[float]
    ) -> SampledBurst:
        """`count` tokens drawn with these settings, each from one number of `noise`."""
        return draw_call_by_call(self, tokens, start, count, settings, noise)

    def close(self) -> None:
        """Free the program and its cache; the session cannot be used afterwards, but closed again."""
        self._functions.clear()
        for name in ("_step", "_logits"):
            self.__dict__.pop(name, None)

    def _check(self, tokens: Tokens, start: int, drafted: int = 0) -> None:
        """ValueError unless the tokens, and that many more behind them, may be cached from `start` on."""
        if len(tokens) == 0:
            raise ValueError("no tokens given")
        if not 0 <= start <= self._cached_tokens:
            raise ValueError(f"start {start} is not within the {self._cached_tokens} positions cached so far")
        capacity, end = self.program.capacity_tokens, start + len(tokens) + drafted
        if end > capacity:
            raise ValueError(f"position {end - 1} does not fit: the program was compiled for {capacity} tokens")

    def _advance(self, tokens: Tokens, start: int) -> None:
        """One step with at most a piece of tokens at `start`, which become the end of the cached sequence."""
        self._place(tokens, start)
        self._step()
        self._cached_tokens = start + len(tokens)

    def _place(self, tokens: Tokens, start: int) -> None:
        """Write the next call's input."""
        use_threads(self._threads, self._configure)
        count = len(tokens)
        self._tokens[:count] = tokens
        self._span[:] = (start, count, 0)


def _load(folder: Path, layout: TvmLayout, threads: int) -> Any:
    """TVM's virtual machine with the folder's library; ArtifactError if it cannot run here."""
    missing = sorted(set(layout.features) - set(find_device("cpu").features))
    if missing:
        raise ArtifactError(
            f"{folder} was compiled for a processor with {', '.join(missing)}, which this one lacks: "
            "compile the draft again on this machine"
        )
    try:
        content = (folder / LIBRARY_FILE).read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{folder} is incomplete: {LIBRARY_FILE} is missing; compile the draft again") from None
    if hashlib.sha256(content).hexdigest() != layout.library_sha256:
        raise ArtifactError(f"{folder}/{LIBRARY_FILE} is corrupt: its checksum is wrong; compile the draft again")
    prepare_pool(threads)
    ffi = load_runtime()
    try:
        machine = ffi.load_module(str(folder / LIBRARY_FILE))["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED_ALLOCATOR)
    except (RuntimeError, AttributeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(f"{folder} cannot be loaded by TVM: {reason}") from error
    return machine


def load_runtime() -> Any:
    """The binding layer `tvm_ffi` with TVM's runtime library loaded; ArtifactError if TVM is not installed."""
    found = find_spec("tvm")  # finds the package without importing it, and with it the compiler
    if found is None or not found.submodule_search_locations:
        raise ArtifactError("the program was compiled by tvm, which is not installed: pip install apache-tvm")
    for package in found.submodule_search_locations:
        for library in sorted(Path(package, "lib").glob(f"{_RUNTIME_LIBRARY}.*")):
            ffi = import_tvm_ffi()
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
            return ffi
    raise ArtifactError("the installed tvm has no runtime library: pip install --force-reinstall apache-tvm")


def _read_weights(folder: Path, layout: TvmLayout) -> list[FloatArray]:
    """The arrays of the weights file, in memory; ArtifactError if the file is missing or of another size."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ArtifactError(f"{folder} is incomplete: {WEIGHTS_FILE} is missing; compile the draft again")
    size = path.stat().st_size
    if size != layout.weights_bytes:
        raise ArtifactError(f"{path} is corrupt: it has {size} bytes, not {layout.weights_bytes}")
    content = _aligned_zeros((size,), np.uint8)
    with path.open("rb") as file:
        file.readinto(content.data)
    arrays = []
    for array in layout.weights:
        stored = content[array.offset_bytes : array.offset_bytes + math.prod(array.shape) * 4]
        arrays.append(stored.view(np.float32).reshape(array.shape))
    return arrays


def _aligned_zeros(size: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Zeros that begin on a page: TVM's vector instructions fault on arrays that NumPy aligns to 16 bytes only."""
    length = math.prod(size) * np.dtype(dtype).itemsize
    memory = np.zeros(length + _PAGE_BYTES, np.uint8)
    aligned = memory[-memory.ctypes.data % _PAGE_BYTES :][:length]
    return aligned.view(dtype).reshape(size)


def _bind(
    machine: Any,
    layout: TvmLayout,
    state: list[NDArray[Any]],
    drafted: NDArray[np.int64],
    parameters: list[FloatArray],
) -> dict[str, Callable[[], object]]:
    """The library's functions by name, bound to their buffers."""
    tensor: Callable[[NDArray[Any]], Any] = import_tvm_ffi().from_dlpack
    shared, fixed, drafts = [tensor(array) for array in state], [tensor(array) for array in parameters], tensor(drafted)
    arguments: Mapping[str, list[Any]] = {"step": [*shared, *fixed]} | {
        f"burst_{count}": [*shared, drafts, *fixed] for count in range(1, layout.longest_burst + 1)
    }
    bound: dict[str, Callable[[], object]] = {}
    for name, values in arguments.items():
        machine["save_function"](name, f"bound_{name}", 0, *values)
        bound[name] = machine[f"bound_{name}"]
    return bound
