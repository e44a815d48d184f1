"""The better of two drafts of a shape: training repairs what pruning broke, but wears what it left whole.

A draft that lacks little of its source, which may be the target itself, agrees with the target more often as it was cut
than after a training that many shapes shared; one that lacks much is of no use without it.  Which is which is found by
trying both on training traces that were held out.
"""

from dataclasses import replace

from autotune.candidate import DraftShape
from autotune.proxy.base import Estimator
from autotune.proxy.holdout import split_held_out
from autotune.proxy.score_traces import NotANumber, mean_acceptance
from autotune.traces import Traces
from autotune.weights import ModelWeights

JUDGED_TRACES = 32
"""Held-out traces that a choice rests on: about two thousand tokens tell drafts apart that differ by 3 %."""


class BetterOf:
    """Of a trained and an untrained estimator's drafts, shape by shape, the one that the target agrees with more."""

    def __init__(self, trained: Estimator, untrained: Estimator, traces: Traces, threads: int = 1) -> None:
        self.name = trained.name
        self.trained = trained
        self.untrained = untrained
        _, judged = split_held_out(traces)
        self._judged = replace(judged, items=judged.items[:JUDGED_TRACES])
        self._threads = threads
        self._chosen: dict[DraftShape, Estimator] = {}

    def weights(self, shape: DraftShape) -> ModelWeights:
        """The better draft of this shape; BadRequest if it does not fit into the source."""
        if shape in self._chosen:
            return self._chosen[shape].weights(shape)
        drafts = {estimator: estimator.weights(shape) for estimator in (self.trained, self.untrained)}
        self._chosen[shape] = max(drafts, key=lambda estimator: self._agreement(drafts[estimator]))
        return drafts[self._chosen[shape]]

    def _agreement(self, draft: ModelWeights) -> float:
        """Mean acceptance probability of a drafted token on the judged traces; -1 where the draft yields NaN."""
        try:
            return mean_acceptance(draft, self._judged, self._threads)
        except NotANumber:
            return -1.0
