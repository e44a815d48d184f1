from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.errors import BadRequest
from autotune.proxy.criteria import calibrate
from autotune.proxy.finish import finish
from autotune.proxy.holdout import split_held_out
from autotune.proxy.prune import PrunedEstimator, calibration_sequences
from autotune.proxy.score_traces import acceptance_of
from autotune.proxy.training import Recipe
from autotune.traces import Traces
from autotune.weights import ModelWeights, trimmed
from tests.support.objectives import diverging

RECIPE = Recipe(learning_rate=1e-2, batch_tokens=128, warmup_steps=4, checkpoint_steps=5)


@pytest.fixture(scope="module")
def draft(source: ModelWeights, greedy_traces: Traces) -> ModelWeights:
    importance = calibrate(source, calibration_sequences(greedy_traces))
    return PrunedEstimator(source, importance).weights(replace(source.shape, layers=1))


def mean_acceptance(weights: ModelWeights, traces: Traces) -> float:
    return float(np.concatenate(acceptance_of(weights, traces)).mean())


def test_a_better_draft_is_kept(draft: ModelWeights, greedy_traces: Traces) -> None:
    shares: list[float] = []
    # One text serves to learn and to judge, so the draft is sure to improve.
    one_text = replace(greedy_traces, items=greedy_traces.items[:1])
    finished = finish(draft, one_text, 0.005, recipe=RECIPE, on_progress=shares.append)
    assert finished.improved
    assert finished.after > finished.before
    assert mean_acceptance(finished.weights, one_text) == pytest.approx(finished.after)
    assert shares[-1] == 1.0
    assert shares == sorted(shares)


def test_a_worse_draft_is_thrown_away(source: ModelWeights, greedy_traces: Traces) -> None:
    """The source is the target itself here: training with a reckless rate can only harm."""
    finished = finish(source, greedy_traces, 0.002, recipe=replace(RECIPE, learning_rate=1.0))
    assert finished.before == 1.0
    assert finished.after < 1.0
    assert not finished.improved
    assert finished.weights is source


def test_the_same_seed_gives_the_same_draft(draft: ModelWeights, greedy_traces: Traces) -> None:
    one, other = (finish(draft, greedy_traces, 0.002, seed=4, recipe=RECIPE) for _ in range(2))
    assert one.after == other.after
    assert all(np.array_equal(one.weights.arrays[name], other.weights.arrays[name]) for name in draft.arrays)


def test_both_are_judged_on_held_out_traces(draft: ModelWeights, greedy_traces: Traces) -> None:
    _, judged = split_held_out(greedy_traces)
    assert finish(draft, greedy_traces, 0.002, recipe=RECIPE).before == mean_acceptance(draft, judged)


def test_divergence_leaves_the_draft_as_it_was(
    draft: ModelWeights, greedy_traces: Traces, caplog: pytest.LogCaptureFixture
) -> None:
    finished = finish(draft, greedy_traces, 0.002, recipe=replace(RECIPE, learning_rate=1e30))
    assert finished.weights is draft
    assert finished.before == finished.after
    assert "the finish changed nothing" in caplog.text


def test_a_finish_below_one_step_is_refused(draft: ModelWeights, greedy_traces: Traces) -> None:
    with pytest.raises(BadRequest, match="less than one training step: give at least"):
        finish(draft, greedy_traces, 1e-7)


def test_a_draft_that_ships_trimmed_is_judged_trimmed_and_returned_whole(
    draft: ModelWeights, greedy_traces: Traces
) -> None:
    written = np.concatenate([trace.continuation for trace in greedy_traces.items])
    token_ids = np.sort(np.argsort(-np.bincount(written, minlength=draft.shape.vocab))[:6])
    one_text = replace(greedy_traces, items=greedy_traces.items[:1])
    finished = finish(draft, one_text, 0.005, token_ids=token_ids, recipe=RECIPE)
    assert finished.weights.shape == draft.shape
    assert finished.before == mean_acceptance(trimmed(draft, token_ids), one_text)
    better = finished.weights if finished.improved else draft
    assert max(finished.before, finished.after) == mean_acceptance(trimmed(better, token_ids), one_text)


def test_a_trimmed_head_is_not_trained(draft: ModelWeights, greedy_traces: Traces) -> None:
    with pytest.raises(ValueError, match="a trimmed head cannot be trained"):
        finish(trimmed(draft, np.arange(8)), greedy_traces, 0.002, recipe=RECIPE)


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_halfway(share: float) -> None:
    if share > 0.5:
        raise Killed


def test_a_killed_finish_goes_on_to_the_same_draft_and_leaves_nothing(
    draft: ModelWeights, greedy_traces: Traces, tmp_path: Path
) -> None:
    whole = finish(draft, greedy_traces, 0.004, recipe=RECIPE)
    with pytest.raises(Killed):
        finish(draft, greedy_traces, 0.004, recipe=RECIPE, checkpoints=tmp_path, on_progress=kill_halfway)
    shares: list[float] = []
    again = finish(draft, greedy_traces, 0.004, recipe=RECIPE, checkpoints=tmp_path, on_progress=shares.append)
    assert shares[0] > 0.4
    assert again.after == whole.after
    for name, expected in whole.weights.arrays.items():
        np.testing.assert_array_equal(again.weights.arrays[name], expected, err_msg=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["draft", "traces", "seed", "budget"])
def test_a_finish_never_takes_up_another_ones_start(
    draft: ModelWeights, greedy_traces: Traces, tmp_path: Path, change: str
) -> None:
    with pytest.raises(Killed):
        finish(draft, greedy_traces, 0.004, recipe=RECIPE, checkpoints=tmp_path, on_progress=kill_halfway)
    arrays = {name: array * np.float32(1.01) for name, array in draft.arrays.items()}
    draft = replace(draft, arrays=arrays) if change == "draft" else draft
    traces = replace(greedy_traces, items=greedy_traces.items[:-1]) if change == "traces" else greedy_traces
    shares: list[float] = []
    finish(
        draft,
        traces,
        0.005 if change == "budget" else 0.004,
        seed=int(change == "seed"),
        recipe=RECIPE,
        checkpoints=tmp_path,
        on_progress=shares.append,
    )
    assert shares[0] < 0.1


def test_a_finish_that_diverges_later_keeps_its_last_good_weights_and_says_so(
    draft: ModelWeights, greedy_traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_text = replace(greedy_traces, items=greedy_traces.items[:1])
    monkeypatch.setattr("autotune.proxy.finish.whole_objective", lambda *these: diverging(*these[:2], {"step": 12}))
    notes: list[str] = []
    finished = finish(draft, one_text, 0.005, recipe=RECIPE, on_note=notes.append)
    (note,) = notes
    assert note.startswith("the training loss became NaN or infinite at step 12 of ")
    assert note.endswith("the last good weights, of step 10, are kept")
    assert all(np.isfinite(array).all() for array in finished.weights.arrays.values())
    assert finished.improved
