from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from autotune.candidate import DraftShape
from autotune.errors import BadRequest
from autotune.proxy.base import Axes, Preparation, prepare_estimator
from autotune.proxy.better import BetterOf
from autotune.proxy.prune import prepare_pruned
from autotune.traces import Traces
from autotune.weights import ModelWeights


@dataclass(eq=False)
class Fixed:
    """Gives the same weights whatever the shape, and counts how often it was asked."""

    given: ModelWeights
    name: str = "fixed"
    asked: list[DraftShape] = field(default_factory=list)

    def weights(self, shape: DraftShape) -> ModelWeights:
        self.asked.append(shape)
        return self.given


def broken(weights: ModelWeights, scale: float) -> ModelWeights:
    """The model with its head's rows reversed, or NaN: it agrees with its source nowhere."""
    return replace(weights, arrays={**weights.arrays, "head": np.array(weights.arrays["head"])[::-1] * scale})


@pytest.mark.parametrize("scale", [1.0, np.nan])
@pytest.mark.parametrize("trained_is_better", [True, False])
def test_the_draft_that_agrees_more_is_taken(
    source: ModelWeights, greedy_traces: Traces, trained_is_better: bool, scale: float
) -> None:
    good, bad = Fixed(source), Fixed(broken(source, scale))
    better = BetterOf(*((good, bad) if trained_is_better else (bad, good)), greedy_traces)
    assert better.weights(source.shape) is source
    assert better.weights(source.shape) is source
    assert (len(good.asked), len(bad.asked)) == (2, 1)  # judged once


def test_of_equal_drafts_the_trained_one_is_taken(source: ModelWeights, greedy_traces: Traces) -> None:
    trained, untrained = Fixed(source), Fixed(replace(source))
    assert BetterOf(trained, untrained, greedy_traces).weights(source.shape) is trained.given


def test_the_elastic_estimator_leaves_the_whole_source_at_least_as_good(
    source: ModelWeights, greedy_traces: Traces, axes: Axes, tmp_path: Path
) -> None:
    """The target itself, as a draft of its own, agrees everywhere; no short training can keep that."""
    preparation = Preparation(source, greedy_traces, axes, budget_s=0.005, folder=tmp_path)
    elastic, pruned = prepare_estimator("elastic", preparation), prepare_pruned(preparation)
    assert elastic.name == "elastic"
    kept, cut = elastic.weights(source.shape), pruned.weights(source.shape)
    assert all(np.array_equal(kept.arrays[name], cut.arrays[name]) for name in cut.arrays)
    with pytest.raises(BadRequest, match="layers"):
        elastic.weights(replace(source.shape, layers=source.shape.layers + 1))
