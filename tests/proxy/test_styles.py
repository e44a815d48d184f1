"""Pruning, shared training and the finish of sources that are not built as LLaMA is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autotune.proxy.base import Axes, Preparation
from autotune.proxy.criteria import calibrate
from autotune.proxy.elastic import ElasticSettings, ElasticSource, train_elastic, trained_source
from autotune.proxy.finish import finish
from autotune.proxy.network import Network, hidden_states, network_of
from autotune.proxy.prune import PrunedEstimator, calibration_sequences
from autotune.proxy.score_traces import acceptance_of
from autotune.proxy.training import Recipe
from autotune.sampling import SamplingSettings
from autotune.shape import DraftShape
from autotune.traces import Traces
from autotune.weights import ModelWeights
from tests.proxy.conftest import write_traces
from tests.proxy.test_network import logits_of
from tests.support.models import STYLED, styled_weights

TRAINED = ["opt", "opt-350m", "qwen2", "qwen3"]
RECIPE = Recipe(learning_rate=5e-3, batch_tokens=128, warmup_steps=4, checkpoint_steps=5)


def traces_of(source: ModelWeights) -> Traces:
    return write_traces(source, SamplingSettings(), count=12)


def axes_of(shape: DraftShape) -> Axes:
    half = (shape.heads // 2, shape.kv_heads // 2)
    return Axes(
        layers=tuple(range(1, shape.layers + 1)),
        heads=(half, (shape.heads, shape.kv_heads)),
        ffn=(shape.ffn // 2, shape.ffn),
        hidden=(shape.hidden // 2, shape.hidden),
    )


def agreement(weights: ModelWeights, traces: Traces) -> float:
    return float(np.concatenate(acceptance_of(weights, traces)).mean())


@pytest.mark.parametrize("name", STYLED)
def test_pruning_nothing_leaves_the_source(name: str) -> None:
    source = styled_weights(name)
    pruned = PrunedEstimator(source, calibrate(source, calibration_sequences(traces_of(source))))
    tokens = [5, 6, 7, 8]
    np.testing.assert_allclose(logits_of(pruned.weights(source.shape), tokens), logits_of(source, tokens), atol=1e-4)


@pytest.mark.parametrize("name", STYLED)
def test_corrected_norms_leave_kept_dimensions_more_as_the_source_does(name: str) -> None:
    """Of the first norm, whose input is exactly the source's on the kept dimensions."""
    source = uneven(styled_weights(name))
    traces = traces_of(source)
    importance = calibrate(source, calibration_sequences(traces))
    hidden = np.sort(importance.best_hidden(source.shape.hidden // 2))
    pruned = PrunedEstimator(source, importance).weights(replace(source.shape, hidden=hidden.size))
    uncorrected = replace(
        pruned,
        arrays={
            key: source.arrays[key][hidden] if ".attn.norm" in key else array for key, array in pruned.arrays.items()
        },
    )
    tokens = torch.from_numpy(traces.items[0].tokens.astype(np.int64))
    stream = dict(seen(network_of(source), tokens))["layers.0.attn.in"]
    wanted = network_of(source).view().layer(0).norm("attn.norm", stream)[..., hidden]

    def error(draft: ModelWeights) -> float:
        normed = network_of(draft).view().layer(0).norm("attn.norm", stream[..., hidden])
        return (normed - wanted).square().mean().item()

    assert error(pruned) < 0.8 * error(uncorrected)


def uneven(weights: ModelWeights) -> ModelWeights:
    """The model with some dimensions far larger than others, and of one sign, as trained models have them."""
    arrays = dict(weights.arrays)
    scale = np.random.default_rng(0).uniform(0.2, 3.0, weights.shape.hidden).astype(np.float32)
    if "embed.project" in arrays:
        arrays["embed.project"] = arrays["embed.project"] * scale[:, None]
    else:
        arrays["embed"] = arrays["embed"] * scale
    if "positions" in arrays:
        arrays["positions"] = arrays["positions"] + scale - 1.0
    return replace(weights, arrays=arrays)


def seen(network: Network, tokens: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """What an observer is told."""
    told: list[tuple[str, torch.Tensor]] = []
    with torch.inference_mode():
        hidden_states(network, tokens[None], observe=lambda name, value: told.append((name, value)))
    return told


@pytest.mark.parametrize("name", STYLED)
def test_observers_see_every_norm_the_channels_and_the_end_in_order(name: str) -> None:
    source = styled_weights(name)
    expected = [f"layers.{i}.{each}" for i in range(source.shape.layers) for each in ("attn.in", "ffn.in")]
    told = seen(network_of(source), torch.tensor([1, 2, 3]))
    assert [each for each, _ in told if each.endswith(".in")] == expected
    assert told[-1][0] == "out"
    channels = dict(told)["layers.0.ffn.channels"]
    assert channels.shape[-1] == source.shape.ffn
    assert (channels.min() < 0) == source.shape.style.gated  # ReLU leaves nothing below zero


@pytest.mark.parametrize("name", TRAINED)
def test_a_shared_training_teaches_shallow_drafts_and_loads_again(name: str, tmp_path: Path) -> None:
    source = styled_weights(name)
    traces, axes = traces_of(source), axes_of(source.shape)
    shape = replace(source.shape, layers=1)
    settings = ElasticSettings(tokens=50 * RECIPE.batch_tokens, recipe=RECIPE)
    untrained = train_elastic(source, traces, axes, replace(settings, tokens=RECIPE.batch_tokens), tmp_path / "one")
    trained = train_elastic(source, traces, axes, settings, tmp_path / "many")
    assert agreement(trained.weights(shape), traces) > agreement(untrained.weights(shape), traces) + 0.1
    moved = {key for key, array in trained.ordered.arrays.items() if not np.array_equal(array, source.arrays[key])}
    assert moved == source.arrays.keys()
    trained.save(tmp_path / "kept")
    loaded = ElasticSource.load(tmp_path / "kept")
    assert loaded.ordered.shape == source.shape
    np.testing.assert_array_equal(logits_of(loaded.weights(shape), [1, 2]), logits_of(trained.weights(shape), [1, 2]))


@pytest.mark.parametrize("name", TRAINED)
def test_a_draft_is_finished(name: str) -> None:
    source = styled_weights(name)
    traces = traces_of(source)
    one_text = replace(traces, items=traces.items[:1])
    importance = calibrate(source, calibration_sequences(traces))
    draft = PrunedEstimator(source, importance).weights(replace(source.shape, layers=1))
    finished = finish(draft, one_text, 0.02, recipe=RECIPE)
    assert finished.after >= finished.before
    assert finished.weights.shape == draft.shape
    assert finished.after == agreement(finished.weights, one_text) == 1.0


def test_a_tied_head_is_trained_apart_from_the_embedding(tmp_path: Path) -> None:
    source = styled_weights("qwen2")
    tied = replace(source, arrays={**source.arrays, "head": source.arrays["embed"]})
    preparation = Preparation(tied, traces_of(tied), axes_of(tied.shape), 0.05, tmp_path)
    trained = trained_source(preparation).ordered
    assert not np.array_equal(trained.arrays["head"], trained.arrays["embed"])
