"""The differentiable forward pass of a decoder of any style: one implementation for calibration, training and scoring.

Computing with a `Part` (the first kv heads, the first query heads of each, the first channels and hidden dimensions
of some layers) reads views of the whole model's tensors, so one set of tensors serves every shape, and gradients flow
back into it.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

from autotune.candidate import DraftShape
from autotune.errors import BadRequest
from autotune.proxy.part_view import PartView
from autotune.proxy.parts import Part, whole_part
from autotune.rotary import rotary_caches
from autotune.shape import weight_shapes
from autotune.weights import FloatArray, ModelWeights, Numerics, TokenIds

Observer = Callable[[str, Tensor], None]
"""Called with the name and value of an activation: `layers.I.attn.in`, `layers.I.ffn.in` (what enters the norm of that
name: the residual stream before the block or, where norms come last, after it), `layers.I.ffn.channels`, and `out`
(residual stream before the last norm, where there is one)."""

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines `[length, head_dim]` of the rotary embedding."""


@dataclass(frozen=True)
class Network:
    """A model as torch tensors by canonical name (see `autotune.weights`)."""

    shape: DraftShape
    numerics: Numerics
    tensors: Mapping[str, Tensor]
    """All of the model's; scoring, which computes layer by layer, holds only those it needs at the time."""
    token_ids: TokenIds | None = None
    """`[head_rows]` the tokens of a trimmed head's rows; None: row i is token i."""

    def view(self, part: Part | None = None) -> PartView:
        """The tensors as a part sees them; None: the whole model."""
        return PartView(self.shape, self.numerics.norm_eps, self.tensors, part or whole_part(self.shape))

    def to_weights(self) -> ModelWeights:
        """The model as NumPy arrays (copies)."""
        arrays = {name: self.tensors[name].detach().cpu().numpy().copy() for name, _ in weight_shapes(self.shape)}
        return ModelWeights(self.shape, self.numerics, arrays, self.token_ids)


def network_of(weights: ModelWeights, *, trainable: bool = False, device: torch.device | None = None) -> Network:
    """The model as torch tensors; those that are trained may be on another device than the CPU.

    Tensors that are trained are copies, so that training never writes into the caller's arrays, also where a head is
    tied to the embedding: the two are then trained apart.  Others share the arrays' memory: never write into them.
    """
    names = [name for name, _ in weight_shapes(weights.shape)]
    if trainable:
        # In C order, because the optimiser walks tensors and their saved moments as they lie in memory.
        copies = {name: np.array(weights.arrays[name], np.float32, order="C") for name in names}
        tensors = {name: torch.from_numpy(copy).to(device=device).requires_grad_() for name, copy in copies.items()}
    else:
        tensors = shared_tensors((name, weights.arrays[name]) for name in names)
    return Network(weights.shape, weights.numerics, tensors, weights.token_ids)


def shared_tensors(arrays: Iterable[tuple[str, FloatArray]]) -> dict[str, Tensor]:
    """The arrays as tensors in the same memory, which must not be written into."""
    with warnings.catch_warnings():
        # Memory-mapped arrays are read-only; torch has no such tensors and warns of writes, of which there are none.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return {name: torch.from_numpy(array) for name, array in arrays}


def hidden_states(
    network: Network, tokens: Tensor, part: Part | None = None, observe: Observer | None = None
) -> Tensor:
    """Hidden states `[batch, length, hidden]` that the head reads after each of the `tokens [batch, length]`.

    Attention is causal: right-padding never reaches the positions before it.
    """
    view = network.view(part)
    rotation = rotation_of(network, tokens.shape[1], tokens.device)
    stream = embedded(view, tokens)
    for index in view.part.layers:
        stream = view.behind(index, stream, through_layer(view, index, stream, rotation, observe))
    return for_head(view, stream, observe)


def embedded(view: PartView, tokens: Tensor) -> Tensor:
    """The residual stream `[batch, length, hidden]` that enters the first layer."""
    style, length = view.whole.style, tokens.shape[1]
    stream = F.embedding(tokens, view.tensors["embed"])
    # Rows are looked up before their dimensions are cut: the table is far larger than a batch.
    stream = view.linear("embed.project", stream) if style.embed_dim else stream[..., : view.part.hidden]
    if not style.learned_positions:
        return stream
    if length > style.learned_positions:
        raise BadRequest(f"a text of {length} tokens is longer than the model's {style.learned_positions} positions")
    return stream + view.weight("positions")[:length]


def through_layer(
    view: PartView, index: int, stream: Tensor, rotation: Rotation | None, observe: Observer | None = None
) -> Tensor:
    """The residual stream `[batch, length, hidden]` behind a layer."""
    layer, norm_first = view.layer(index), view.whole.style.norm_first

    def normed(block: str, value: Tensor) -> Tensor:
        _see(observe, f"{layer.prefix}{block}.in", value)
        return layer.norm(f"{block}.norm", value)

    def channels(value: Tensor) -> None:
        _see(observe, f"{layer.prefix}ffn.channels", value)

    if norm_first:
        stream = stream + _attention(layer, normed("attn", stream), rotation)
        return stream + _ffn(layer, normed("ffn", stream), channels)
    stream = normed("attn", stream + _attention(layer, stream, rotation))
    return normed("ffn", stream + _ffn(layer, stream, channels))


def for_head(view: PartView, stream: Tensor, observe: Observer | None = None) -> Tensor:
    """What the head reads of the residual stream `[..., hidden]` behind the last layer."""
    _see(observe, "out", stream)
    return view.norm("norm", stream) if view.whole.style.norm_first else stream


def head_logits(network: Network, states: Tensor) -> Tensor:
    """Logits `[..., head_rows]` of hidden states `[..., hidden]` (of the whole model or of a part)."""
    if network.shape.style.embed_dim:
        states = F.linear(states, network.tensors["head.project"][:, : states.shape[-1]])
    return F.linear(states, network.tensors["head"][:, : states.shape[-1]])


def rotation_of(network: Network, length: int, device: torch.device | None = None) -> Rotation | None:
    """The rotary embedding of that many positions; None where positions are learned."""
    if network.shape.style.learned_positions:
        return None
    caches = rotary_caches(network.numerics, network.shape.head_dim, length)
    cosines, sines = (torch.from_numpy(each).repeat(1, 2).to(device=device) for each in caches)
    return cosines, sines


def _attention(layer: PartView, inputs: Tensor, rotation: Rotation | None) -> Tensor:
    """The attention's addition to the residual stream `[batch, length, hidden]`."""
    head_dim, qk_norm = layer.whole.head_dim, layer.whole.style.qk_norm

    def heads(kind: str) -> Tensor:
        """`[batch, heads, length, head_dim]` queries, keys or values."""
        return torch.unflatten(layer.linear(f"attn.{kind}", inputs), -1, (-1, head_dim)).transpose(1, 2)

    def placed(kind: str) -> Tensor:
        """Queries or keys as they meet: normed and rotated where the style says so."""
        raw = heads(kind)
        normed = layer.rms_norm(f"attn.{kind}_norm", raw) if qk_norm else raw
        return normed if rotation is None else _rotate(normed, *rotation)

    grouped = layer.part.heads > layer.part.kv_heads
    mixed = F.scaled_dot_product_attention(placed("q"), placed("k"), heads("v"), is_causal=True, enable_gqa=grouped)
    return layer.linear("attn.o", mixed.transpose(1, 2).flatten(2))


def _ffn(layer: PartView, inputs: Tensor, see_channels: Callable[[Tensor], None]) -> Tensor:
    """The FFN's addition to the residual stream `[batch, length, hidden]`."""
    up = layer.linear("ffn.up", inputs)
    channels = F.silu(layer.linear("ffn.gate", inputs)) * up if layer.whole.style.gated else F.relu(up)
    see_channels(channels)
    return layer.linear("ffn.down", channels)


def _rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * cosines + torch.cat([-second, first], dim=-1) * sines


def _see(observe: Observer | None, name: str, value: Tensor) -> None:
    if observe is not None:
        observe(name, value)
