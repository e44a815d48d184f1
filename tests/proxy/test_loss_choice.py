from dataclasses import replace

import numpy as np
import pytest

from autotune.alternatives import Alternatives
from autotune.config import make_config
from autotune.errors import BadRequest
from autotune.proxy.batches import Batches
from autotune.proxy.loss_choice import BEST_LOSS, Loss
from autotune.sampling import SamplingSettings
from autotune.traces import Trace

BARE = Trace(
    np.array([1, 2], np.int32),
    np.array([3, 4], np.int32),
    np.zeros(2, np.float32),
    np.array([-1, 2, 3, 4], np.int32),
    "code",
)
TAUGHT = replace(
    BARE, alternatives=Alternatives(np.array([0, 1, 1, 1], np.int32), BARE.top[1:], BARE.logprobs[[0] * 3])
)


@pytest.mark.parametrize(("temperature", "kind"), [(0.0, "greedy"), (0.7, "sampled")])
def test_the_best_loss_is_that_of_the_kind_of_workload(temperature: float, kind: str) -> None:
    settings = SamplingSettings(temperature)
    assert Batches([TAUGHT, TAUGHT], settings, 64, 0).at(0).loss is BEST_LOSS[kind]
    assert Batches([TAUGHT, TAUGHT], settings, 64, 0, loss=Loss.TV).at(0).loss is Loss.TV


def test_without_alternatives_it_is_cross_entropy() -> None:
    assert Batches([BARE], SamplingSettings(0.7), 64, 0).at(0).loss is Loss.CE


def test_drawn_tokens_alone_are_not_taken_for_certain_by_default() -> None:
    assert Batches([BARE, TAUGHT], SamplingSettings(0.7), 64, 0).at(0).loss is Loss.KL


def test_a_step_counts_the_positions_its_loss_learns_from() -> None:
    """Of this sampled text two tokens were drawn; what the target would have put into the prompt is known too."""
    counts = {loss: Batches([TAUGHT], SamplingSettings(0.7), 64, 0, loss=loss).positions_at(0) for loss in Loss}
    assert counts == {loss: 2 if loss is Loss.CE else 3 for loss in Loss}


def test_a_run_names_its_loss_or_leaves_the_choice() -> None:
    assert make_config({}).chosen_loss is None
    assert [make_config({"loss": loss.value}).chosen_loss for loss in Loss] == list(Loss)
    with pytest.raises(BadRequest, match="--loss mse: choose from: auto, ce, kl, "):
        make_config({"loss": "mse"})
