"""Bursts as one program of ONNX Runtime each: opened on first use, on the cache and the weights of the step program.

Programs of a burst map the weights file; what they pack of it for their steps is theirs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.ort_layout import Drawing, burst_file
from autotune.runtime.ort_draw import DrawBuffers
from autotune.runtime.ort_engine import Arrays, Graphs, bind
from autotune.runtime.session import Tokens


class Bursts:
    """The burst programs of a folder, by their kind and their number of steps."""

    def __init__(self, graphs: Graphs, caches: Arrays, buffers: DrawBuffers, longest: int, most_given: int):
        """caches: by name without `past.`; most_given: tokens that a burst may be given."""
        self._graphs = graphs
        self._caches = caches
        self._buffers = buffers
        self._given = np.zeros(most_given, np.int64)
        self._places = np.zeros(longest + 1, np.int32)
        """Positions of the tokens that the steps read, and the one behind them: also counts of what is cached then."""
        self._order = np.arange(longest + 1, dtype=np.int32)
        self._bound: dict[tuple[Drawing, int, int], Callable[[], object]] = {}

    def run(self, drawing: Drawing, tokens: Tokens, start: int, count: int) -> None:
        """Draft `count` tokens into the buffers, behind the given ones, which stand from `start` on."""
        given = len(tokens)
        run = self._bound.get((drawing, count, given))
        if run is None:
            run = self._bound[drawing, count, given] = self._bind(drawing, count, given)
        self._given[:given] = tokens
        np.add(self._order, start + given - 1, out=self._places)
        run()

    def _bind(self, drawing: Drawing, count: int, given: int) -> Callable[[], object]:
        steps = range(count)
        inputs: dict[str, NDArray[Any]] = {"tokens": self._given[None, :given]}
        outputs: dict[str, NDArray[Any]] = dict(self._buffers.outputs(drawing, steps))
        inputs |= self._buffers.inputs(drawing, steps)
        inputs |= {f"past.{name}": array for name, array in self._caches.items()}
        for step in steps:
            inputs[f"seqlens_k.{step}"] = self._places[step : step + 1]
            inputs[f"total_sequence_length.{step}"] = self._places[step + 1 : step + 2].reshape(())
            outputs |= {f"present.{name}.{step}": array for name, array in self._caches.items()}
        return bind(self._graphs.open(burst_file(drawing, count)), inputs, outputs)
