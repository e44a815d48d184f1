"""Runs a program compiled for ONNX Runtime on a GPU.

Weights, cache and every buffer are in device memory, allocated and bound once.  A call writes the tokens and the
position of the last one there, replays the CUDA graph captured for that many tokens, and fetches what is asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from autotune.errors import ArtifactError
from autotune.ort_layout import MODEL_FILE, WEIGHTS_FILE, program_files
from autotune.ort_weights import WeightsIndex
from autotune.program import Drafting, Program
from autotune.runtime.ort_cuda_bursts import CudaBursts
from autotune.runtime.ort_device import GPU, NOT_CAPTURED, Given, Place, bind, load_provider, open_graph, upload_weights
from autotune.runtime.ort_session import MOST_GIVEN, PIECE_TOKENS
from autotune.runtime.sampled_burst import draw_call_by_call
from autotune.runtime.session import SampledBurst, StoppedBurst, Tokens
from autotune.runtime.spans import check_capacity, check_span
from autotune.runtime.stopping_burst import stop_call_by_call
from autotune.sampling import SamplingSettings
from autotune.stopping import StopRule

MOST_CAPTURED_TOKENS = 17
"""Calls of more tokens come from prompts, in all lengths, and take long enough not to need a graph of their own."""

_CACHE_TYPES = {"tensor(float16)": 10, "tensor(bfloat16)": 16}
"""Numbers of the types that a cache may have; both of two bytes."""
_CACHE_ITEM_BYTES = 2


@dataclass(frozen=True)
class _Bound:
    """The program bound to its buffers for one number of tokens n."""

    given: Given
    run: Callable[[], object]
    result: onnxruntime.OrtValue
    """What `run` writes: arg-max tokens `[1, n]` or logits `[1, n, head_rows]`."""


class OrtCudaSession:
    """One sequence's decoder on a GPU; see `autotune.runtime.session.Session`."""

    place: Place = GPU

    def __init__(self, folder: Path, program: Program, threads: int):
        """threads: of no use here; the host's one thread only starts what the GPU computes."""
        for name in program_files(program.longest_burst, program.device):
            if not (folder / name).is_file():
                raise ArtifactError(f"{folder} is incomplete: {name} is missing; compile the draft again")
        index = WeightsIndex.read(folder)
        if self.place is GPU:
            load_provider()
        self.program = program
        self.drafting = program.drafting
        self._folder, self._threads = folder, threads
        self._weights = upload_weights(folder / WEIGHTS_FILE, index, self.place)
        self._session = open_graph(folder / MODEL_FILE, self.place, self._weights)
        self._capacity = onnxruntime.OrtValue.ortvalue_from_numpy(np.array(program.capacity_tokens, np.int32))
        self._cache = {
            value.name.removeprefix("past."): self.place.zeros(value.shape, _CACHE_TYPES[value.type], _CACHE_ITEM_BYTES)
            for value in self._session.get_inputs()
            if value.name.startswith("past.")
        }
        self._bursts = CudaBursts(folder, program, self.place, self._weights, self._cache, self._capacity)
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
        if self._in_one_program(count):
            given, place = self._last_given(tokens, start)
            burst = self._bursts.greedy(given, place, count)
            self._cached_tokens = start + len(tokens) + count - 1
            return burst
        drafted = [int(self.greedy(tokens, start)[-1])]
        for position in range(start + len(tokens), start + len(tokens) + count - 1):
            drafted.append(int(self.greedy(drafted[-1:], position)[0]))
        return drafted

    def sampled_burst(
        self, tokens: Tokens, start: int, count: int, settings: SamplingSettings, noise: Sequence[float]
    ) -> SampledBurst:
        """`count` tokens drawn with these settings, each from one number of `noise`; valid until the next burst."""
        check_span(self.program, self._cached_tokens, tokens, start, count)
        filtered = 0 < settings.top_k < self.program.shape.head_rows or settings.top_p < 1.0
        if filtered or settings.greedy or not self._in_one_program(count):
            return draw_call_by_call(self, tokens, start, count, settings, noise)
        given, place = self._last_given(tokens, start)
        burst = self._bursts.sampled(given, place, count, settings.temperature, noise)
        self._cached_tokens = start + len(tokens) + count - 1
        return burst

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
        self._kept.clear()
        self._bursts.close()
        self.__dict__.pop("_session", None)
        self._cache.clear()
        self._weights = {}  # the sessions read them: they go first

    def _in_one_program(self, count: int) -> bool:
        return self.drafting is Drafting.BURST and count <= self.program.longest_burst

    def _last_given(self, tokens: Tokens, start: int) -> tuple[Tokens, int]:
        """The last few of the tokens, which a burst can be given, and their place; those before enter the cache."""
        spare = max(len(tokens) - MOST_GIVEN, 0)
        if spare:
            self.greedy(tokens[:spare], start)
        return tokens[spare:], start + spare

    def _advance(self, output: str, tokens: Tokens, start: int) -> NDArray[Any]:
        """The named output of one call with these tokens at `start`, which become the end of the cached sequence."""
        check_span(self.program, self._cached_tokens, tokens, start)
        count = len(tokens)
        bound = self._bound(output, count)
        bound.given.send(tokens, start + count - 1)
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
        given = Given(self.place, count, steps=1)
        result = self.place.holding(
            np.zeros((1, count), np.int64)
            if output == "argmax"
            else np.zeros((1, count, self.program.shape.head_rows), np.float32)
        )
        inputs = {
            "tokens": given.tokens,
            "seqlens_k": given.last_position(),
            "total_sequence_length": self._capacity,
            **{f"past.{name}": value for name, value in self._cache.items()},
        }
        outputs = {output: result, **{f"present.{name}": value for name, value in self._cache.items()}}
        graph_id = NOT_CAPTURED
        if count <= MOST_CAPTURED_TOKENS:
            self._graphs += 1
            graph_id = self._graphs
        return _Bound(given, bind(self._session, inputs, outputs, graph_id), result)
