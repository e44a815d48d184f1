from dataclasses import replace

import numpy as np

from autotune.digests import digest_of, weights_digest
from autotune.weights import ModelWeights, trimmed
from tests.support.figures import SHAPE
from tests.support.models import tiny_weights


def test_types_shapes_and_order_count() -> None:
    numbers = np.arange(6, dtype=np.int32)
    distinct = [
        [numbers],
        [numbers.astype(np.int64)],
        [numbers.reshape(2, 3)],
        [numbers[:3], numbers[3:]],
        [numbers[3:], numbers[:3]],
        ["x", numbers],
        [numbers, "x"],
    ]
    assert len({digest_of(parts) for parts in distinct}) == len(distinct)


def test_weights_have_a_digest_of_their_content() -> None:
    weights = tiny_weights(SHAPE)
    head = weights.arrays["head"].copy()
    head[3, 5] += 1e-3
    half = np.arange(50)
    trims = [trimmed(weights, half), trimmed(weights, half + 50)]
    same_rows = replace(trims[0], token_ids=half + 1)
    distinct = [
        weights,
        tiny_weights(SHAPE, seed=1),
        tiny_weights(replace(SHAPE, layers=1)),
        replace(weights, arrays={**weights.arrays, "head": head}),
        replace(weights, numerics=replace(weights.numerics, rope_theta=5000.0)),
        *trims,
        same_rows,
    ]
    assert len({weights_digest(each) for each in distinct}) == len(distinct)
    assert weights_digest(tiny_weights(SHAPE)) == weights_digest(weights)


def test_a_slice_has_the_digest_of_its_copy() -> None:
    weights = tiny_weights(SHAPE)
    wide = np.repeat(weights.arrays["head"], 2, axis=1)
    sliced = replace(weights, arrays={**weights.arrays, "head": wide[:, ::2]})
    assert not sliced.arrays["head"].flags.c_contiguous
    assert weights_digest(sliced) == weights_digest(weights)


def test_swapped_arrays_are_noticed() -> None:
    weights = tiny_weights(SHAPE)
    gate, up = weights.layer(0, "ffn.gate"), weights.layer(0, "ffn.up")
    swapped = ModelWeights(
        weights.shape, weights.numerics, {**weights.arrays, "layers.0.ffn.gate": up, "layers.0.ffn.up": gate}
    )
    assert weights_digest(swapped) != weights_digest(weights)
