"""The same model with heads added: for checkpoints whose format fixes how many heads there are, or of what size."""

from dataclasses import replace
from math import sqrt

import numpy as np

from autotune.weights import FloatArray, ModelWeights


def with_heads(weights: ModelWeights, kv_heads: int, group: int, head_dim: int) -> ModelWeights:
    """A model with the same logits that has `kv_heads` groups of `group` query heads, each of `head_dim`.

    What is added are zeros: such heads, and such dimensions of a head, add nothing to what attention computes.  Heads
    that are rotated or normed must keep their size.
    """
    shape = weights.shape
    old = (shape.kv_heads, shape.heads // shape.kv_heads, shape.head_dim)
    new = (kv_heads, group, head_dim)
    if any(wanted < had for wanted, had in zip(new, old, strict=True)):
        raise ValueError(f"heads {old} cannot be filled up to {new}")
    if head_dim != shape.head_dim and (shape.style.qk_norm or not shape.style.learned_positions):
        raise ValueError("heads that are rotated or normed must keep their size")
    # Attention divides scores by the root of the heads' size, which may have changed.
    scale = np.float32(sqrt(head_dim / shape.head_dim))
    arrays = dict(weights.arrays)
    for index in range(shape.layers):
        for name, axes, factor in (("q", (0, 1, 2), scale), ("k", (0, 2), None), ("v", (0, 2), None)):
            for full in (f"layers.{index}.attn.{name}", f"layers.{index}.attn.{name}.bias"):
                if full in arrays:
                    padded = _padded(arrays[full], [old[axis] for axis in axes], [new[axis] for axis in axes])
                    arrays[full] = padded if factor is None else padded * factor
        output = f"layers.{index}.attn.o"
        arrays[output] = np.ascontiguousarray(_padded(arrays[output].T, list(old), list(new)).T)
    grown = replace(shape, heads=kv_heads * group, kv_heads=kv_heads, head_dim=head_dim)
    return replace(weights, shape=grown, arrays=arrays)


def _padded(rows: FloatArray, old: list[int], new: list[int]) -> FloatArray:
    """The array whose rows, numbered along the axes `old`, lie among zeros along the axes `new`."""
    result = np.zeros((*new, *rows.shape[1:]), np.float32)
    result[tuple(slice(size) for size in old)] = rows.reshape(*old, *rows.shape[1:])
    return result.reshape(-1, *rows.shape[1:])
