"""The differentiable LLaMA forward pass: one implementation for calibration, training and scoring.

Computing with a `Part` (the first kv heads, the first query heads of each, the first channels and hidden dimensions
of some layers) reads views of the whole model's tensors, so one set of tensors serves every shape, and gradients flow
back into it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

from autotune.candidate import DraftShape
from autotune.proxy.parts import Part, whole_part
from autotune.rotary import rotary_caches
from autotune.shape import weight_shapes
from autotune.weights import ModelWeights, Numerics, TokenIds

Observer = Callable[[str, Tensor], None]
"""Called with the name and value of an activation: `layers.I.attn.in`, `layers.I.ffn.in` (residual stream before the
norm), `layers.I.ffn.channels`, and `out` (residual stream before the last norm)."""


@dataclass(frozen=True)
class Network:
    """A model as torch tensors by canonical name (see `autotune.weights`)."""

    shape: DraftShape
    numerics: Numerics
    tensors: Mapping[str, Tensor]
    token_ids: TokenIds | None = None
    """`[head_rows]` the tokens of a trimmed head's rows; None: row i is token i."""

    def to_weights(self) -> ModelWeights:
        """The model as NumPy arrays (copies)."""
        arrays = {name: self.tensors[name].detach().numpy().copy() for name, _ in weight_shapes(self.shape)}
        return ModelWeights(self.shape, self.numerics, arrays, self.token_ids)


def network_of(weights: ModelWeights, *, trainable: bool = False) -> Network:
    """The model as torch tensors (copies, so that training never writes into the caller's arrays).

    They are in C order, because the optimiser walks tensors and their saved moments as they lie in memory.
    """
    tensors = {
        name: torch.from_numpy(np.array(weights.arrays[name], np.float32, order="C")).requires_grad_(trainable)
        for name, _ in weight_shapes(weights.shape)
    }
    return Network(weights.shape, weights.numerics, tensors, weights.token_ids)


def hidden_states(
    network: Network, tokens: Tensor, part: Part | None = None, observe: Observer | None = None
) -> Tensor:
    """Normed hidden states `[batch, length, hidden]` after each of the `tokens [batch, length]`.

    Attention is causal: right-padding never reaches the positions before it.
    """
    part = part or whole_part(network.shape)
    tensors, eps = network.tensors, network.numerics.norm_eps
    rotation = _rotation(tokens.shape[1], network.shape.head_dim, network.numerics)
    stream = F.embedding(tokens, tensors["embed"])[..., : part.hidden]
    for index in part.layers:
        name = f"layers.{index}"
        _see(observe, f"{name}.attn.in", stream)
        normed = F.rms_norm(stream, (part.hidden,), tensors[f"{name}.attn.norm"][: part.hidden], eps)
        stream = stream + _attention(network, name, normed, part, rotation)
        _see(observe, f"{name}.ffn.in", stream)
        normed = F.rms_norm(stream, (part.hidden,), tensors[f"{name}.ffn.norm"][: part.hidden], eps)
        gate = F.linear(normed, tensors[f"{name}.ffn.gate"][: part.ffn, : part.hidden])
        channels = F.silu(gate) * F.linear(normed, tensors[f"{name}.ffn.up"][: part.ffn, : part.hidden])
        _see(observe, f"{name}.ffn.channels", channels)
        stream = stream + F.linear(channels, tensors[f"{name}.ffn.down"][: part.hidden, : part.ffn])
    _see(observe, "out", stream)
    return F.rms_norm(stream, (part.hidden,), tensors["norm"][: part.hidden], eps)


def head_logits(network: Network, states: Tensor) -> Tensor:
    """Logits `[..., head_rows]` of normed hidden states `[..., hidden]` (of the whole model or of a part)."""
    return F.linear(states, network.tensors["head"][:, : states.shape[-1]])


def _attention(network: Network, name: str, normed: Tensor, part: Part, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """The attention's addition to the residual stream `[batch, length, hidden]`."""
    batch, length, hidden = normed.shape
    whole, head_dim = network.shape, network.shape.head_dim
    group, kept_group = whole.heads // whole.kv_heads, part.heads // part.kv_heads

    def heads(kind: str, per_kv: int, kept: int) -> Tensor:
        """The projection's rows of the part, as `[batch, heads, length, head_dim]` activations."""
        rows = network.tensors[f"{name}.attn.{kind}"].view(whole.kv_heads, per_kv, head_dim, whole.hidden)
        rows = rows[: part.kv_heads, :kept, :, :hidden].flatten(0, 2)
        return F.linear(normed, rows).view(batch, length, -1, head_dim).transpose(1, 2)

    query = _rotate(heads("q", group, kept_group), *rotation)
    key = _rotate(heads("k", 1, 1), *rotation)
    mixed = F.scaled_dot_product_attention(query, key, heads("v", 1, 1), is_causal=True, enable_gqa=kept_group > 1)
    columns = network.tensors[f"{name}.attn.o"].view(whole.hidden, whole.kv_heads, group, head_dim)
    columns = columns[:hidden, : part.kv_heads, :kept_group].flatten(1)
    return F.linear(mixed.transpose(1, 2).flatten(2), columns)


def _rotation(length: int, head_dim: int, numerics: Numerics) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[length, head_dim]` of the rotary embedding."""
    cosines, sines = (torch.from_numpy(each).repeat(1, 2) for each in rotary_caches(numerics, head_dim, length))
    return cosines, sines


def _rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * cosines + torch.cat([-second, first], dim=-1) * sines


def _see(observe: Observer | None, name: str, value: Tensor) -> None:
    if observe is not None:
        observe(name, value)
