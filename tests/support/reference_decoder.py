"""What a decoder of any style computes, written out plainly in NumPy; tests hold it to transformers."""

import numpy as np
from numpy.typing import NDArray

from autotune.rotary import rotary_caches
from autotune.shape import Norm
from autotune.weights import ModelWeights

Array = NDArray[np.float64]


def decoder_logits(weights: ModelWeights, tokens: list[int]) -> NDArray[np.float32]:
    """Logits `[n, head_rows]` after each token of a sequence, in double precision until the end."""
    arrays = {name: array.astype(np.float64) for name, array in weights.arrays.items()}
    style, length = weights.shape.style, len(tokens)
    stream = arrays["embed"][tokens]
    if style.embed_dim:
        stream = stream @ arrays["embed.project"].T
    if style.learned_positions:
        stream = stream + arrays["positions"][:length]
    for index in range(weights.shape.layers):
        layer = {
            name.removeprefix(f"layers.{index}."): array
            for name, array in arrays.items()
            if name.startswith(f"layers.{index}.")
        }
        for block, compute in (("attn", _attention), ("ffn", _ffn)):
            normed = _norm(weights, layer, f"{block}.norm", stream) if style.norm_first else stream
            stream = stream + compute(weights, layer, normed)
            if not style.norm_first:
                stream = _norm(weights, layer, f"{block}.norm", stream)
    if style.norm_first:
        stream = _norm(weights, arrays, "norm", stream)
    if style.embed_dim:
        stream = stream @ arrays["head.project"].T
    return (stream @ arrays["head"].T).astype(np.float32)


def _linear(layer: dict[str, Array], name: str, x: Array) -> Array:
    bias = layer.get(f"{name}.bias")
    product: Array = x @ layer[name].T
    return product if bias is None else product + bias


def _norm(weights: ModelWeights, layer: dict[str, Array], name: str, x: Array) -> Array:
    eps = weights.numerics.norm_eps
    if weights.shape.style.norm is Norm.RMS:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * layer[name]
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * layer[name] + layer[f"{name}.bias"]


def _ffn(weights: ModelWeights, layer: dict[str, Array], x: Array) -> Array:
    up = _linear(layer, "ffn.up", x)
    if not weights.shape.style.gated:
        return _linear(layer, "ffn.down", np.maximum(up, 0))
    gate = _linear(layer, "ffn.gate", x)
    return _linear(layer, "ffn.down", gate / (1 + np.exp(-gate)) * up)


def _attention(weights: ModelWeights, layer: dict[str, Array], x: Array) -> Array:
    shape, length = weights.shape, len(x)
    query, key, value = (
        _linear(layer, f"attn.{part}", x).reshape(length, -1, shape.head_dim).swapaxes(0, 1) for part in "qkv"
    )
    if shape.style.qk_norm:
        query, key = (
            each / np.sqrt((each**2).mean(-1, keepdims=True) + weights.numerics.norm_eps) * layer[name]
            for each, name in ((query, "attn.q_norm"), (key, "attn.k_norm"))
        )
    if not shape.style.learned_positions:
        cosines, sines = (np.tile(each, (1, 2)) for each in rotary_caches(weights.numerics, shape.head_dim, length))
        query, key = (each * cosines + _turned(each) * sines for each in (query, key))
    group = shape.heads // shape.kv_heads
    key, value = np.repeat(key, group, axis=0), np.repeat(value, group, axis=0)
    scores = query @ key.swapaxes(1, 2) / np.sqrt(shape.head_dim)
    scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = shares / shares.sum(-1, keepdims=True) @ value
    return _linear(layer, "attn.o", mixed.swapaxes(0, 1).reshape(length, -1))


def _turned(heads: Array) -> Array:
    first, second = np.split(heads, 2, axis=-1)
    return np.concatenate([-second, first], axis=-1)
