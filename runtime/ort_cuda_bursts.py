"""Bursts on a GPU: one program of ONNX Runtime for every number of steps, opened on first use.

All programs read the same weights and write the same key/value cache, both in device memory.  A burst is one call, of
one captured CUDA graph: no token leaves the device before the last is drafted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, OrtValue

from autotune.ort_layout import MOST_NOISE, Drawing, burst_file
from autotune.program import Program
from autotune.runtime.ort_device import Given, Part, Place, bind, open_graph
from autotune.runtime.ort_draw import MOST_COLDNESS
from autotune.runtime.sampled_burst import over_vocabulary
from autotune.runtime.session import Probabilities, SampledBurst, Tokens

Values = Mapping[str, OrtValue]


@dataclass(frozen=True)
class _Bound:
    """A burst program bound to its buffers for one number of steps k and of given tokens n."""

    given: Given
    run: Callable[[], object]


class CudaBursts:
    """The burst programs of a folder, by their kind and their number of steps."""

    def __init__(
        self, folder: Path, program: Program, place: Place, weights: Values, caches: Values, capacity: OrtValue
    ):
        """weights and caches: by name; capacity: of the caches, in host memory."""
        self._folder = folder
        self._program = program
        self._place = place
        self._weights = weights
        self._caches = caches
        self._capacity = capacity
        longest = max(program.longest_burst, 1)  # no tensor is empty
        self._tokens = place.holding(np.zeros(longest, np.int64))
        self._coldness = place.holding(np.zeros((), np.float32))
        self._noise = place.holding(np.zeros(longest, np.float64))
        self._probabilities = place.holding(np.zeros(longest, np.float32))
        self._distributions: list[OrtValue] = []
        self._sessions: dict[tuple[Drawing, int], InferenceSession] = {}
        self._bound: dict[tuple[Drawing, int, int], _Bound] = {}

    def greedy(self, tokens: Tokens, start: int, count: int) -> list[int]:
        """`count` tokens drafted greedily behind the given ones, which stand from `start` on."""
        return self._run(Drawing.GREEDY, tokens, start, count)

    def sampled(
        self, tokens: Tokens, start: int, count: int, temperature: float, noise: Sequence[float]
    ) -> SampledBurst:
        """As `greedy`, but drawn at that temperature, each token from one number of `noise`; valid until the next."""
        self._coldness.update_inplace(np.array(min(1 / temperature, MOST_COLDNESS), np.float32))
        padded = np.zeros(self._program.longest_burst)  # whole: an update replaces all of a tensor
        np.minimum(noise[:count], MOST_NOISE, out=padded[:count])
        self._noise.update_inplace(padded)
        drafted = self._run(Drawing.TEMPERATURE, tokens, start, count)

        def distribution(place: int) -> Probabilities:
            rows: NDArray[np.float32] = self._distributions[range(count)[place]].numpy()
            return over_vocabulary(self._program, rows[0, 0].astype(np.float64))

        return SampledBurst(drafted, self._probabilities.numpy()[:count].tolist(), distribution)

    def close(self) -> None:
        """Free the programs; weights and cache are another's."""
        self._bound.clear()
        self._sessions.clear()

    def _run(self, drawing: Drawing, tokens: Tokens, start: int, count: int) -> list[int]:
        given = len(tokens)
        bound = self._bound.get((drawing, count, given))
        if bound is None:
            bound = self._bound[drawing, count, given] = self._bind(drawing, count, given)
        bound.given.send(tokens, start + given - 1)
        bound.run()
        drafted: list[int] = self._tokens.numpy()[:count].tolist()
        return drafted

    def _bind(self, drawing: Drawing, count: int, tokens: int) -> _Bound:
        if (drawing, count) not in self._sessions:
            path = self._folder / burst_file(drawing, count)
            self._sessions[drawing, count] = open_graph(path, self._place, self._weights)
        given = Given(self._place, tokens, steps=count)
        inputs: dict[str, OrtValue | Part] = {"tokens": given.tokens}
        inputs |= {f"past.{name}": value for name, value in self._caches.items()}
        outputs: dict[str, OrtValue | Part] = {}
        for step in range(count):
            inputs[f"seqlens_k.{step}"] = given.last_position(step)
            inputs[f"total_sequence_length.{step}"] = self._capacity
            outputs[f"token.{step}"] = self._part(self._tokens, step, np.int64, (1, 1))
            outputs |= {f"present.{name}.{step}": value for name, value in self._caches.items()}
        if drawing is Drawing.TEMPERATURE:
            inputs["coldness"] = self._coldness
            for step in range(count):
                inputs[f"noise.{step}"] = self._part(self._noise, step, np.float64, ())
                outputs[f"probability.{step}"] = self._part(self._probabilities, step, np.float32, (1, 1, 1))
                outputs[f"distribution.{step}"] = self._distribution(step)
        # Graph 0 has a meaning of its own; each number of given tokens is a graph of the session.
        return _Bound(given, bind(self._sessions[drawing, count], inputs, outputs, graph_id=tokens))

    def _part(self, whole: OrtValue, step: int, dtype: type[np.generic], shape: tuple[int, ...]) -> Part:
        """The element of a step."""
        return Part(whole, self._place, step * np.dtype(dtype).itemsize, dtype, shape)

    def _distribution(self, step: int) -> OrtValue:
        """`[1, 1, head_rows]` what the token of that step is drawn from."""
        while len(self._distributions) <= step:
            rows = np.zeros((1, 1, self._program.shape.head_rows), np.float32)
            self._distributions.append(self._place.holding(rows))
        return self._distributions[step]
