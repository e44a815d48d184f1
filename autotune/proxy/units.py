"""Choosing units of a model: layers, heads by kv group, channels and hidden dimensions (NumPy only).

Pruning takes a subset of the units, ordering permutes them, slicing takes a prefix: all three are one `select`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autotune.candidate import DraftShape
from autotune.errors import BadRequest
from autotune.proxy.unit_axes import Unit, unit_axes
from autotune.shape import layer_weight_shapes, outer_weight_shapes
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

    def in_source_order(self) -> "LayerUnits":
        """The same units as they follow one another in the source, where what is kept whole needs no copy."""
        places = np.argsort(self.kv_heads)
        heads = np.sort(self.heads[places], axis=1)
        return LayerUnits(self.layer, self.kv_heads[places], heads, np.sort(self.channels))


def select(source: ModelWeights, layers: Sequence[LayerUnits], hidden: Indices) -> ModelWeights:
    """The model made of these units of `source`; `hidden` are the residual dimensions, the same in every layer.

    Arrays that are taken whole are the source's own; a head that is tied to the embedding stays so.
    """
    shape, head_dim = source.shape, source.shape.head_dim

    def taken(name: str, array: FloatArray, units: Mapping[Unit, Indices]) -> FloatArray:
        return _take(array, [units.get(unit) for unit in unit_axes(name, shape.style)])

    outer = {Unit.HIDDEN: hidden}
    arrays = {name: taken(name, source.arrays[name], outer) for name in outer_weight_shapes(shape)}
    if source.arrays["head"] is source.arrays["embed"]:
        arrays["head"] = arrays["embed"]
    for position, chosen in enumerate(layers):
        units = outer | {
            Unit.QUERY: _rows(chosen.heads.ravel(), head_dim),
            Unit.KEY_VALUE: _rows(chosen.kv_heads, head_dim),
            Unit.CHANNEL: chosen.channels,
        }
        for name in layer_weight_shapes(shape):
            arrays[f"layers.{position}.{name}"] = taken(name, source.layer(chosen.layer, name), units)
    selected = replace(
        shape,
        layers=len(layers),
        heads=layers[0].heads.size,
        kv_heads=layers[0].kv_heads.size,
        ffn=layers[0].channels.size,
        hidden=hidden.size,
    )
    return ModelWeights(selected, source.numerics, arrays)


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
    for name, own in vars(source.style).items():
        if getattr(shape.style, name) != own:
            raise BadRequest(f"draft {shape}: {name} of its style must be the source's {own}")
    limits = {name: (getattr(shape, name), getattr(source, name)) for name in ("layers", "kv_heads", "ffn", "hidden")}
    limits["heads per kv head"] = (shape.heads // shape.kv_heads, source.heads // source.kv_heads)
    for name, (asked, available) in limits.items():
        if asked > available:
            raise BadRequest(f"draft {shape} has {asked} {name}, but the source has only {available}")


def _take(array: FloatArray, axes: Sequence[Indices | None]) -> FloatArray:
    """The array with only these indices along each axis, in their order; None: all of them, as they are."""
    whole = [np.arange(length) for length in array.shape]
    chosen = [every if kept is None else kept for every, kept in zip(whole, axes, strict=True)]
    if all(map(np.array_equal, chosen, whole)):
        return array
    return array[np.ix_(*chosen)]


def _rows(heads: Indices, head_dim: int) -> Indices:
    """Rows of a projection that belong to the heads, head by head."""
    rows: Indices = (heads[:, None] * head_dim + np.arange(head_dim)).ravel()
    return rows
