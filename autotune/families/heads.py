"""The same model with heads added: for checkpoints whose format fixes how many heads there are, or of what size."""

from dataclasses import replace
from math import sqrt

import numpy as np

from autotune.shape import DraftShape
from autotune.weights import FloatArray, ModelWeights


def with_heads(weights: ModelWeights, wanted: DraftShape) -> ModelWeights:
    """A model with the same logits that has the heads of `wanted`: no fewer kv heads, query heads of each, or sizes.

    What is added are zeros: such heads, and such dimensions of a head, add nothing to what attention computes.  Heads
    that are rotated or normed must keep their size.
    """
    shape = weights.shape
    old, new = ((each.kv_heads, each.heads // each.kv_heads, each.head_dim) for each in (shape, wanted))
    if old == new:
        return weights
    if any(asked < had for asked, had in zip(new, old, strict=True)):
        raise ValueError(f"heads {old} cannot be filled up to {new}")
    if wanted.head_dim != shape.head_dim and (shape.style.qk_norm or not shape.style.learned_positions):
        raise ValueError("heads that are rotated or normed must keep their size")
    # Attention divides scores by the root of the heads' size, which may have changed.
    scale = np.float32(sqrt(wanted.head_dim / shape.head_dim))
    arrays = dict(weights.arrays)
    for index in range(shape.layers):
        for name, axes, factor in (("q", (0, 1, 2), scale), ("k", (0, 2), None), ("v", (0, 2), None)):
            for full in (f"layers.{index}.attn.{name}", f"layers.{index}.attn.{name}.bias"):
                if full in arrays:
                    padded = _padded(arrays[full], *(tuple(each[axis] for axis in axes) for each in (old, new)))
                    arrays[full] = padded if factor is None else padded * factor
        output = f"layers.{index}.attn.o"
        arrays[output] = np.ascontiguousarray(_padded(arrays[output].T, old, new).T)
    return replace(weights, shape=wanted, arrays=arrays, random_seed=None)


def _padded(rows: FloatArray, old: tuple[int, ...], new: tuple[int, ...]) -> FloatArray:
    """The array whose rows, numbered along the axes `old`, lie among zeros along the axes `new`."""
    result = np.zeros((*new, *rows.shape[1:]), np.float32)
    result[tuple(slice(size) for size in old)] = rows.reshape(*old, *rows.shape[1:])
    return result.reshape(-1, *rows.shape[1:])
