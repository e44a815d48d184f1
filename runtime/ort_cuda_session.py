"""Runs a program compiled for ONNX Runtime on a GPU.

Weights, cache and every buffer are in device memory, allocated and bound once.  A call writes the tokens and the
position of the last one there, replays the CUDA graph captured for that many tokens, and fetches what is asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from autotune.errors import ArtifactError
from autotune.ort_weights import WeightsIndex
from autotune.program import Program
from autotune.runtime.ort_device import GPU, NOT_CAPTURED, Place, bind, load_provider, open_graph, upload_weights
from autotune.runtime.ort_session import MODEL_FILE, PIECE_TOKENS, WEIGHTS_FILE
from autotune.runtime.sampled_burst import draw_call_by_call
from autotune.runtime.session import SampledBurst, Tokens
from autotune.runtime.spans import check_span
from autotune.sampling import SamplingSettings

MOST_CAPTURED_TOKENS = 17
"""Calls of more tokens come from prompts, in all lengths, and take long enough not to need a graph of their own."""

_CACHE_TYPES = {"tensor(float16)": 10, "tensor(bfloat16)": 16}
"""Numbers of the types that a cache may have; both of two bytes."""
_CACHE_ITEM_BYTES = 2


@dataclass(frozen=True)
class _Bound:
    """The program bound to its buffers for one number of tokens n."""

    tokens: onnxruntime.OrtValue
    """`[1, n]`."""
    run: Callable[[], object]
    result: onnxruntime.OrtValue
    """What `run` writes: arg-max tokens `[1, n]` or logits `[1, n, head_rows]`."""


class OrtCudaSession:
    """One sequence's decoder on a GPU; see `autotune.runtime.session.Session`."""

    place: Place = GPU

    def __init__(self, folder: Path, program: Program, threads: int):
        """threads: of no use here; the host's one thread only starts what the GPU computes."""
        for name in (MODEL_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise ArtifactError(f"{folder} is incomplete: {name} is missing; compile the draft again")
        index = WeightsIndex.read(folder)
        if self.place is GPU:
            load_provider()
        self.program = program
        self.drafting = program.drafting
        self._weights = upload_weights(folder / WEIGHTS_FILE, index, self.place)
        self._session = open_graph(folder / MODEL_FILE, self.place, self._weights)
        self._last_position = self.place.holding(np.zeros(1, np.int32))
        self._capacity = onnxruntime.OrtValue.ortvalue_from_numpy(np.array(program.capacity_tokens, np.int32))
        self._cache = {
            value.name.removeprefix("past."): self.place.zeros(value.shape, _CACHE_TYPES[value.type], _CACHE_ITEM_BYTES)
            for value in self._session.get_inputs()
            if value.name.startswith("past.")
        }
        self._cached_tokens = 0
        self._kept: dict[tuple[str, int], _Bound] = {}
        self._graphs = 0
        """CUDA graphs numbered so far."""

    def logits(self, tokens: Tokens, start: int) -> NDArray[np.float32]:
        """Logits `[n, head_rows]` after each of the n tokens."""
        logits: NDArray[np.float32] = self._advance("logits", tokens, start)
        return logits

    def greedy(self, tokens: Tokens, start: int) -> NDArray[np.int64]:
        """The arg-max token `[n]` after each of the n tokens."""
        tokens_after: NDArray[np.int64] = self._advance("argmax", tokens, start)
        return tokens_after

    def burst(self, tokens: Tokens, start: int, count: int) -> list[int]:
        """`count` greedily drafted tokens; all but the last of them enter the cache behind the given ones."""
        check_span(self.program, self._cached_tokens, tokens, start, count)
        drafted = [int(self.greedy(tokens, start)[-1])]
        for position in range(start + len(tokens), start + len(tokens) + count - 1):
            drafted.append(int(self.greedy(drafted[-1:], position)[0]))
        return drafted

    def sampled_burst(
        self, tokens: Tokens, start: int, count: int, settings: SamplingSettings, noise: Sequence[float]
    ) -> SampledBurst:
        """`count` tokens drawn with these settings, each from one number of `noise`."""
        check_span(self.program, self._cached_tokens, tokens, start, count)
        return draw_call_by_call(self, tokens, start, count, settings, noise)

    def close(self) -> None:
        """Free the program and its cache; the session cannot be used afterwards, but closed again."""
        self._kept.clear()
        self._cache.clear()
        for name in ("_session", "_weights"):  # the session first: it reads the weights
            self.__dict__.pop(name, None)

    def _advance(self, output: str, tokens: Tokens, start: int) -> NDArray[Any]:
        """The named output of one call with these tokens at `start`, which become the end of the cached sequence."""
        check_span(self.program, self._cached_tokens, tokens, start)
        count = len(tokens)
        bound = self._bound(output, count)
        bound.tokens.update_inplace(np.array(tokens, np.int64)[None])
        self._last_position.update_inplace(np.array([start + count - 1], np.int32))
        bound.run()
        self._cached_tokens = start + count
        result: NDArray[Any] = bound.result.numpy()[0]
        return result

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
        tokens = self.place.holding(np.zeros((1, count), np.int64))
        result = self.place.holding(
            np.zeros((1, count), np.int64)
            if output == "argmax"
            else np.zeros((1, count, self.program.shape.head_rows), np.float32)
        )
        inputs = {
            "tokens": tokens,
            "seqlens_k": self._last_position,
            "total_sequence_length": self._capacity,
            **{f"past.{name}": value for name, value in self._cache.items()},
        }
        outputs = {output: result, **{f"present.{name}": value for name, value in self._cache.items()}}
        graph_id = NOT_CAPTURED
        if count <= MOST_CAPTURED_TOKENS:
            self._graphs += 1
            graph_id = self._graphs
        return _Bound(tokens, bind(self._session, inputs, outputs, graph_id), result)
