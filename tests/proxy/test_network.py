import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autotune.candidate import DraftShape
from autotune.proxy.network import Network, head_logits, hidden_states, network_of
from autotune.proxy.parts import Part
from autotune.proxy.units import pick_layers, prefix
from autotune.weights import ModelWeights, trimmed
from tests.support.models import reference_logits, tiny_weights


def logits_of(weights: ModelWeights, tokens: list[int], part: Part | None = None) -> NDArray[np.float32]:
    network = network_of(weights)
    with torch.inference_mode():
        logits: NDArray[np.float32] = head_logits(network, hidden_states(network, torch.tensor([tokens]), part))[
            0
        ].numpy()
    return logits


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_logits_are_those_of_transformers(kv_heads: int, tmp_path: Path) -> None:
    weights = tiny_weights(DraftShape(layers=2, heads=4, kv_heads=kv_heads, head_dim=8, hidden=32, ffn=40, vocab=64))
    tokens = np.random.default_rng(0).integers(0, 64, 20).tolist()
    np.testing.assert_allclose(logits_of(weights, tokens), reference_logits(weights, tokens, tmp_path), atol=2e-5)


@given(
    layers=st.integers(1, 3),
    pair=st.sampled_from([(kv * group, kv) for kv, group in itertools.product((1, 2), (1, 2, 3))]),
    ffn=st.integers(1, 24),
    hidden=st.integers(1, 16),
)
@settings(max_examples=30, deadline=None)
def test_a_part_computes_what_the_sliced_model_computes(
    layers: int, pair: tuple[int, int], ffn: int, hidden: int
) -> None:
    source = tiny_weights(DraftShape(layers=3, heads=6, kv_heads=2, head_dim=4, hidden=16, ffn=24, vocab=32))
    part = Part(pick_layers(3, layers), *pair, ffn, hidden)
    sliced = prefix(source, part.shape(source.shape))
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    np.testing.assert_allclose(logits_of(source, tokens, part), logits_of(sliced, tokens), atol=1e-5)


def test_padding_on_the_right_changes_nothing_before_it(source: ModelWeights) -> None:
    network = network_of(source)
    with torch.inference_mode():
        short = hidden_states(network, torch.tensor([[5, 6, 7]]))
        padded = hidden_states(network, torch.tensor([[5, 6, 7, 0, 0], [1, 2, 3, 4, 5]]))
    np.testing.assert_allclose(padded[0, :3], short[0], atol=1e-6)


def test_gradients_reach_the_part_and_nothing_else(source: ModelWeights) -> None:
    network = network_of(source, trainable=True)
    part = Part(layers=(0, 2), heads=2, kv_heads=1, ffn=8, hidden=12)
    hidden_states(network, torch.tensor([[1, 2, 3]]), part).square().sum().backward()
    gate = network.tensors["layers.0.ffn.gate"].grad
    assert gate is not None
    assert gate[:8, :12].abs().min() > 0
    assert gate[8:].abs().max() == 0
    assert gate[:, 12:].abs().max() == 0
    query = network.tensors["layers.2.attn.q"].grad
    assert query is not None
    assert query[: 2 * 4, :12].abs().max() > 0
    assert query[2 * 4 :].abs().max() == 0
    assert network.tensors["layers.1.ffn.gate"].grad is None


def test_tensors_are_copies_in_both_directions(source: ModelWeights) -> None:
    network = network_of(source)
    network.tensors["norm"][0] += 1
    assert source.arrays["norm"][0] != network.tensors["norm"][0]
    again: Network = network_of(network.to_weights())
    assert all(torch.equal(again.tensors[name], network.tensors[name]) for name in network.tensors)


def test_a_trimmed_head_keeps_its_token_ids(source: ModelWeights) -> None:
    draft = trimmed(source, np.array([1, 5, 40]))
    tokens = [3, 1, 4]
    np.testing.assert_allclose(logits_of(draft, tokens), logits_of(source, tokens)[:, [1, 5, 40]], atol=1e-6)
    again = network_of(draft).to_weights()
    assert again.shape == draft.shape
    assert again.token_ids is not None
    assert again.token_ids.tolist() == [1, 5, 40]
