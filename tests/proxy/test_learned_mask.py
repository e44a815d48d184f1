from dataclasses import replace

import numpy as np
import pytest
import torch

from autotune.proxy.criteria import calibrate
from autotune.proxy.elastic import order
from autotune.proxy.finish import distilled
from autotune.proxy.learned_mask import Learned, MaskRecipe, learn_masks
from autotune.proxy.masks import Kind
from autotune.proxy.place import Place
from autotune.proxy.prune import calibration_sequences
from autotune.proxy.training import Recipe
from autotune.proxy.units import LayerUnits, select
from autotune.sampling import SamplingSettings
from autotune.traces import Traces
from autotune.weights import ModelWeights
from tests.proxy.conftest import SOURCE_SHAPE, write_traces
from tests.proxy.test_finish import mean_acceptance

RECIPE = Recipe(learning_rate=5e-3, batch_tokens=128, warmup_steps=4)
MASKS = MaskRecipe(weights=replace(RECIPE, learning_rate=1e-4), mask_rate=0.1, multiplier_rate=0.1, draft=RECIPE)
STEPS = 120


@pytest.fixture(scope="module")
def half_idle(source: ModelWeights) -> ModelWeights:
    """The source with every second channel, and one kv head of each layer, without effect."""
    arrays = dict(source.arrays)
    for layer in range(SOURCE_SHAPE.layers):
        down, output = arrays[f"layers.{layer}.ffn.down"].copy(), arrays[f"layers.{layer}.attn.o"].copy()
        down[:, ::2] = 0.0
        down *= 3.0
        output[:, 8 * (layer % 2) : 8 * (layer % 2) + 8] = 0.0
        output *= 3.0
        arrays |= {f"layers.{layer}.ffn.down": down, f"layers.{layer}.attn.o": output}
    return replace(source, arrays=arrays)


@pytest.fixture(scope="module")
def traces(half_idle: ModelWeights) -> Traces:
    return write_traces(half_idle, SamplingSettings(), count=40)


@pytest.fixture(scope="module")
def learned(half_idle: ModelWeights, traces: Traces) -> Learned:
    """Masks that begin in an order that has nothing to do with importance."""
    return learn_masks(half_idle, replace(SOURCE_SHAPE, heads=2, kv_heads=1, ffn=12), traces, STEPS, MASKS)


def test_masks_find_the_units_that_have_an_effect(learned: Learned) -> None:
    channels = [unit for row in learned.masks.widest(Kind.CHANNELS, 12).values() for unit in row]
    assert np.mean(np.array(channels) % 2) > 0.8  # half of them, were they drawn
    kept = learned.masks.widest(Kind.KV_HEADS, 1)
    assert [kept[(layer,)] for layer in range(3)] == [[1], [0], [1]]


def test_masks_reach_the_asked_shape(learned: Learned) -> None:
    for kind, shares in learned.masks.open_shares().items():
        np.testing.assert_allclose(shares.detach(), learned.masks.wanted[kind], atol=0.1, err_msg=kind)


def test_learned_units_beat_random_ones(learned: Learned, half_idle: ModelWeights, traces: Traces) -> None:
    """Which are trained for as many tokens."""
    rng = np.random.default_rng(0)

    def random_draft() -> ModelWeights:
        layers = []
        for layer in range(SOURCE_SHAPE.layers):
            kv = int(rng.integers(2))
            channels = np.sort(rng.choice(24, 12, replace=False))
            layers.append(LayerUnits(layer, np.array([kv]), np.array([[2 * kv, 2 * kv + 1]]), channels))
        return select(half_idle, layers, np.arange(SOURCE_SHAPE.hidden))

    drafts = [distilled(random_draft(), traces, STEPS, "it", recipe=RECIPE).weights for _ in range(3)]
    of_random = np.mean([mean_acceptance(draft, traces) for draft in drafts])
    assert mean_acceptance(learned.draft, traces) > of_random + 0.15


def test_sampled_workloads_are_learned_too(source: ModelWeights, sampled_traces: Traces) -> None:
    ordered = order(source, calibrate(source, calibration_sequences(sampled_traces)))
    shape = replace(SOURCE_SHAPE, layers=2, hidden=12, ffn=16)
    recipe = replace(MASKS, weights=RECIPE)
    short, long = (learn_masks(ordered, shape, sampled_traces, steps, recipe).draft for steps in (1, STEPS))
    assert mean_acceptance(long, sampled_traces) > mean_acceptance(short, sampled_traces) + 0.05


def test_two_processes_learn_the_masks_of_one(source: ModelWeights, greedy_traces: Traces) -> None:
    shape = replace(SOURCE_SHAPE, layers=2, heads=2, kv_heads=1, ffn=16, hidden=12)
    one, two = (
        learn_masks(source, shape, greedy_traces, 6, MASKS, place=Place(processes=n, threads=n)) for n in (1, 2)
    )
    for kind, expected in one.masks.parameters.items():
        torch.testing.assert_close(two.masks.parameters[kind], expected, rtol=0, atol=1e-3, msg=kind)
    for name, array in one.draft.arrays.items():
        np.testing.assert_allclose(two.draft.arrays[name], array, atol=1e-3, err_msg=name)
