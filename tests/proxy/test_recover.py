"""Drafts that are trained one by one: pruned first (`recovered`), or by learned masks (`learned-mask`)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.proxy.base import Estimator, Preparation
from autotune.proxy.holdout import split_held_out
from autotune.proxy.learned_mask import LearnedMaskEstimator, MaskRecipe
from autotune.proxy.prune import prepare_pruned
from autotune.proxy.recover import RecoveredEstimator
from autotune.proxy.training import Recipe
from autotune.traces import Traces
from autotune.weights import ModelWeights
from tests.proxy.conftest import SOURCE_SHAPE
from tests.proxy.test_finish import mean_acceptance
from tests.proxy.test_styles import axes_of, traces_of
from tests.support.models import STYLED, styled_weights

RECIPE = Recipe(learning_rate=1e-2, batch_tokens=128, warmup_steps=4, checkpoint_steps=3)
MASKS = MaskRecipe(weights=replace(RECIPE, learning_rate=3e-3), draft=RECIPE, masked_share=0.5)
STEPS = 20
SHAPE = replace(SOURCE_SHAPE, layers=1, ffn=16)

Prepare = Callable[[Preparation], Estimator]
PREPARE: dict[str, Prepare] = {
    "recovered": lambda preparation: RecoveredEstimator(preparation, RECIPE),
    "learned-mask": lambda preparation: LearnedMaskEstimator(preparation, MASKS),
}


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def preparation(source: ModelWeights, greedy_traces: Traces, tmp_path: Path) -> Preparation:
    folder = tmp_path / "proxies"
    axes = axes_of(source.shape)
    return Preparation(source, greedy_traces, axes, 0.0, folder, candidate_tokens=STEPS * RECIPE.batch_tokens)


def assert_equal(one: ModelWeights, other: ModelWeights) -> None:
    assert one.shape == other.shape
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(other.arrays[name], array, err_msg=name)


@pytest.mark.parametrize("name", PREPARE)
@pytest.mark.parametrize("style", STYLED)
def test_drafts_of_every_style_have_the_asked_shape(name: str, style: str, tmp_path: Path) -> None:
    source = styled_weights(style)
    whole = source.shape
    group = max(whole.heads // whole.kv_heads // 2, 1)
    kv_heads = max(whole.kv_heads // 2, 1)
    shape = replace(
        whole, layers=1, heads=kv_heads * group, kv_heads=kv_heads, ffn=whole.ffn // 2, hidden=whole.hidden // 2
    )
    preparation = Preparation(source, traces_of(source), axes_of(whole), 0.0, tmp_path, candidate_tokens=4 * 128)
    draft = PREPARE[name](preparation).weights(shape)
    assert draft.shape == shape
    assert all(np.isfinite(array).all() for array in draft.arrays.values())


@pytest.mark.parametrize("name", PREPARE)
def test_a_kept_draft_is_the_trained_one_and_is_not_trained_again(
    name: str, preparation: Preparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    estimator = PREPARE[name](replace(preparation, on_phase=told.append))
    first = estimator.weights(SHAPE)
    assert told[-1] == f"Recovering {SHAPE}"
    elsewhere = PREPARE[name](replace(preparation, folder=preparation.folder / "elsewhere")).weights(SHAPE)
    assert_equal(elsewhere, first)  # the same seed gives the same draft
    monkeypatch.setattr("autotune.proxy.training_job.train", lambda *_, **__: pytest.fail("trained again"))
    told.clear()
    assert_equal(estimator.weights(SHAPE), first)
    assert_equal(PREPARE[name](preparation).weights(SHAPE), first)
    assert not told
    assert not list(preparation.folder.glob("*-work"))


@pytest.mark.parametrize("name", PREPARE)
def test_another_shape_or_seed_is_another_draft(name: str, preparation: Preparation) -> None:
    longer = replace(preparation, candidate_tokens=60 * RECIPE.batch_tokens)  # so that what is trained is kept
    draft = PREPARE[name](longer).weights(SHAPE)
    assert PREPARE[name](longer).weights(replace(SHAPE, ffn=8)).shape.ffn == 8
    other = replace(longer, seed=1, folder=preparation.folder / "other")
    assert not np.array_equal(PREPARE[name](other).weights(SHAPE).arrays["head"], draft.arrays["head"])


@pytest.mark.parametrize("name", PREPARE)
@pytest.mark.parametrize("killed_at", [2, 8, 13])
def test_a_killed_training_continues_to_the_same_draft(name: str, killed_at: int, preparation: Preparation) -> None:
    whole = PREPARE[name](replace(preparation, folder=preparation.folder / "whole")).weights(SHAPE)
    calls = 0

    def on_progress(_: float) -> None:
        nonlocal calls
        calls += 1
        if calls == killed_at:
            raise Killed

    with pytest.raises(Killed):
        PREPARE[name](replace(preparation, on_progress=on_progress)).weights(SHAPE)
    assert_equal(PREPARE[name](preparation).weights(SHAPE), whole)


def test_training_helps_and_harm_is_thrown_away(preparation: Preparation) -> None:
    _, judged = split_held_out(preparation.traces)
    pruned = prepare_pruned(preparation).weights(SHAPE)
    longer = replace(preparation, candidate_tokens=150 * RECIPE.batch_tokens)
    recovered = RecoveredEstimator(longer, RECIPE).weights(SHAPE)
    assert mean_acceptance(recovered, preparation.traces) > mean_acceptance(pruned, preparation.traces) + 0.1
    reckless = RecoveredEstimator(
        replace(preparation, folder=preparation.folder / "reckless"), replace(RECIPE, learning_rate=1.0)
    )
    kept = reckless.weights(SHAPE)
    assert mean_acceptance(kept, judged) >= mean_acceptance(pruned, judged)


@pytest.mark.parametrize("name", PREPARE)
def test_a_training_that_diverges_leaves_the_draft_as_it_was(name: str, preparation: Preparation) -> None:
    notes: list[str] = []
    preparation = replace(preparation, on_note=notes.append)
    wild = replace(RECIPE, learning_rate=1e30)
    estimators: dict[str, Estimator] = {
        "recovered": RecoveredEstimator(preparation, wild),
        "learned-mask": LearnedMaskEstimator(preparation, replace(MASKS, weights=wild, draft=wild)),
    }
    draft = estimators[name].weights(SHAPE)
    assert all(np.isfinite(array).all() for array in draft.arrays.values())
    assert f"the recovery of {SHAPE} changed nothing" in notes[-1]
    assert any(f"masks for {SHAPE} were not learned" in note for note in notes) == (name == "learned-mask")
