"""Choosing units of a model: layers, heads by kv group, channels and hidden dimensions (NumPy only).

Pruning takes a subset of the units, ordering permutes them, slicing takes a prefix: all three are one `select`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autotune.candidate import DraftShape
from autotune.errors import BadRequest
from autotune.weights import FloatArray, ModelWeights

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class LayerUnits:
    """Which units of one layer to take, in which order."""

    layer: int
    kv_heads: Indices
    """`[kv_heads]` key/value heads of the layer."""
    heads: Indices
    """`[kv_heads, group]` query heads; row i are heads that share `kv_heads[i]`."""
    channels: Indices
    """`[ffn]` FFN channels."""


def select(source: ModelWeights, layers: Sequence[LayerUnits], hidden: Indices) -> ModelWeights:
    """The model made of these units of `source`; `hidden` are the residual dimensions, the same in every layer."""
    head_dim = source.shape.head_dim
    arrays: dict[str, FloatArray] = {
        "embed": source.arrays["embed"][:, hidden],
        "norm": source.arrays["norm"][hidden],
        "head": source.arrays["head"][:, hidden],
    }
    for position, units in enumerate(layers):
        query, kv = _rows(units.heads.ravel(), head_dim), _rows(units.kv_heads, head_dim)
        taken = {
            "attn.norm": (hidden,),
            "attn.q": (query, hidden),
            "attn.k": (kv, hidden),
            "attn.v": (kv, hidden),
            "attn.o": (hidden, query),
            "ffn.norm": (hidden,),
            "ffn.gate": (units.channels, hidden),
            "ffn.up": (units.channels, hidden),
            "ffn.down": (hidden, units.channels),
        }
        for name, axes in taken.items():
            arrays[f"layers.{position}.{name}"] = source.layer(units.layer, name)[np.ix_(*axes)]
    shape = replace(
        source.shape,
        layers=len(layers),
        heads=layers[0].heads.size,
        kv_heads=layers[0].kv_heads.size,
        ffn=layers[0].channels.size,
        hidden=hidden.size,
    )
    return ModelWeights(shape, source.numerics, arrays)


def pick_layers(total: int, count: int) -> tuple[int, ...]:
    """The layers a draft of `count` layers keeps of `total`: the first ones and the last.

    The last layer writes what the head reads; without it, few layers are of no use.
    """
    return (*range(count - 1), total - 1)


def prefix(source: ModelWeights, shape: DraftShape) -> ModelWeights:
    """The first units of every kind that make up `shape`, in the layers of `pick_layers`."""
    group = source.shape.heads // source.shape.kv_heads
    kv_heads = np.arange(shape.kv_heads)
    heads = kv_heads[:, None] * group + np.arange(shape.heads // shape.kv_heads)
    layers = [
        LayerUnits(layer, kv_heads, heads, np.arange(shape.ffn))
        for layer in pick_layers(source.shape.layers, shape.layers)
    ]
    return select(source, layers, np.arange(shape.hidden))


def check_inside(source: DraftShape, shape: DraftShape) -> None:
    """Raise BadRequest, naming the axis, unless a draft of `shape` can be taken out of `source`."""
    for name in ("head_dim", "vocab", "draft_vocab"):
        if getattr(shape, name) != getattr(source, name):
            raise BadRequest(f"draft {shape}: {name} must be the source's {getattr(source, name)}")
    limits = {name: (getattr(shape, name), getattr(source, name)) for name in ("layers", "kv_heads", "ffn", "hidden")}
    limits["heads per kv head"] = (shape.heads // shape.kv_heads, source.heads // source.kv_heads)
    for name, (asked, available) in limits.items():
        if asked > available:
            raise BadRequest(f"draft {shape} has {asked} {name}, but the source has only {available}")


def _rows(heads: Indices, head_dim: int) -> Indices:
    """Rows of a projection that belong to the heads, head by head."""
    rows: Indices = (heads[:, None] * head_dim + np.arange(head_dim)).ravel()
    return rows
