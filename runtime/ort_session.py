"""Runs a program compiled for ONNX Runtime.

Every buffer is allocated once and bound once: a step writes three small arrays in place and calls the runtime.  The
key/value cache is bound as input *and* output, so it is updated in place and a longer capacity costs nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from autotune.errors import ArtifactError
from autotune.program import Program
from autotune.runtime.huge_pages import huge_pages
from autotune.runtime.sampled_burst import draw_call_by_call
from autotune.runtime.session import SampledBurst, Tokens
from autotune.sampling import SamplingSettings

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "weights.bin"

PIECE_TOKENS = 64
"""Long prompts are fastest in pieces of about this many tokens: wider ones gain nothing in the matrix products, and
attention computes scores over the whole capacity for each.  Bindings for up to this many tokens are kept."""

_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


@dataclass(frozen=True)
class _Bound:
    """The program bound to its buffers for one number of tokens n."""

    run: Callable[[], object]
    result: NDArray[Any]
    """What `run` writes: arg-max tokens `[n]` or logits `[n, vocab]`."""


class OrtSession:
    """One sequence's decoder on the CPU; see `autotune.runtime.session.Session`."""

    def __init__(self, folder: Path, program: Program, threads: int):
        self.program = program
        self.drafting = program.drafting
        self._session = _open(folder, threads)
        self._tokens = np.zeros(program.capacity_tokens, np.int64)
        self._last_position = np.zeros(1, np.int32)
        self._total_tokens = np.zeros((), np.int32)
        self._cache = {
            value.name.removeprefix("past."): np.zeros(value.shape, np.float32)
            for value in self._session.get_inputs()
            if value.name.startswith("past.")
        }
        self._cached_tokens = 0
        self._kept: dict[tuple[str, int], _Bound] = {}

    def logits(self, tokens: Tokens, start: int) -> NDArray[np.float32]:
        """Logits `[n, vocab]` after each of the n tokens; a view, valid until the next call."""
        logits: NDArray[np.float32] = self._advance("logits", tokens, start)
        return logits

    def greedy(self, tokens: Tokens, start: int) -> NDArray[np.int64]:
        """The arg-max token `[n]` after each of the n tokens; a view, valid until the next call."""
        tokens_after: NDArray[np.int64] = self._advance("argmax", tokens, start)
        return tokens_after

    def burst(self, tokens: Tokens, start: int, count: int) -> list[int]:
        """`count` greedily drafted tokens; all but the last of them enter the cache behind the given ones."""
        if count < 1:
            raise ValueError(f"a burst drafts at least one token, not {count}")
        end = start + len(tokens) + count - 1
        self._check_room(end)
        drafted = [int(self.greedy(tokens, start)[-1])]
        step = self._bound("argmax", 1)
        for position in range(start + len(tokens), end):
            self._tokens[0] = drafted[-1]
            self._last_position[0] = position
            self._total_tokens[()] = position + 1
            step.run()
            drafted.append(int(step.result[0]))
        self._cached_tokens = end
        return drafted

    def sampled_burst(
        self, tokens: Tokens, start: int, count: int, settings: SamplingSettings, noise: Sequence[float]
    ) -> SampledBurst:
        """`count` tokens drawn with these settings, each from one number of `noise`."""
        return draw_call_by_call(self, tokens, start, count, settings, noise)

    def close(self) -> None:
        """Free the program and its cache; the session cannot be used afterwards, but closed again."""
        self._kept.clear()
        self._cache.clear()
        self.__dict__.pop("_session", None)

    def _advance(self, output: str, tokens: Tokens, start: int) -> NDArray[Any]:
        """The named output of one call with these tokens at `start`, which become the end of the cached sequence."""
        count = len(tokens)
        if count == 0:
            raise ValueError("no tokens given")
        if not 0 <= start <= self._cached_tokens:
            raise ValueError(f"start {start} is not within the {self._cached_tokens} positions cached so far")
        self._check_room(start + count)
        bound = self._bound(output, count)
        self._tokens[:count] = tokens
        self._last_position[0] = start + count - 1
        self._total_tokens[()] = start + count
        bound.run()
        self._cached_tokens = start + count
        return bound.result

    def _check_room(self, end: int) -> None:
        capacity = self.program.capacity_tokens
        if end > capacity:
            raise ValueError(f"position {end - 1} does not fit: the program was compiled for {capacity} tokens")

    def _bound(self, output: str, count: int) -> _Bound:
        """The program bound to write `output` for `count` tokens."""
        kept = self._kept.get((output, count))
        if kept:
            return kept
        bound = self._bind(output, count)
        if count <= PIECE_TOKENS:
            self._kept[output, count] = bound
        return bound

    def _bind(self, output: str, count: int) -> _Bound:
        binding = self._session.io_binding()
        inputs: dict[str, NDArray[Any]] = {
            "tokens": self._tokens[None, :count],
            "seqlens_k": self._last_position,
            "total_sequence_length": self._total_tokens,
        }
        result: NDArray[Any] = (
            np.zeros((1, count), np.int64)
            if output == "argmax"
            else np.zeros((1, count, self.program.shape.vocab), np.float32)
        )
        inputs |= {f"past.{name}": array for name, array in self._cache.items()}
        outputs = {output: result} | {f"present.{name}": array for name, array in self._cache.items()}
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return _Bound(_runner(self._session, binding), result[0])


def _open(folder: Path, threads: int) -> onnxruntime.InferenceSession:
    """The ONNX Runtime session of a program folder; ArtifactError if it cannot be loaded."""
    for name in (MODEL_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder} is incomplete: {name} is missing; compile the draft again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Threads that spin while they wait steal the cores from whatever else runs, the target included.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    try:
        with huge_pages():
            return onnxruntime.InferenceSession(str(folder / MODEL_FILE), options, providers=["CPUExecutionProvider"])
    except _LOAD_ERRORS as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(f"{folder} cannot be loaded by ONNX Runtime: {reason}") from error


def _runner(session: onnxruntime.InferenceSession, binding: onnxruntime.IOBinding) -> Callable[[], object]:
    """A call that runs the binding.

    The native methods under the public ones save about 10 µs a step; where a version lacks them, the public ones do.
    """
    native_session, native_binding = getattr(session, "_sess", None), getattr(binding, "_iobinding", None)
    if native_session is None or native_binding is None:
        return partial(session.run_with_iobinding, binding)
    return partial(native_session.run_with_iobinding, native_binding, None)
