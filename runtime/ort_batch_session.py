"""Runs a program compiled for ONNX Runtime that decodes several sequences at once, on the CPU.

As in `autotune.runtime.ort_session`, buffers are allocated and bound once, and caches are updated in place.  Each
sequence has a cache of its own, and each number of sequences that a call may be given a graph, opened when it is first
needed: what is bound to a graph decides whose rows it computes, so that no cache is ever moved.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from autotune.errors import ArtifactError
from autotune.ort_layout import MODEL_FILE, batch_file, program_files
from autotune.program import Program
from autotune.runtime.ort_engine import Graphs, bind
from autotune.runtime.ort_session import PIECE_TOKENS
from autotune.runtime.spans import check_span

_MOST_BOUND = 256
"""Bindings that are kept; which sequences go on together changes while some end."""


@dataclass(frozen=True)
class _Buffers:
    """What calls of some number of rows and tokens n read and write."""

    tokens: NDArray[np.int64]
    """`[rows, n]`"""
    last_positions: NDArray[np.int32]
    """`[rows]`"""
    result: NDArray[Any]
    """Arg-max tokens `[rows, n]` or logits `[rows, n, head_rows]`."""


class OrtBatchSession:
    """Decoders of several sequences on the CPU; see `autotune.runtime.session.BatchSession`."""

    def __init__(self, folder: Path, program: Program, threads: int):
        self._files = {batch: batch_file(batch) for batch in program.smaller_batches} | {program.batch: MODEL_FILE}
        for name in (*program_files(0), *self._files.values()):
            if not (folder / name).is_file():
                raise ArtifactError(f"{folder} is incomplete: {name} is missing; compile the draft again")
        self.program = program
        self._graphs: Graphs = Graphs(folder, threads)
        self._capacity = np.array(program.capacity_tokens, np.int32)
        self._caches = _caches(self._graphs.open(MODEL_FILE), program.batch)
        self._cached_tokens = [0] * program.batch
        self._buffers: dict[tuple[str, int, int], _Buffers] = {}
        self._bound: dict[tuple[str, int, tuple[int, ...]], Callable[[], object]] = {}

    def logits(
        self, tokens: NDArray[np.int64], starts: Sequence[int], sequences: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """Logits `[rows, n, head_rows]` after each of the tokens; a view, valid until the next call."""
        logits: NDArray[np.float32] = self._advance("logits", tokens, starts, sequences)
        return logits

    def greedy(
        self, tokens: NDArray[np.int64], starts: Sequence[int], sequences: Sequence[int] | None = None
    ) -> NDArray[np.int64]:
        """The arg-max token `[rows, n]` after each of the tokens; a view, valid until the next call."""
        tokens_after: NDArray[np.int64] = self._advance("argmax", tokens, starts, sequences)
        return tokens_after

    def close(self) -> None:
        """Free the program and its caches; the session cannot be used afterwards, but closed again."""
        self._bound.clear()
        self._buffers.clear()
        self._caches.clear()
        self.__dict__.pop("_graphs", None)

    def _advance(
        self, output: str, tokens: NDArray[np.int64], starts: Sequence[int], sequences: Sequence[int] | None
    ) -> NDArray[Any]:
        """The named output of one call; each sequence's tokens become the end of what it has cached."""
        rows = tuple(range(self.program.batch) if sequences is None else sequences)
        if len(rows) not in self._files or len(set(rows)) < len(rows):
            known = ", ".join(map(str, self.program.batches))
            raise ValueError(f"sequences {rows} given at once: the program computes different ones, {known} of them")
        if not len(tokens) == len(starts) == len(rows):
            raise ValueError(f"tokens of {len(tokens)} rows and {len(starts)} starts given for {len(rows)} sequences")
        for row, start, sequence in zip(tokens, starts, rows, strict=True):
            check_span(self.program, self._cached_tokens[sequence], row, start)
        count = tokens.shape[1]
        buffers = self._buffers_for(output, len(rows), count)
        run = self._bound.get((output, count, rows)) or self._bind(output, count, rows, buffers)
        buffers.tokens[:] = tokens
        np.add(starts, count - 1, out=buffers.last_positions, casting="unsafe")
        run()
        for sequence, start in zip(rows, starts, strict=True):
            self._cached_tokens[sequence] = start + count
        return buffers.result

    def _buffers_for(self, output: str, rows: int, count: int) -> _Buffers:
        """The memory of calls with that many rows and tokens, kept unless they are many tokens."""
        kept = self._buffers.get((output, rows, count))
        if kept:
            return kept
        result: NDArray[Any] = (
            np.zeros((rows, count), np.int64)
            if output == "argmax"
            else np.zeros((rows, count, self.program.shape.head_rows), np.float32)
        )
        buffers = _Buffers(np.zeros((rows, count), np.int64), np.zeros(rows, np.int32), result)
        if count <= PIECE_TOKENS:
            self._buffers[output, rows, count] = buffers
        return buffers

    def _bind(self, output: str, count: int, rows: tuple[int, ...], buffers: _Buffers) -> Callable[[], object]:
        """The graph of that many sequences, bound to the caches of these."""
        inputs: dict[str, NDArray[Any]] = {
            "tokens": buffers.tokens,
            "seqlens_k": buffers.last_positions,
            # Attention takes each sequence's true length from its position.
            "total_sequence_length": self._capacity,
        }
        outputs = {output: buffers.result}
        for place, sequence in enumerate(rows):
            suffix = f".{place}" if len(rows) > 1 else ""
            for name, array in self._caches[sequence].items():
                inputs[f"past.{name}{suffix}"] = outputs[f"present.{name}{suffix}"] = array
        run = bind(self._graphs.open(self._files[len(rows)]), inputs, outputs)
        if count <= PIECE_TOKENS:
            if len(self._bound) >= _MOST_BOUND:
                self._bound.clear()
            self._bound[output, count, rows] = run
        return run


def _caches(session: onnxruntime.InferenceSession, batch: int) -> list[dict[str, NDArray[np.float32]]]:
    """Each sequence's keys and values, by the name that a graph for one sequence has for them."""
    shapes = {value.name: value.shape for value in session.get_inputs() if value.name.startswith("past.")}
    return [
        {
            name.removeprefix("past.").removesuffix(f".{sequence}"): np.zeros(shape, np.float32)
            for name, shape in shapes.items()
            if name.endswith(f".{sequence}")
        }
        for sequence in range(batch)
    ]
