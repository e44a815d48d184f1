"""What ONNX Runtime's drafting programs read and write beside the key/value cache, and the programs that only draw."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.ort_layout import MOST_NOISE, Drawing, sampler_file
from autotune.program import Program
from autotune.runtime.ort_engine import Arrays, Graphs, bind
from autotune.runtime.sampled_burst import over_vocabulary
from autotune.runtime.session import Probabilities, SampledBurst
from autotune.sampling import SamplingSettings

RANKED_ROWS = 256
"""Logits that top-p sorts at first: enough, mostly, and several times faster to find than the order of all."""
MOST_COLDNESS = 1e30


class DrawBuffers:
    """The memory that drawing programs are bound to; a burst of k tokens uses the first k places.  It never moves."""

    def __init__(self, program: Program):
        places = program.capacity_tokens + 1
        self._program = program
        self._rows = program.shape.head_rows
        self._coldness = np.zeros((), np.float32)
        self._ranked = np.zeros(1, np.int64)
        self._limited = np.zeros((), np.bool_)
        self._top_p = np.zeros((), np.float64)
        self._noise = np.zeros(places, np.float64)
        self._distributions: list[NDArray[np.float32]] = []
        self.tokens = np.zeros(places, np.int64)
        self.probabilities = np.zeros(places, np.float32)

    def set(self, settings: SamplingSettings, noise: Sequence[float]) -> Drawing:
        """Write what the programs need to know; returns the kind that draws so."""
        self._coldness[()] = min(1 / settings.temperature, MOST_COLDNESS)
        np.minimum(noise, MOST_NOISE, out=self._noise[: len(noise)])
        limited = 0 < settings.top_k < self._rows
        if not limited and settings.top_p >= 1.0:
            return Drawing.TEMPERATURE
        self._ranked[0] = settings.top_k if limited else min(RANKED_ROWS, self._rows)
        self._limited[()] = limited
        self._top_p[()] = settings.top_p
        return Drawing.FILTERED

    def inputs(self, drawing: Drawing, places: Sequence[int]) -> Arrays:
        """The graph inputs of programs that draw at these places of the burst, step by step."""
        if drawing is Drawing.GREEDY:
            return {}
        noise = {f"noise.{step}": self._noise[place : place + 1].reshape(()) for step, place in enumerate(places)}
        filters = {"ranked": self._ranked, "limited": self._limited, "top_p": self._top_p}
        return {"coldness": self._coldness, **noise, **(filters if drawing is Drawing.FILTERED else {})}

    def outputs(self, drawing: Drawing, places: Sequence[int]) -> Arrays:
        """The graph outputs of programs that draw at these places of the burst, step by step."""
        outputs: dict[str, NDArray[Any]] = {}
        for step, place in enumerate(places):
            outputs[f"token.{step}"] = self.tokens[place : place + 1].reshape(1, 1)
            if drawing is not Drawing.GREEDY:
                outputs[f"probability.{step}"] = self.probabilities[place : place + 1].reshape(1, 1, 1)
                outputs[f"distribution.{step}"] = self._distribution(place).reshape(1, 1, -1)
        return outputs

    def drafted(self, count: int) -> list[int]:
        """The last burst's tokens."""
        tokens: list[int] = self.tokens[:count].tolist()
        return tokens

    def drawn(self, count: int) -> SampledBurst:
        """The burst of that many tokens that was drawn last; its distributions are read when they are asked for."""

        def distribution(place: int) -> Probabilities:
            return over_vocabulary(self._program, self._distribution(range(count)[place]).astype(np.float64))

        return SampledBurst(self.drafted(count), self.probabilities[:count].tolist(), distribution)

    def confidence(self, place: int) -> float:
        """The largest probability of what the token at that place is drawn from."""
        return float(self._distribution(place).max())

    def _distribution(self, place: int) -> NDArray[np.float32]:
        """`[head_rows]` what the token at that place is drawn from."""
        while len(self._distributions) <= place:
            self._distributions.append(np.zeros(self._rows, np.float32))
        return self._distributions[place]


class Samplers:
    """Draws tokens from logits by programs without a model, opened when they are first needed."""

    def __init__(self, graphs: Graphs, buffers: DrawBuffers):
        self._graphs = graphs
        self._buffers = buffers
        self._bound: dict[tuple[Drawing, int, int], Callable[[], object]] = {}

    def draw(self, drawing: Drawing, logits: NDArray[np.float32], place: int) -> None:
        """Draw the burst's token at that place.  logits: `[1, head_rows]`, always the same few arrays."""
        key = (drawing, logits.ctypes.data, place)
        run = self._bound.get(key)
        if run is None:
            run = self._bound[key] = self._bind(drawing, logits, place)
        run()

    def _bind(self, drawing: Drawing, logits: NDArray[np.float32], place: int) -> Callable[[], object]:
        # One thread: the work is less than what it costs to share it out.
        session = self._graphs.open(sampler_file(drawing), threads=1)
        inputs = {"logits": logits[None], **self._buffers.inputs(drawing, [place])}
        return bind(session, inputs, self._buffers.outputs(drawing, [place]))
