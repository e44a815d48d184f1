"""Widens attention heads to a size that a fused attention operator accepts, without changing the function."""

from dataclasses import replace

import numpy as np

from autotune.weights import FloatArray, ModelWeights


def aligned_heads(weights: ModelWeights, multiple: int) -> ModelWeights:
    """The weights with `head_dim` rounded up to a multiple (an even number); the same object if it is one already.

    A rotary embedding turns dimension i together with i + head_dim / 2, so both halves of each head get zeros at their
    ends.  The new dimensions stay zero throughout; only the scores' scale, 1 / √head_dim, must remain the old one.
    """
    head_dim = -(-weights.shape.head_dim // multiple) * multiple
    if head_dim == weights.shape.head_dim:
        return weights
    old_half, added = weights.shape.head_dim // 2, (head_dim - weights.shape.head_dim) // 2

    def padded(rows: FloatArray) -> FloatArray:
        halves = rows.reshape(-1, old_half, rows.shape[1])
        return np.pad(halves, ((0, 0), (0, added), (0, 0))).reshape(-1, rows.shape[1])

    arrays = dict(weights.arrays)
    for index in range(weights.shape.layers):
        for part in ("q", "k", "v"):
            arrays[f"layers.{index}.attn.{part}"] = padded(weights.layer(index, f"attn.{part}"))
        arrays[f"layers.{index}.attn.o"] = padded(weights.layer(index, "attn.o").T).T
    return ModelWeights(replace(weights.shape, head_dim=head_dim), weights.numerics, arrays, weights.token_ids)
