import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autotune.candidate import DraftShape
from autotune.errors import BadRequest
from autotune.proxy.network import Network, head_logits, hidden_states, network_of
from autotune.proxy.parts import Part
from autotune.proxy.units import pick_layers, prefix
from autotune.weights import ModelWeights, random_weights, trimmed
from autotune.weights_io import load_weights, save_weights
from tests.support.models import NUMERICS, STYLED, reference_logits, styled_weights, tiny_weights
from tests.support.reference_decoder import decoder_logits


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


@given(name=st.sampled_from(list(STYLED)), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_part_of_any_style_computes_what_the_sliced_model_computes(name: str, data: st.DataObject) -> None:
    source = styled_weights(name)
    whole = source.shape
    kv_heads = data.draw(st.integers(1, whole.kv_heads))
    heads = kv_heads * data.draw(st.integers(1, whole.heads // whole.kv_heads))
    layers, ffn, hidden = (data.draw(st.integers(1, most)) for most in (whole.layers, whole.ffn, whole.hidden))
    part = Part(pick_layers(whole.layers, layers), heads, kv_heads, ffn, hidden)
    sliced = prefix(source, part.shape(whole))
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    assert part.shape(whole).style == whole.style
    np.testing.assert_allclose(logits_of(source, tokens, part), logits_of(sliced, tokens), atol=1e-5)
    # Whatever divides by next to nothing (the deviation of one or two dimensions) magnifies rounding too.
    if hidden > 4:
        np.testing.assert_allclose(logits_of(sliced, tokens), decoder_logits(sliced, tokens), atol=1e-3)


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


def test_tensors_that_are_trained_are_copies_in_both_directions(source: ModelWeights) -> None:
    network = network_of(source, trainable=True)
    with torch.no_grad():
        network.tensors["norm"][0] += 1
    assert source.arrays["norm"][0] != network.tensors["norm"][0]
    given = network.to_weights()
    again: Network = network_of(given)
    assert all(torch.equal(again.tensors[name], network.tensors[name]) for name in network.tensors)
    with torch.no_grad():
        network.tensors["norm"][0] += 1
    assert given.arrays["norm"][0] != network.tensors["norm"][0]


def test_tensors_that_are_only_read_take_no_memory_and_give_no_warning(source: ModelWeights, tmp_path: Path) -> None:
    save_weights(source, tmp_path)
    stored = load_weights(tmp_path)
    assert not stored.arrays["embed"].flags.writeable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = network_of(stored)
    for name, tensor in network.tensors.items():
        assert tensor.data_ptr() == stored.arrays[name].ctypes.data, name
    np.testing.assert_array_equal(logits_of(stored, [1, 2, 3]), logits_of(source, [1, 2, 3]))


def test_random_weights_whose_rows_overlap_are_read_as_they_are() -> None:
    weights = random_weights(DraftShape(1, 2, 2, 64, 128, 256, 9000), NUMERICS)
    assert not weights.arrays["head"].flags.c_contiguous
    tokens = [3, 1, 4]
    np.testing.assert_allclose(logits_of(weights, tokens), decoder_logits(weights, tokens), atol=1e-4)


@pytest.mark.parametrize("name", STYLED)
def test_every_style_computes_what_the_reference_computes(name: str) -> None:
    weights = styled_weights(name)
    tokens = np.random.default_rng(0).integers(0, weights.shape.vocab, 20).tolist()
    np.testing.assert_allclose(logits_of(weights, tokens), decoder_logits(weights, tokens), atol=3e-5)


def test_texts_longer_than_the_learned_positions_are_refused() -> None:
    with pytest.raises(BadRequest, match="129 tokens is longer than the model's 128 positions"):
        logits_of(styled_weights("opt"), [1] * 129)


def test_a_trimmed_head_keeps_its_token_ids(source: ModelWeights) -> None:
    draft = trimmed(source, np.array([1, 5, 40]))
    tokens = [3, 1, 4]
    np.testing.assert_allclose(logits_of(draft, tokens), logits_of(source, tokens)[:, [1, 5, 40]], atol=1e-6)
    again = network_of(draft).to_weights()
    assert again.shape == draft.shape
    assert again.token_ids is not None
    assert again.token_ids.tolist() == [1, 5, 40]
