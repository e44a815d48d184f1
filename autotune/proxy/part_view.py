"""A model's tensors as one part of it sees them: the first units of every kind, as views where memory allows it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

from autotune.proxy.parts import Part
from autotune.proxy.unit_axes import Unit, unit_axes
from autotune.shape import DraftShape, Norm


@dataclass(frozen=True)
class PartView:
    """The weights that a part computes with, and the pieces of arithmetic that need nothing but one of them.

    Names are canonical (`autotune.weights`), without the layer in the view of a layer.
    """

    whole: DraftShape
    norm_eps: float
    tensors: Mapping[str, Tensor]
    """Those of the whole model that are asked for."""
    part: Part
    prefix: str = ""

    def layer(self, index: int) -> "PartView":
        """The view of one layer."""
        return replace(self, prefix=f"layers.{index}.")

    def weight(self, name: str) -> Tensor:
        """The tensor of that name, of the part's units alone."""
        tensor = self.tensors[self.prefix + name]
        for axis, unit in enumerate(unit_axes(name, self.whole.style)):
            tensor = self._first(tensor, axis, unit)
        return tensor

    def linear(self, name: str, inputs: Tensor) -> Tensor:
        """`inputs [..., in]` times the matrix, and its bias if it has one: `[..., out]`."""
        bias = self.weight(f"{name}.bias") if name in self.whole.style.biases else None
        return F.linear(inputs, self.weight(name), bias)

    def norm(self, name: str, stream: Tensor) -> Tensor:
        """The residual stream `[..., hidden]` normalised over the part's hidden dimensions."""
        if self.whole.style.norm is Norm.RMS:
            return self.rms_norm(name, stream)
        gain, bias = self.weight(name), self.weight(f"{name}.bias")
        return F.layer_norm(stream, stream.shape[-1:], gain, bias, self.norm_eps)

    def rms_norm(self, name: str, values: Tensor) -> Tensor:
        """`values [..., n]` over their root mean square, times the gain `[n]`."""
        return F.rms_norm(values, values.shape[-1:], self.weight(name), self.norm_eps)

    def behind(self, index: int, before: Tensor, after: Tensor) -> Tensor:
        """What follows a layer, of the residual stream `[..., hidden]` that enters it and of that which it makes."""
        del index, before
        return after

    def _first(self, tensor: Tensor, axis: int, unit: Unit) -> Tensor:
        """The tensor with only the part's units along an axis."""
        part, whole = self.part, self.whole
        match unit:
            case Unit.HIDDEN:
                return tensor.narrow(axis, 0, part.hidden)
            case Unit.CHANNEL:
                return tensor.narrow(axis, 0, part.ffn)
            case Unit.KEY_VALUE:
                return tensor.narrow(axis, 0, part.kv_heads * whole.head_dim)
            case Unit.QUERY:
                grouped = torch.unflatten(tensor, axis, (whole.kv_heads, -1, whole.head_dim))
                kept = grouped.narrow(axis, 0, part.kv_heads).narrow(axis + 1, 0, part.heads // part.kv_heads)
                return kept.flatten(axis, axis + 2)
            case Unit.FIXED:
                return tensor
