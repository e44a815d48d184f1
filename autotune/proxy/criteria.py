"""How much each unit of a model matters, from its weights and one forward pass over calibration text.

The criteria are those that kept most acceptance in paired trials without any training: heads by magnitude, FFN
channels by Wanda (activation norm × norm of the column that reads it; Sun et al. 2306.11695), hidden dimensions by
mean absolute activation behind the norms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.candidate import DraftShape
from autotune.proxy.network import Network, hidden_states, network_of
from autotune.proxy.units import Indices, LayerUnits
from autotune.shape import Norm, Style
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
    """Importance of every unit of a model, and the moments of what its norms see.

    Norms are those of attention and FFN of every layer in turn, then the last one, or what leaves the last layer of a
    model that has no norm there.
    """

    layers: tuple[LayerImportance, ...]
    hidden: FloatArray
    """`[hidden]`."""
    energy: FloatArray
    """`[2 * layers + 1, hidden]` mean squares entering each norm."""
    mean: FloatArray
    """`[2 * layers + 1, hidden]` means entering each norm."""

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

    def norm_statistics(self, style: Style, hidden: Indices) -> tuple[FloatArray, FloatArray]:
        """What each norm would subtract and divide by if it saw only these dimensions: two arrays `[2 * layers + 1]`.

        RMSNorm subtracts nothing and divides by the root mean square.  LayerNorm subtracts the mean over dimensions and
        divides by the standard deviation about it.  Its square is the mean square less the square of that mean, which
        varies from position to position: by the variance of a dimension over their number, as if dimensions varied
        independently, for their covariances would take far more memory than the model.
        """
        energy, mean = self.energy[:, hidden].mean(axis=1), self.mean[:, hidden].mean(axis=1)
        if style.norm is Norm.RMS:
            return np.zeros_like(mean), np.sqrt(energy)
        varying = (self.energy[:, hidden] - np.square(self.mean[:, hidden])).mean(axis=1) / len(hidden)
        return mean, np.sqrt(np.maximum(energy - np.square(mean) - varying, 0.0))


def calibrate(source: ModelWeights, sequences: Sequence[TokenIds]) -> Importance:
    """Importance of the source's units on `sequences` of token ids."""
    shape = source.shape
    network = network_of(source)
    seen = _Sums(network)
    with torch.inference_mode():
        for sequence in sequences:
            hidden_states(network, torch.from_numpy(sequence.astype(np.int64))[None], observe=seen.add)
    layers = tuple(_layer_importance(source, index, seen) for index in range(shape.layers))
    norms = [f"layers.{index}.{block}.in" for index in range(shape.layers) for block in ("attn", "ffn")]
    hidden = np.sum([seen.mean(f"{name}|normed") for name in norms], axis=0)
    energy, mean = (np.stack([seen.mean(f"{name}|{kind}") for name in [*norms, "out"]]) for kind in ("square", "value"))
    return Importance(layers, hidden, energy, mean)


class _Sums:
    """Sums over positions of each observed activation, of its square and, for norm inputs, of the norm's |output|."""

    def __init__(self, network: Network) -> None:
        self.view = network.view()
        self.sums: dict[str, Tensor] = {}
        self.positions = 0

    def add(self, name: str, value: Tensor) -> None:
        """Take in an activation `[1, length, units]`."""
        self._accumulate(f"{name}|square", value[0].square().sum(0))
        self._accumulate(f"{name}|value", value[0].sum(0))
        if name.endswith(".in"):
            _, index, block, _ = name.split(".")
            normed = self.view.layer(int(index)).norm(f"{block}.norm", value[0])
            self._accumulate(f"{name}|normed", normed.abs().sum(0))
        if name == "out":
            self.positions += value.shape[1]

    def mean(self, name: str) -> FloatArray:
        """Mean over all positions `[units]`."""
        mean: FloatArray = (self.sums[name] / self.positions).numpy()
        return mean

    def _accumulate(self, name: str, total: Tensor) -> None:
        self.sums[name] = self.sums[name] + total if name in self.sums else total


def _layer_importance(source: ModelWeights, index: int, seen: _Sums) -> LayerImportance:
    shape, style = source.shape, source.shape.style

    def row_norms(name: str, heads: int) -> FloatArray:
        """Magnitude of each head's rows; a bias is one more column, that of an input which is always 1."""
        squares = np.square(source.layer(index, name)).reshape(heads, -1).sum(axis=1)
        if name in style.biases:
            squares = squares + np.square(source.layer(index, f"{name}.bias")).reshape(heads, -1).sum(axis=1)
        norms: FloatArray = np.sqrt(squares)
        return norms

    outputs = source.layer(index, "attn.o").reshape(shape.hidden, shape.heads, shape.head_dim)
    heads: FloatArray = np.linalg.norm(outputs, axis=(0, 2))
    kv_heads = row_norms("attn.v", shape.kv_heads)
    if not style.qk_norm:  # which takes the magnitude of queries and keys away
        heads, kv_heads = heads + row_norms("attn.q", shape.heads), kv_heads + row_norms("attn.k", shape.kv_heads)
    kv_heads = kv_heads + heads.reshape(shape.kv_heads, -1).sum(axis=1)
    activity = np.sqrt(seen.mean(f"layers.{index}.ffn.channels|square"))
    channels = activity * np.linalg.norm(source.layer(index, "ffn.down"), axis=0)
    return LayerImportance(heads, kv_heads, channels)


def _descending(scores: FloatArray) -> Indices:
    return np.argsort(-scores, kind="stable")
