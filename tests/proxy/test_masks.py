from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autotune.proxy.masks import LARGEST_PARAMETER, Kind, Masks, masks_for
from tests.proxy.conftest import SOURCE_SHAPE

SHAPE = replace(SOURCE_SHAPE, layers=2, heads=1, kv_heads=1, ffn=8, hidden=12)


def channels_alone(parameters: list[list[float]], wanted: float = 0.5) -> Masks:
    return Masks({Kind.CHANNELS: torch.tensor(parameters)}, {Kind.CHANNELS: wanted}, {Kind.CHANNELS: torch.zeros(2)})


def test_only_what_the_shape_has_fewer_of_is_masked() -> None:
    masks = masks_for(SOURCE_SHAPE, SHAPE)
    assert {kind: tuple(values.shape) for kind, values in masks.parameters.items()} == {
        Kind.LAYERS: (3,), Kind.KV_HEADS: (3, 2), Kind.HEADS: (3, 2, 2), Kind.CHANNELS: (3, 24), Kind.HIDDEN: (16,)
    }  # fmt: skip
    assert masks.wanted == {
        Kind.LAYERS: 2 / 3, Kind.KV_HEADS: 0.5, Kind.HEADS: 0.5, Kind.CHANNELS: 1 / 3, Kind.HIDDEN: 0.75
    }  # fmt: skip
    assert not masks_for(SOURCE_SHAPE, SOURCE_SHAPE).parameters
    assert masks_for(SOURCE_SHAPE, replace(SOURCE_SHAPE, heads=2)).parameters.keys() == {Kind.HEADS}


def test_masks_begin_open_and_in_the_order_of_importance() -> None:
    masks = masks_for(SOURCE_SHAPE, SHAPE)
    assert all((share > 0.95).all() for share in masks.open_shares().values())
    assert masks.widest(Kind.HIDDEN, 12) == {(): list(range(12))}
    assert masks.widest(Kind.HEADS, 1) == {(layer, kv): [0] for layer in range(3) for kv in range(2)}
    assert masks.widest(Kind.LAYERS, 2) == {(): [0, 2]}  # the first and the last, as pruning without training has it


@given(log_alpha=st.floats(-LARGEST_PARAMETER, LARGEST_PARAMETER), seed=st.integers(0, 1000))
def test_masks_are_open_as_often_as_is_said(log_alpha: float, seed: int) -> None:
    masks = channels_alone([[log_alpha] * 4000])
    drawn = masks.drawn(seed, 0)[Kind.CHANNELS]
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    said = masks.open_shares()[Kind.CHANNELS].item()
    assert (drawn > 0).double().mean().item() == pytest.approx(said, abs=5 * np.sqrt(said * (1 - said) / 4000) + 1e-6)


def test_what_is_drawn_is_a_function_of_seed_and_step() -> None:
    masks = masks_for(SOURCE_SHAPE, SHAPE)
    first, again, later, other = (masks.drawn(*of) for of in ((3, 5), (3, 5), (3, 6), (4, 5)))
    for kind in masks.parameters:
        assert torch.equal(first[kind], again[kind])
    assert not torch.equal(first[Kind.CHANNELS], later[Kind.CHANNELS])
    assert not torch.equal(first[Kind.CHANNELS], other[Kind.CHANNELS])


def test_settled_masks_of_the_extremes_are_exactly_open_or_shut() -> None:
    settled = channels_alone([[-LARGEST_PARAMETER, LARGEST_PARAMETER]]).settled()[Kind.CHANNELS]
    assert settled.tolist() == [[0.0, 1.0]]


def test_the_penalty_is_lagranges() -> None:
    masks = channels_alone([[4.0, 4.0], [-4.0, 4.0]], wanted=0.25)
    with torch.no_grad():
        masks.multipliers[Kind.CHANNELS].copy_(torch.tensor([0.5, 3.0]))
    open_, shut = torch.sigmoid(torch.tensor([4.0, -4.0]) + 2 / 3 * np.log(11)).tolist()
    for progress, target in ((0.0, 1.0), (0.4, 0.7), (1.0, 0.25), (2.0, 0.25)):
        excess = np.array([open_ - target, (open_ + shut) / 2 - target])
        expected = (0.5 * excess + 3.0 * excess**2).mean()
        assert masks.penalty(progress).item() == pytest.approx(expected, abs=1e-6)


def test_the_square_of_hidden_dimensions_counts_for_every_layer() -> None:
    parameters, multipliers = {Kind.HIDDEN: torch.zeros(8)}, {Kind.HIDDEN: torch.tensor([2.0, 3.0])}
    alone, shared = (Masks(parameters, {Kind.HIDDEN: 0.5}, multipliers, layers) for layers in (1, 5))
    excess = alone.open_shares()[Kind.HIDDEN].item() - 0.5
    assert alone.penalty(1.0).item() == pytest.approx(2 * excess + 3 * excess**2)
    assert shared.penalty(1.0).item() == pytest.approx(2 * excess + 5 * 3 * excess**2)


def test_the_penalty_alone_brings_masks_to_the_shape() -> None:
    masks = masks_for(SOURCE_SHAPE, SHAPE)
    descend = torch.optim.Adam(masks.parameters.values(), lr=0.2)
    climb = torch.optim.Adam(masks.multipliers.values(), lr=0.2, maximize=True)
    for step in range(200):
        for optimizer in (descend, climb):
            optimizer.zero_grad()
        masks.penalty((step + 1) / 100).backward()
        for optimizer in (descend, climb):
            optimizer.step()
    for kind, shares in masks.open_shares().items():
        np.testing.assert_allclose(shares.detach(), masks.wanted[kind], atol=0.05, err_msg=kind)
