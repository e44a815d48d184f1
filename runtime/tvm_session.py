"""Runs a program compiled by TVM.

Only TVM's runtime library and its binding layer are loaded, neither the compiler nor the rest of the package `tvm`.
Every buffer is allocated and bound once: a call writes tokens and their place into two small arrays and runs the
program's one function.  A burst is one such call, whatever its length, up to that of the buffers.

A program is machine code, checked against its checksum and the processor's instruction sets before it is loaded; like
any executable, open it only if you trust where it comes from.
"""

import ctypes
import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.devices import find_device
from autotune.errors import ArtifactError
from autotune.program import Drafting, Program
from autotune.runtime.sampled_burst import draw_call_by_call, over_vocabulary
from autotune.runtime.session import Probabilities, SampledBurst, StoppedBurst, Tokens
from autotune.runtime.spans import check_capacity
from autotune.runtime.stopping_burst import check_rule, stop_call_by_call
from autotune.runtime.tvm_memory import allocate
from autotune.runtime.tvm_threads import prepare_pool, use_threads
from autotune.sampling import SamplingSettings
from autotune.stopping import StopRule
from autotune.tvm_import import import_tvm_ffi
from autotune.tvm_layout import FUNCTION, LIBRARY_FILE, TvmLayout
from autotune.weights import FloatArray

_RUNTIME_LIBRARY = "libtvm_runtime"


class TvmSession:
    """One sequence's decoder on the CPU; see `autotune.runtime.session.Session`."""

    def __init__(self, folder: Path, program: Program, threads: int, like: "TvmSession | None" = None):
        """like: another session of the same folder, whose program and weights it shares."""
        self.program = program
        self.drafting = program.drafting
        self._folder, self._threads = folder, threads
        layout = TvmLayout.read(folder)
        self._function: Callable[..., object] = like._function if like else _load(folder, layout, threads)
        self._configure = import_tvm_ffi().get_global_func("runtime.config_threadpool")
        self._piece_tokens, self._longest_burst = layout.piece_tokens, layout.longest_burst
        buffers = allocate(layout, folder, program, like._weights if like else None)
        self._weights: FloatArray = buffers["floats"]
        self._control, self._tokens, self._after = (buffers[name] for name in ("control", "tokens", "after"))
        self._logits, self._drafted = buffers["logits"], buffers["drafted"]
        self._settings, self._noise = buffers["settings"], buffers["noise"]
        self._probabilities, self._distributions = buffers["probabilities"], buffers["distributions"]
        self._stops = layout.stops
        self._rule: StopRule | None = None
        """The rule whose bounds the buffers hold."""
        self._bounds = buffers["log_acceptance"], buffers["limits"], buffers["survival"]
        tensor: Callable[[NDArray[Any]], Any] = import_tvm_ffi().from_dlpack
        self._run = partial(self._function, *[tensor(buffers[name]) for name in layout.parameters])
        self._caches = (buffers["keys"], buffers["values"])
        self._cached_tokens = 0

    def logits(self, tokens: Tokens, start: int) -> NDArray[np.float32]:
        """Logits `[n, head_rows]` after each of the n tokens; a view, valid until the next call."""
        self._check(tokens, start)
        columns = self.program.shape.head_rows
        if len(tokens) <= self._piece_tokens:
            self._advance(tokens, start)
            return self._logits[: len(tokens), :columns]
        logits = np.empty((len(tokens), columns), np.float32)
        for first in range(0, len(tokens), self._piece_tokens):
            piece = tokens[first : first + self._piece_tokens]
            self._advance(piece, start + first)
            logits[first : first + len(piece)] = self._logits[: len(piece), :columns]
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
        self._check_burst(tokens, start, count)
        longest = self._longest_burst if self.drafting is Drafting.BURST else 1
        drafted: list[int] = []
        while len(drafted) < count:
            pace = min(count - len(drafted), longest)
            given = drafted[-1:] or tokens
            self._advance(given, start, pace)
            drafted += self._drafted[:pace].tolist()
            start = self._cached_tokens
        return drafted

    def sampled_burst(
        self, tokens: Tokens, start: int, count: int, settings: SamplingSettings, noise: Sequence[float]
    ) -> SampledBurst:
        """`count` tokens drawn with these settings, each from one number of `noise`."""
        self._check_burst(tokens, start, count)
        if self.drafting is Drafting.CALLS or count > self._longest_burst or settings.greedy:
            return draw_call_by_call(self, tokens, start, count, settings, noise)
        self._settings[:] = (settings.temperature, settings.top_k, settings.top_p)
        self._noise[:count] = noise[:count]
        self._advance(tokens, start, count, drawn=True)
        tokens_drawn, probabilities = self._drafted[:count].tolist(), self._probabilities[:count].tolist()
        return SampledBurst(tokens_drawn, probabilities, self._distribution)

    def stopping_burst(
        self,
        tokens: Tokens,
        start: int,
        count: int,
        rule: StopRule,
        settings: SamplingSettings,
        noise: Sequence[float],
    ) -> StoppedBurst:
        """At most `count` tokens; the program itself stops, where it can, however bursts are drafted otherwise."""
        self._check_burst(tokens, start, count)
        if count > self._longest_burst or not self._stops:
            return stop_call_by_call(self, tokens, start, count, rule, settings, noise)
        check_rule(count, rule)
        log_acceptance, limits, survival = self._bounds
        if rule is not self._rule:
            log_acceptance[:] = rule.log_acceptance
            limits[:] = np.inf
            limits[: rule.most] = rule.limits[: len(limits)]
            self._rule = rule
        drawn = not settings.greedy
        if drawn:
            self._settings[:] = (settings.temperature, settings.top_k, settings.top_p)
            self._noise[:count] = noise[:count]
        made = self._advance(tokens, start, count, drawn, stopping=True)
        drafted = self._drafted[:made].tolist()
        burst = SampledBurst(drafted, self._probabilities[:made].tolist(), self._distribution) if drawn else None
        return StoppedBurst(drafted, float(survival[0]), burst)

    def _distribution(self, place: int) -> Probabilities:
        """What the token at that place of the last burst was drawn from, over the whole vocabulary `[vocab]`."""
        return over_vocabulary(
            self.program, self._distributions[place, : self.program.shape.head_rows].astype(np.float64)
        )

    def pretend_cached(self, count: int) -> None:
        """Take the first `count` positions for cached; their keys and values become zeros."""
        check_capacity(self.program, count)
        for array in self._caches:
            array.fill(0)  # written, since pages that never were are one page of zeros, and read from a cache
        self._cached_tokens = count

    def sibling(self) -> "TvmSession":
        """Another sequence's decoder of the same program."""
        return TvmSession(self._folder, self.program, self._threads, like=self)

    def close(self) -> None:
        """Free the program and its cache; the session cannot be used afterwards, but closed again."""
        for name in ("_run", "_function", "_weights", "_logits", "_distributions", "_caches"):
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

    def _check_burst(self, tokens: Tokens, start: int, count: int) -> None:
        """ValueError unless a burst of that length may be drafted behind the tokens."""
        if count < 1:
            raise ValueError(f"a burst drafts at least one token, not {count}")
        self._check(tokens, start, count - 1)

    def _advance(self, tokens: Tokens, start: int, steps: int = 1, drawn: bool = False, stopping: bool = False) -> int:
        """So many steps, fewer only if they may stop, from at most a piece of tokens at `start`; returns how many.

        What they read is then the cached sequence.
        """
        use_threads(self._threads, self._configure)
        count = len(tokens)
        self._tokens[:count] = tokens
        self._control[:4] = (start, count, steps, drawn)
        self._control[4:] = stopping
        self._run()
        made = int(self._control[2])
        self._cached_tokens = start + count + made - 1
        return made


def _load(folder: Path, layout: TvmLayout, threads: int) -> Callable[..., object]:
    """The function of the folder's library; ArtifactError if it cannot run here."""
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
        function: Callable[..., object] = ffi.load_module(str(folder / LIBRARY_FILE))[FUNCTION]
    except (RuntimeError, AttributeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(f"{folder} cannot be loaded by TVM: {reason}") from error
    return function


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
