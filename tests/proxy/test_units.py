from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.candidate import DraftShape
from autotune.errors import BadRequest
from autotune.proxy.criteria import calibrate
from autotune.proxy.elastic import order
from autotune.proxy.units import LayerUnits, check_inside, pick_layers, prefix, select
from autotune.weights import ModelWeights
from tests.proxy.test_network import logits_of
from tests.support.models import STYLED, styled_weights, tiny_weights


@pytest.mark.parametrize(("count", "expected"), [(1, (7,)), (2, (0, 7)), (3, (0, 1, 7)), (8, tuple(range(8)))])
def test_the_first_layers_and_the_last_are_kept(count: int, expected: tuple[int, ...]) -> None:
    assert pick_layers(8, count) == expected


def test_select_takes_the_named_units_and_no_others(source: ModelWeights) -> None:
    # Of 2 kv heads of 4 rows with 2 query heads each: kv head 1, of its query heads (2 and 3) the second.
    units = LayerUnits(layer=1, kv_heads=np.array([1]), heads=np.array([[3]]), channels=np.array([5, 0]))
    hidden = np.array([2, 0, 7])
    draft = select(source, [units], hidden)
    assert draft.shape == replace(source.shape, layers=1, heads=1, kv_heads=1, ffn=2, hidden=3)
    assert np.array_equal(draft.arrays["embed"], source.arrays["embed"][:, hidden])
    assert np.array_equal(draft.layer(0, "attn.q"), source.layer(1, "attn.q")[12:16][:, hidden])
    assert np.array_equal(draft.layer(0, "attn.v"), source.layer(1, "attn.v")[4:8][:, hidden])
    assert np.array_equal(draft.layer(0, "attn.o"), source.layer(1, "attn.o")[hidden][:, 12:16])
    assert np.array_equal(draft.layer(0, "ffn.down"), source.layer(1, "ffn.down")[hidden][:, [5, 0]])
    assert np.array_equal(draft.layer(0, "ffn.norm"), source.layer(1, "ffn.norm")[hidden])


@given(
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    layers=st.integers(1, 2),
    ffn=st.integers(1, 9),
    hidden=st.integers(2, 12),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_ordering_preserves_the_function(
    kv_heads: int, group: int, layers: int, ffn: int, hidden: int, seed: int
) -> None:
    source = tiny_weights(
        DraftShape(layers, heads=kv_heads * group, kv_heads=kv_heads, head_dim=4, hidden=hidden, ffn=ffn, vocab=20),
        seed,
    )
    tokens = np.random.default_rng(seed).integers(0, 20, 9)
    ordered = order(source, calibrate(source, [tokens.astype(np.int32)]))
    np.testing.assert_allclose(logits_of(ordered, tokens.tolist()), logits_of(source, tokens.tolist()), atol=1e-4)


@pytest.mark.parametrize("name", STYLED)
def test_ordering_preserves_the_function_of_every_style(name: str) -> None:
    source = styled_weights(name)
    tokens = np.random.default_rng(3).integers(0, source.shape.vocab, 9)
    ordered = order(source, calibrate(source, [tokens.astype(np.int32)]))
    assert not np.array_equal(ordered.layer(0, "ffn.up"), source.layer(0, "ffn.up"))
    np.testing.assert_allclose(logits_of(ordered, tokens.tolist()), logits_of(source, tokens.tolist()), atol=1e-4)


@pytest.mark.parametrize(("name", "change"), [("opt", {"biases": ()}), ("qwen3", {"qk_norm": False})])
def test_drafts_are_built_in_the_sources_style(name: str, change: dict[str, Any]) -> None:
    shape, _ = STYLED[name]
    with pytest.raises(BadRequest, match=f"{next(iter(change))} of its style must be the source's"):
        check_inside(shape, replace(shape, style=replace(shape.style, **change)))


def test_a_tied_head_stays_tied(source: ModelWeights) -> None:
    tied = replace(source, arrays={**source.arrays, "head": source.arrays["embed"]})
    for hidden in (source.shape.hidden, 8):
        draft = prefix(tied, replace(source.shape, hidden=hidden))
        assert draft.arrays["head"] is draft.arrays["embed"]
        assert prefix(source, draft.shape).arrays["head"] is not draft.arrays["embed"]


def test_ordering_puts_important_units_first(source: ModelWeights) -> None:
    """Units that contribute nothing end up behind all others."""
    arrays = {name: array.copy() for name, array in source.arrays.items()}
    arrays["layers.1.ffn.down"][:, 3] = 0.0
    for name in ("q", "k", "v"):
        rows = slice(0, 8) if name == "q" else slice(0, 4)  # kv head 0 and its two query heads
        arrays[f"layers.1.attn.{name}"][rows] *= 0.01
    arrays["layers.1.attn.o"][:, :8] *= 0.01
    weak = replace(source, arrays=arrays)
    tokens = np.arange(1, 30, dtype=np.int32)
    ordered = order(weak, calibrate(weak, [tokens]))
    assert np.abs(ordered.layer(1, "ffn.down")[:, -1]).max() == 0.0
    norms = np.linalg.norm(ordered.layer(1, "attn.k").reshape(2, -1), axis=1)
    assert norms[1] < 0.1 * norms[0]
    assert np.abs(ordered.layer(1, "attn.o")[:, 8:]).max() < 0.1 * np.abs(ordered.layer(1, "attn.o")[:, :8]).max()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": 4}, "4 layers, but the source has only 3"),
        ({"heads": 3, "kv_heads": 3}, "3 kv_heads"),
        ({"heads": 3, "kv_heads": 1}, "3 heads per kv head"),
        ({"ffn": 25}, "25 ffn"),
        ({"hidden": 17}, "17 hidden"),
        ({"head_dim": 8}, "head_dim must be the source's 4"),
        ({"vocab": 40}, "vocab must be the source's 48"),
    ],
)
def test_shapes_outside_the_source_are_refused(source: ModelWeights, change: dict[str, int], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        check_inside(source.shape, replace(source.shape, **change))


def test_the_whole_prefix_is_the_source(source: ModelWeights) -> None:
    whole = prefix(source, source.shape)
    assert all(whole.arrays[name] is source.arrays[name] for name in source.arrays)
