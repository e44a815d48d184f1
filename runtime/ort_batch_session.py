"""Runs a program compiled for ONNX Runtime that decodes several sequences at once, on the CPU.

As in `autotune.runtime.ort_session`, buffers are allocated and bound once, and caches are updated in place; each
sequence has its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.errors import ArtifactError
from autotune.ort_layout import MODEL_FILE, program_files
from autotune.program import Program
from autotune.runtime.ort_engine import bind, open_graph
from autotune.runtime.ort_session import PIECE_TOKENS
from autotune.runtime.spans import check_span


@dataclass(frozen=True)
class _Bound:
    """The program bound to its buffers for one number of tokens n."""

    run: Callable[[], object]
    tokens: NDArray[np.int64]
    """`[batch, n]`, which `run` reads."""
    result: NDArray[Any]
    """What `run` writes: arg-max tokens `[batch, n]` or logits `[batch, n, head_rows]`."""


class OrtBatchSession:
    """Decoders of several sequences on the CPU; see `autotune.runtime.session.BatchSession`."""

    def __init__(self, folder: Path, program: Program, threads: int):
        for name in program_files(0):
            if not (folder / name).is_file():
                raise ArtifactError(f"{folder} is incomplete: {name} is missing; compile the draft again")
        self.program = program
        self._session = open_graph(folder, MODEL_FILE, threads)
        self._last_positions = np.zeros(program.batch, np.int32)
        self._capacity = np.array(program.capacity_tokens, np.int32)
        self._cache = {
            value.name.removeprefix("past."): np.zeros(value.shape, np.float32)
            for value in self._session.get_inputs()
            if value.name.startswith("past.")
        }
        self._cached_tokens = [0] * program.batch
        self._kept: dict[tuple[str, int], _Bound] = {}

    def logits(self, tokens: NDArray[np.int64], starts: Sequence[int]) -> NDArray[np.float32]:
        """Logits `[batch, n, head_rows]` after each of the tokens; a view, valid until the next call."""
        logits: NDArray[np.float32] = self._advance("logits", tokens, starts)
        return logits

    def greedy(self, tokens: NDArray[np.int64], starts: Sequence[int]) -> NDArray[np.int64]:
        """The arg-max token `[batch, n]` after each of the tokens; a view, valid until the next call."""
        tokens_after: NDArray[np.int64] = self._advance("argmax", tokens, starts)
        return tokens_after

    def close(self) -> None:
        """Free the program and its caches; the session cannot be used afterwards, but closed again."""
        self._kept.clear()
        self._cache.clear()
        self.__dict__.pop("_session", None)

    def _advance(self, output: str, tokens: NDArray[np.int64], starts: Sequence[int]) -> NDArray[Any]:
        """The named output of one call; each sequence's tokens become the end of what it has cached."""
        if len(tokens) != self.program.batch or len(starts) != self.program.batch:
            raise ValueError(
                f"tokens of {len(tokens)} sequences and {len(starts)} starts given to a program for "
                f"{self.program.batch} sequences"
            )
        for row, start, cached_tokens in zip(tokens, starts, self._cached_tokens, strict=True):
            check_span(self.program, cached_tokens, row, start)
        count = tokens.shape[1]
        bound = self._bound(output, count)
        bound.tokens[:] = tokens
        np.add(starts, count - 1, out=self._last_positions, casting="unsafe")
        bound.run()
        self._cached_tokens = [start + count for start in starts]
        return bound.result

    def _bound(self, output: str, count: int) -> _Bound:
        """The program bound to write `output` for `count` tokens of each sequence."""
        kept = self._kept.get((output, count))
        if kept:
            return kept
        bound = self._bind(output, count)
        if count <= PIECE_TOKENS:
            self._kept[output, count] = bound
        return bound

    def _bind(self, output: str, count: int) -> _Bound:
        batch = self.program.batch
        tokens = np.zeros((batch, count), np.int64)
        result: NDArray[Any] = (
            np.zeros((batch, count), np.int64)
            if output == "argmax"
            else np.zeros((batch, count, self.program.shape.head_rows), np.float32)
        )
        inputs: dict[str, NDArray[Any]] = {
            "tokens": tokens,
            "seqlens_k": self._last_positions,
            # Attention takes each sequence's true length from its position.
            "total_sequence_length": self._capacity,
            **{f"past.{name}": array for name, array in self._cache.items()},
        }
        outputs = {output: result, **{f"present.{name}": array for name, array in self._cache.items()}}
        return _Bound(bind(self._session, inputs, outputs), tokens, result)
