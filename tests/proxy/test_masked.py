"""Networks under masks compute what pruned ones do, in every style."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autotune.proxy.masked import masked, pruned_by
from autotune.proxy.masks import LARGEST_PARAMETER, Kind, Masks, Openness, masks_for, sizes
from autotune.proxy.network import head_logits, hidden_states, network_of
from autotune.proxy.parts import whole_part
from autotune.shape import DraftShape
from autotune.weights import ModelWeights
from tests.proxy.test_network import logits_of
from tests.support.models import STYLED, styled_weights

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


def masked_logits(weights: ModelWeights, masks: Openness) -> np.ndarray:
    with torch.inference_mode():
        network = masked(network_of(weights), masks)
        return head_logits(network, hidden_states(network, torch.tensor([TOKENS])))[0].numpy()


def random_masks(source: DraftShape, shape: DraftShape, seed: int, *, extreme: bool) -> Masks:
    """Masks in which as many units of every row as the shape has are open: entirely, or by some random amount."""
    rng = np.random.default_rng(seed)
    masks = masks_for(source, shape)
    for kind, values in masks.parameters.items():
        kept = (
            rng.permuted(np.broadcast_to(np.arange(values.shape[-1]), values.shape), axis=-1) < (sizes(shape)[kind][-1])
        )
        wide = LARGEST_PARAMETER if extreme else rng.uniform(-1.0, 2.0, values.shape)
        with torch.no_grad():
            values.copy_(torch.from_numpy(np.where(kept, wide, -LARGEST_PARAMETER).astype(np.float32)))
    return masks


@pytest.mark.parametrize("name", STYLED)
def test_open_masks_change_nothing(name: str) -> None:
    source = styled_weights(name)
    wide_open = {kind: torch.ones(size) for kind, size in sizes(source.shape).items()}
    np.testing.assert_allclose(masked_logits(source, wide_open), logits_of(source, TOKENS), atol=2e-5)
    unmasked = masks_for(source.shape, source.shape)
    same = pruned_by(network_of(source), unmasked, source.shape)
    assert same.shape == source.shape
    for key, array in source.arrays.items():
        np.testing.assert_array_equal(same.arrays[key], array, err_msg=key)


@given(name=st.sampled_from(list(STYLED)), data=st.data(), seed=st.integers(0, 99), extreme=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_pruned_network_computes_what_the_masked_one_does(
    name: str, data: st.DataObject, seed: int, extreme: bool
) -> None:
    source = styled_weights(name)
    whole = source.shape
    kv_heads = data.draw(st.integers(1, whole.kv_heads))
    heads = kv_heads * data.draw(st.integers(1, whole.heads // whole.kv_heads))
    layers, ffn = (data.draw(st.integers(1, most)) for most in (whole.layers, whole.ffn))
    # Next to no dimensions have next to no deviation, which LayerNorm divides by: rounding grows with it.
    hidden = data.draw(st.integers(6, whole.hidden))
    shape = replace(whole, layers=layers, heads=heads, kv_heads=kv_heads, ffn=ffn, hidden=hidden)
    masks = random_masks(whole, shape, seed, extreme=extreme)
    pruned = pruned_by(network_of(source), masks, shape)
    assert pruned.shape == shape
    settled = dict(masks.settled())
    if Kind.LAYERS in settled:  # a layer is either there or not
        settled[Kind.LAYERS] = (settled[Kind.LAYERS] > 0).float()
    np.testing.assert_allclose(logits_of(pruned, TOKENS), masked_logits(source, settled), atol=1e-3, rtol=1e-3)


def test_units_that_masks_shut_stay_able_to_learn(source: ModelWeights) -> None:
    """Where the shape asks for more than the masks left open."""
    shape = replace(source.shape, hidden=12, ffn=8)
    masks = random_masks(source.shape, replace(shape, hidden=10, ffn=6), 0, extreme=True)
    network = network_of(pruned_by(network_of(source), masks, shape), trainable=True)
    hidden_states(network, torch.tensor([TOKENS])).square().sum().backward()

    def gradient(name: str) -> Tensor:
        found = network.tensors[name].grad
        assert found is not None
        return found

    assert (gradient("embed").abs().sum(0) > 0).all()
    assert (gradient("layers.0.ffn.down").abs().sum(0) > 0).all()
    assert (gradient("norm").abs() > 0).all()


def test_gradients_reach_every_mask(source: ModelWeights) -> None:
    masks = {kind: torch.full(size, 0.5, requires_grad=True) for kind, size in sizes(source.shape).items()}
    network = masked(network_of(source), masks)
    hidden_states(network, torch.tensor([TOKENS])).square().sum().backward()
    for kind, mask in masks.items():
        assert mask.grad is not None
        assert (mask.grad != 0).all(), kind


def test_a_masked_network_has_no_parts(source: ModelWeights) -> None:
    network = masked(network_of(source), {})
    part = replace(whole_part(source.shape), ffn=8)
    with pytest.raises(ValueError, match="computed as a whole"):
        network.view(part)
