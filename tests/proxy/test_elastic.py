from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import BadRequest, TrainingDiverged
from autotune.proxy.base import Axes, Preparation
from autotune.proxy.elastic import ELASTIC_RECIPE, ElasticSettings, ElasticSource, train_elastic, trained_source
from autotune.proxy.parts import budget_s, budget_tokens, draw_part, mean_parameters
from autotune.proxy.score_traces import acceptance_of
from autotune.proxy.training import Recipe
from autotune.traces import Traces
from autotune.weights import ModelWeights
from tests.support.disks import largest_file_bytes
from tests.support.objectives import diverging

RECIPE = Recipe(learning_rate=1e-2, batch_tokens=128, warmup_steps=4, checkpoint_steps=5)
SETTINGS = ElasticSettings(tokens=100 * 128, recipe=RECIPE)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def trained(
    source: ModelWeights, greedy_traces: Traces, axes: Axes, tmp_path_factory: pytest.TempPathFactory
) -> ElasticSource:
    return train_elastic(source, greedy_traces, axes, SETTINGS, tmp_path_factory.mktemp("work"))


def agreement(weights: ModelWeights, traces: Traces) -> float:
    return float(np.concatenate(acceptance_of(weights, traces)).mean())


def test_training_teaches_every_depth(
    trained: ElasticSource, source: ModelWeights, greedy_traces: Traces, axes: Axes, tmp_path: Path
) -> None:
    one_step = replace(SETTINGS, tokens=RECIPE.batch_tokens)
    untrained = train_elastic(source, greedy_traces, axes, one_step, tmp_path)
    for layers in (1, 2):
        shape = replace(source.shape, layers=layers)
        before, after = (agreement(elastic.weights(shape), greedy_traces) for elastic in (untrained, trained))
        assert after > before + 0.1, (layers, before, after)
    assert trained.report.tokens == SETTINGS.tokens
    assert trained.report.diverged_at_step is None


def test_shapes_between_those_that_were_trained_are_learned_too(
    source: ModelWeights, greedy_traces: Traces, tmp_path: Path
) -> None:
    coarse = Axes(layers=(1, 3), heads=((1, 1), (4, 2)), ffn=(8, 24), hidden=(8, 16))
    unseen = replace(source.shape, layers=2, heads=2, kv_heads=1, ffn=15, hidden=13)
    one_step = replace(SETTINGS, tokens=RECIPE.batch_tokens)
    before = train_elastic(source, greedy_traces, coarse, one_step, tmp_path / "a").weights(unseen)
    after = train_elastic(source, greedy_traces, coarse, SETTINGS, tmp_path / "b").weights(unseen)
    assert agreement(after, greedy_traces) > agreement(before, greedy_traces) + 0.1


def test_sampled_workloads_are_learned_too(
    source: ModelWeights, sampled_traces: Traces, axes: Axes, tmp_path: Path
) -> None:
    shape = replace(source.shape, layers=1)
    one_step = replace(SETTINGS, tokens=RECIPE.batch_tokens)
    before = train_elastic(source, sampled_traces, axes, one_step, tmp_path / "a").weights(shape)
    after = train_elastic(source, sampled_traces, axes, SETTINGS, tmp_path / "b").weights(shape)
    assert agreement(after, sampled_traces) > agreement(before, sampled_traces) + 0.05


def test_a_killed_training_continues_to_the_same_source(
    trained: ElasticSource, source: ModelWeights, greedy_traces: Traces, axes: Axes, tmp_path: Path
) -> None:
    def on_progress(share: float) -> None:
        if share > 0.5:
            raise Killed

    with pytest.raises(Killed):
        train_elastic(source, greedy_traces, axes, SETTINGS, tmp_path, on_progress)
    continued = train_elastic(source, greedy_traces, axes, SETTINGS, tmp_path)
    for name, array in trained.ordered.arrays.items():
        np.testing.assert_array_equal(continued.ordered.arrays[name], array, err_msg=name)


def test_the_source_is_left_alone(trained: ElasticSource, source: ModelWeights) -> None:
    assert not np.array_equal(np.sort(trained.ordered.arrays["norm"]), np.sort(source.arrays["norm"]))
    assert source.arrays["norm"].min() >= 0.5  # as it was made


def test_what_was_saved_is_loaded(trained: ElasticSource, source: ModelWeights, tmp_path: Path) -> None:
    trained.save(tmp_path)
    loaded = ElasticSource.load(tmp_path)
    shape = replace(source.shape, layers=2, ffn=8)
    assert loaded.report == trained.report
    for name, array in trained.weights(shape).arrays.items():
        np.testing.assert_array_equal(loaded.weights(shape).arrays[name], array)


def test_a_budget_below_one_step_is_refused_with_the_least(
    source: ModelWeights, greedy_traces: Traces, axes: Axes, tmp_path: Path
) -> None:
    with pytest.raises(BadRequest, match=r"less than one training step: give at least \d\S* s"):
        train_elastic(source, greedy_traces, axes, replace(SETTINGS, tokens=RECIPE.batch_tokens - 1), tmp_path)


def test_the_least_budget_named_is_enough(source: ModelWeights, axes: Axes) -> None:
    parameters = mean_parameters(source.shape, axes)
    named = float(f"{budget_s(ELASTIC_RECIPE.batch_tokens, parameters) * 1.1:.2g}")
    assert budget_tokens(named, parameters) >= ELASTIC_RECIPE.batch_tokens


@pytest.mark.parametrize("change", [{"layers": (1, 4)}, {"heads": ((3, 3),)}, {"ffn": ()}, {"hidden": (32,)}])
def test_axes_that_do_not_fit_are_refused(
    source: ModelWeights, greedy_traces: Traces, axes: Axes, change: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    with pytest.raises(BadRequest):
        train_elastic(source, greedy_traces, replace(axes, **change), SETTINGS, tmp_path)


def test_a_poisoned_source_diverges(source: ModelWeights, greedy_traces: Traces, axes: Axes, tmp_path: Path) -> None:
    arrays = {name: array.copy() for name, array in source.arrays.items()}
    arrays["layers.2.ffn.down"][:] = np.nan  # all of it: the last layer is in every sub-network
    with pytest.raises(TrainingDiverged, match="step 0 of"):
        train_elastic(replace(source, arrays=arrays), greedy_traces, axes, SETTINGS, tmp_path)


def test_a_prepared_source_is_kept(
    source: ModelWeights, greedy_traces: Traces, axes: Axes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparation = Preparation(source, greedy_traces, axes, budget_s=0.005, folder=tmp_path / "key")
    first = trained_source(preparation)
    assert sorted(path.name for path in (tmp_path / "key").iterdir()) == ["source"]
    monkeypatch.setattr("autotune.proxy.elastic.train_elastic", lambda *_: pytest.fail("trained again"))
    again = trained_source(preparation)
    np.testing.assert_array_equal(again.ordered.arrays["embed"], first.ordered.arrays["embed"])


def test_what_diverged_is_told_again_when_it_is_taken_from_the_cache(
    source: ModelWeights, greedy_traces: Traces, axes: Axes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.proxy.elastic.elastic_objective", lambda *these: diverging(*these[:2], {"step": 60}))
    notes: list[str] = []
    preparation = Preparation(source, greedy_traces, axes, 0.1, tmp_path / "key", on_note=notes.append)
    first = trained_source(preparation)
    again = trained_source(preparation)
    assert again.report.diverged_at_step == 60
    assert "the last good weights, of step 50, are kept" in notes[0]
    assert "the elastic training stopped at step 60" in notes[1]
    assert all(np.isfinite(array).all() for array in first.ordered.arrays.values())


def test_a_full_disk_leaves_a_cache_that_the_next_run_can_use(
    source: ModelWeights, greedy_traces: Traces, axes: Axes, tmp_path: Path
) -> None:
    preparation = Preparation(source, greedy_traces, axes, budget_s=0.005, folder=tmp_path / "key")
    for largest_bytes in (4096, 30_000):  # no room for a checkpoint, and room for that but not for the result
        with largest_file_bytes(largest_bytes), pytest.raises(BadRequest, match=r"^cannot write [^\n]+$"):
            trained_source(preparation)
        assert {path.name for path in (tmp_path / "key").iterdir()} <= {"work"}
    assert trained_source(preparation).report.diverged_at_step is None
    assert [path.name for path in (tmp_path / "key").iterdir()] == ["source"]


def test_drawn_parts_follow_the_axes_and_cost_what_is_said(source: ModelWeights, axes: Axes) -> None:
    shapes = [draw_part(source.shape, axes, 0, step).shape(source.shape) for step in range(4000)]
    assert {shape.layers for shape in shapes} == set(axes.layers)
    assert {(shape.heads, shape.kv_heads) for shape in shapes} == set(axes.heads)
    assert {shape.ffn for shape in shapes} == set(axes.ffn)
    for ffn in axes.ffn:  # widths are drawn evenly, also of shallow drafts
        for layers in axes.layers:
            alike = [shape.ffn == ffn for shape in shapes if shape.layers == layers]
            assert np.mean(alike) == pytest.approx(1 / len(axes.ffn), abs=0.06), (layers, ffn)
    depths = [sum(shape.layers == layers for shape in shapes) for layers in (1, 2, 3)]
    assert depths[0] > 1.7 * depths[1] > 1.7 * depths[2]
    mean = np.mean([shape.decode_parameters for shape in shapes])
    assert mean_parameters(source.shape, axes) == pytest.approx(mean, rel=0.03)


@given(step=st.integers(0, 10**6), seed=st.integers(0, 10**6))
def test_a_drawn_part_is_a_function_of_seed_and_step(step: int, seed: int) -> None:
    from tests.proxy.conftest import SOURCE_SHAPE

    axes = Axes((1, 2), ((2, 1), (4, 2)), (8, 24), (16,))
    assert draw_part(SOURCE_SHAPE, axes, seed, step) == draw_part(SOURCE_SHAPE, axes, seed, step)


def test_budgets_buy_a_fixed_number_of_tokens() -> None:
    assert budget_tokens(120.0, 1e6) == 2 * budget_tokens(60.0, 1e6) == 4 * budget_tokens(60.0, 2e6)
    assert budget_s(budget_tokens(120.0, 1e6), 1e6) == pytest.approx(120.0)
