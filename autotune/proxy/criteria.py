"""How much each unit of a model matters, from its weights and one forward pass over calibration text.

The criteria are those that kept most acceptance in paired trials without any training: heads by magnitude, FFN
channels by Wanda (activation norm × norm of the column that reads it; Sun et al. 2306.11695), hidden dimensions by
mean absolute activation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.candidate import DraftShape
from autotune.proxy.network import hidden_states, network_of
from autotune.proxy.units import Indices, LayerUnits
from autotune.weights import FloatArray, ModelWeights

TokenIds = NDArray[np.int32]


@dataclass(frozen=True)
class LayerImportance:
    """Importance of one layer's units; larger matters more."""

    heads: FloatArray
    """`[heads]` query heads."""
    kv_heads: FloatArray
    """`[kv_heads]` key/value heads together with their query heads."""
    channels: FloatArray
    """`[ffn]`."""


@dataclass(frozen=True)
class Importance:
    """Importance of every unit of a model, and the residual stream's energy that norms see."""

    layers: tuple[LayerImportance, ...]
    hidden: FloatArray
    """`[hidden]`."""
    energy: FloatArray
    """`[2 * layers + 1, hidden]` mean squares entering each norm: attention and FFN of every layer, then the last."""

    def best(self, layer: int, shape: DraftShape) -> LayerUnits:
        """The most important units of a layer for a draft of `shape`, the most important first."""
        scores = self.layers[layer]
        kv_heads = _descending(scores.kv_heads)[: shape.kv_heads]
        group = len(scores.heads) // len(scores.kv_heads)
        kept = shape.heads // shape.kv_heads
        within = np.stack([_descending(scores.heads.reshape(-1, group)[kv])[:kept] for kv in kv_heads])
        channels = _descending(scores.channels)[: shape.ffn]
        return LayerUnits(layer, kv_heads, kv_heads[:, None] * group + within, channels)

    def best_hidden(self, count: int) -> Indices:
        """The `count` most important hidden dimensions, the most important first."""
        return _descending(self.hidden)[:count]


def calibrate(source: ModelWeights, sequences: Sequence[TokenIds]) -> Importance:
    """Importance of the source's units on `sequences` of token ids."""
    shape = source.shape
    seen = _Sums(source)
    network = network_of(source)
    with torch.inference_mode():
        for sequence in sequences:
            hidden_states(network, torch.from_numpy(sequence.astype(np.int64))[None], observe=seen.add)
    layers = tuple(_layer_importance(source, index, seen) for index in range(shape.layers))
    norms = [f"layers.{index}.{block}.in" for index in range(shape.layers) for block in ("attn", "ffn")]
    hidden = np.sum([seen.mean(f"{name}|normed") for name in norms], axis=0)
    return Importance(layers, hidden, np.stack([seen.mean(name) for name in [*norms, "out"]]))


class _Sums:
    """Sums over positions of each observed activation's squares and, for norm inputs, of the norm's |output|."""

    def __init__(self, source: ModelWeights) -> None:
        self.source = source
        self.sums: dict[str, Tensor] = {}
        self.positions = 0

    def add(self, name: str, value: Tensor) -> None:
        """Take in an activation `[1, length, units]`."""
        squares = value[0].square()
        self._accumulate(name, squares.sum(0))
        if name.endswith(".in"):
            gain = torch.from_numpy(self.source.arrays[name.removesuffix(".in") + ".norm"].copy())
            root = (squares.mean(-1, keepdim=True) + self.source.numerics.norm_eps).sqrt()
            self._accumulate(f"{name}|normed", (value[0] / root * gain).abs().sum(0))
        if name == "out":
            self.positions += value.shape[1]

    def mean(self, name: str) -> FloatArray:
        """Mean over all positions `[units]`."""
        mean: FloatArray = (self.sums[name] / self.positions).numpy()
        return mean

    def _accumulate(self, name: str, total: Tensor) -> None:
        self.sums[name] = self.sums[name] + total if name in self.sums else total


def _layer_importance(source: ModelWeights, index: int, seen: _Sums) -> LayerImportance:
    shape = source.shape

    def row_norms(name: str, heads: int) -> FloatArray:
        norms: FloatArray = np.linalg.norm(source.layer(index, name).reshape(heads, -1), axis=1)
        return norms

    outputs = source.layer(index, "attn.o").reshape(shape.hidden, shape.heads, shape.head_dim)
    heads = row_norms("attn.q", shape.heads) + np.linalg.norm(outputs, axis=(0, 2))
    kv_heads = row_norms("attn.k", shape.kv_heads) + row_norms("attn.v", shape.kv_heads)
    kv_heads = kv_heads + heads.reshape(shape.kv_heads, -1).sum(axis=1)
    channels = np.sqrt(seen.mean(f"layers.{index}.ffn.channels")) * np.linalg.norm(
        source.layer(index, "ffn.down"), axis=0
    )
    return LayerImportance(heads, kv_heads, channels)


def _descending(scores: FloatArray) -> Indices:
    return np.argsort(-scores, kind="stable")
