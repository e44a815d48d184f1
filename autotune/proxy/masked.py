"""A network under masks, and the draft that is left of it: masks are folded into weights in the same way for both."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from autotune.proxy.masks import Kind, Masks, Openness, Row, sizes
from autotune.proxy.network import Network
from autotune.proxy.part_view import PartView
from autotune.proxy.parts import Part, whole_part
from autotune.proxy.units import LayerUnits, select
from autotune.shape import DraftShape, Norm
from autotune.weights import ModelWeights

_BARELY_OPEN = 0.01
"""A unit that the shape keeps although its mask has shut: nearly what the mask left of it, and yet it can learn."""


@dataclass(frozen=True)
class MaskedView(PartView):
    """The weights of a masked network, and what masks do to norms and layers, which no weights can express."""

    kept: Tensor | None = None
    """`[hidden]` 1 for dimensions that are open at all, 0 for those that are shut; None: all are open."""
    layers: Tensor | None = None
    """`[layers]` how open each layer is; None: all are open."""

    def norm(self, name: str, stream: Tensor) -> Tensor:
        """The residual stream `[..., hidden]` normalised over its open dimensions; the others hold 0 and stay so."""
        if self.kept is None:
            return super().norm(name, stream)
        count = self.kept.sum().clamp(min=1.0)
        subtracts = self.whole.style.norm is Norm.LAYER
        if subtracts:
            stream = (stream - stream.sum(-1, keepdim=True) / count) * self.kept
        scale = torch.rsqrt(stream.square().sum(-1, keepdim=True) / count + self.norm_eps)
        normed = stream * scale * self.weight(name)
        return normed + self.weight(f"{name}.bias") if subtracts else normed

    def behind(self, index: int, before: Tensor, after: Tensor) -> Tensor:
        """The stream behind a layer; one that is shut leaves it as it was, also where norms stand behind the sums."""
        return after if self.layers is None else torch.lerp(before, after, self.layers[index])


@dataclass(frozen=True)
class MaskedNetwork(Network):
    """A network with masks folded into its tensors."""

    kept: Tensor | None = None
    """As in `MaskedView`."""
    layers: Tensor | None = None

    def view(self, part: Part | None = None) -> PartView:
        """The tensors as they are computed with; ValueError if a part of them is asked for."""
        whole = whole_part(self.shape)
        if part not in (None, whole):
            raise ValueError("a masked network is computed as a whole")
        return MaskedView(self.shape, self.numerics.norm_eps, self.tensors, whole, "", self.kept, self.layers)


def masked(network: Network, masks: Openness) -> MaskedNetwork:
    """The network under masks.

    Hidden dimensions are masked wherever something is written into the residual stream and behind every norm, whose
    statistics are those of the open dimensions (as in Sheared LLaMA); heads and channels where their outputs are read.
    """
    hidden = masks.get(Kind.HIDDEN)
    return MaskedNetwork(
        network.shape,
        network.numerics,
        _folded(network.shape, network.tensors, masks),
        network.token_ids,
        kept=None if hidden is None else (hidden > 0).to(hidden.dtype),
        layers=masks.get(Kind.LAYERS),
    )


def pruned_by(network: Network, masks: Masks, shape: DraftShape) -> ModelWeights:
    """The draft of exactly that shape that the most open units make up, their masks folded into its weights.

    Where masks are 0 or 1 as the shape asks, it computes what the masked network does.
    """
    whole, asked = sizes(network.shape), sizes(shape)
    widest = {kind: masks.widest(kind, asked[kind][-1]) for kind in masks.parameters}
    settled = {kind: _as_chosen(values, widest[kind]) for kind, values in masks.settled().items()}
    with torch.no_grad():
        folded = replace(network, tensors=_folded(network.shape, network.tensors, settled)).to_weights()

    def chosen(kind: Kind, *row: int) -> list[int]:
        return widest[kind][row] if kind in widest else list(range(whole[kind][-1]))

    group = network.shape.heads // network.shape.kv_heads
    units = []
    for layer in sorted(chosen(Kind.LAYERS)):
        kv_heads, channels = chosen(Kind.KV_HEADS, layer), chosen(Kind.CHANNELS, layer)
        heads = [[kv * group + head for head in chosen(Kind.HEADS, layer, kv)] for kv in kv_heads]
        taken = LayerUnits(layer, np.array(kv_heads), np.array(heads), np.array(channels))
        units.append(taken.in_source_order())
    return select(folded, units, np.sort(chosen(Kind.HIDDEN)))


def _as_chosen(values: Tensor, chosen: Mapping[Row, list[int]]) -> Tensor:
    """The masks of the chosen units, a little open at least; those of the others shut."""
    result = torch.zeros_like(values)
    for row, units in chosen.items():
        result[row][units] = values[row][units].clamp(min=_BARELY_OPEN)
    return result


def _folded(shape: DraftShape, tensors: Mapping[str, Tensor], masks: Openness) -> dict[str, Tensor]:
    """The tensors with all masks but those of layers multiplied in."""
    folded = dict(tensors)

    def fold(name: str, axis: int, mask: Tensor | None) -> None:
        if mask is not None and name in folded:
            tensor = folded[name]
            folded[name] = tensor * mask.view([-1 if each == axis else 1 for each in range(tensor.ndim)])

    def written(name: str, axis: int = 0) -> None:
        """Mask what is written into the residual stream along an axis of the weight, and its bias."""
        fold(name, axis, masks.get(Kind.HIDDEN))
        fold(f"{name}.bias", 0, masks.get(Kind.HIDDEN))

    if shape.style.embed_dim:
        written("embed.project")
    else:
        written("embed", axis=1)
    written("positions", axis=1)
    written("norm")
    heads, channels = _query_masks(shape, masks), masks.get(Kind.CHANNELS)
    for index in range(shape.layers):
        layer = f"layers.{index}"
        for name in ("attn.norm", "attn.o", "ffn.norm", "ffn.down"):
            written(f"{layer}.{name}")
        fold(f"{layer}.attn.o", 1, None if heads is None else heads[index])
        fold(f"{layer}.ffn.down", 1, None if channels is None else channels[index])
    return folded


def _query_masks(shape: DraftShape, masks: Openness) -> Tensor | None:
    """`[layers, heads * head_dim]` the masks of query heads, for each of their dimensions; None: all are open."""
    groups, heads = masks.get(Kind.KV_HEADS), masks.get(Kind.HEADS)
    if groups is None:
        if heads is None:
            return None
        each = heads
    else:
        each = groups[..., None].expand(sizes(shape)[Kind.HEADS])
        each = each if heads is None else each * heads
    return each.flatten(1).repeat_interleave(shape.head_dim, dim=1)
