"""Hard-concrete masks: how open each unit of a model is, and what holds the open ones to a shape.

A mask is a random number in [0, 1] that is exactly 0 or 1 most of the time, and yet differentiable in its parameter
(Louizos et al. 1712.01312).  The expected share of open masks of each kind is held to that of the asked shape by
Lagrange multipliers, which climb while masks and weights descend (CoFi, Xia et al. 2204.00408; Sheared LLaMA, Xia et
al. 2310.06694).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from autotune.proxy.units import pick_layers
from autotune.shape import DraftShape

LARGEST_PARAMETER = math.log(100.0)
"""Parameters of masks are to be kept within ± this, so that no mask is ever beyond recall."""

_LOW, _HIGH = -0.1, 1.1
"""The interval that a mask is stretched to before it is cut to [0, 1]."""
_TEMPERATURE = 2 / 3
_EVEN = _TEMPERATURE * math.log(-_LOW / _HIGH)
"""The parameter of a mask that is open half of the time."""
_FRONT, _BACK = 4.0, 2.0
"""Parameters that the masks of the first and the last unit of a row begin with: open nearly always."""
_FIRST_PHI = 20.0
"""The quadratic multiplier begins here rather than at 0 (as in Sheared LLaMA), since tens of steps, not thousands, are
to suffice: it holds masks to the shape at once, without λ having to climb far and to overshoot."""
_SURE = 1e-6
"""The least distance of a uniform number from 0 and 1."""


class Kind(StrEnum):
    """What a mask opens or shuts; the last axis counts the units that a row of a smaller model chooses from."""

    LAYERS = "layers"
    """`[layers]`."""
    KV_HEADS = "kv_heads"
    """`[layers, kv_heads]` key/value heads together with their query heads."""
    HEADS = "heads"
    """`[layers, kv_heads, group]` query heads among those of one key/value head."""
    CHANNELS = "channels"
    """`[layers, ffn]`."""
    HIDDEN = "hidden"
    """`[hidden]`, the same in every layer."""


Openness = Mapping[Kind, Tensor]
"""A number in [0, 1] for each unit of some kinds; all units of the others are open."""

Row = tuple[int, ...]
"""Where a row of units lies: all indices but the last."""


def sizes(shape: DraftShape) -> dict[Kind, tuple[int, ...]]:
    """The units of each kind that a model has."""
    return {
        Kind.LAYERS: (shape.layers,),
        Kind.KV_HEADS: (shape.layers, shape.kv_heads),
        Kind.HEADS: (shape.layers, shape.kv_heads, shape.heads // shape.kv_heads),
        Kind.CHANNELS: (shape.layers, shape.ffn),
        Kind.HIDDEN: (shape.hidden,),
    }


@dataclass(frozen=True)
class Masks:
    """Masks of the kinds of unit of which an asked shape has fewer than the source."""

    parameters: Mapping[Kind, Tensor]
    """log α of every mask, of the size that `sizes` says."""
    wanted: Mapping[Kind, float]
    """The share of each kind's units that is to be open."""
    multipliers: Mapping[Kind, Tensor]
    """`[2]` λ and φ of λ · (ĉ - c) + φ · (ĉ - c)²."""
    shared_by: int = 1
    """Layers that share the hidden dimensions, each of which therefore matters more to the loss than another unit."""

    def drawn(self, seed: int, step: int) -> Openness:
        """Masks drawn for one training step: a function of the seed, the step and the parameters."""
        rng = np.random.default_rng([seed, step, 2])
        drawn = {}
        for kind, log_alpha in self.parameters.items():
            uniform = rng.uniform(_SURE, 1 - _SURE, tuple(log_alpha.shape))
            noise = torch.from_numpy(np.log(uniform / (1 - uniform)).astype(np.float32)).to(log_alpha.device)
            drawn[kind] = _stretched((noise + log_alpha) / _TEMPERATURE)
        return drawn

    def settled(self) -> Openness:
        """The masks without chance, with which a network is pruned."""
        with torch.no_grad():
            return {kind: _stretched(log_alpha) for kind, log_alpha in self.parameters.items()}

    def open_shares(self) -> dict[Kind, Tensor]:
        """Of each row of each kind, the expected share ĉ of masks that are not 0."""
        return {kind: torch.sigmoid(log_alpha - _EVEN).mean(-1) for kind, log_alpha in self.parameters.items()}

    def penalty(self, progress: float) -> Tensor:
        """What the asked shape adds to the loss; the shape is approached from the whole as `progress` goes from 0 to 1.

        Σ of λ · (ĉ - c) + φ · (ĉ - c)² over the kinds, each the mean over its rows: every layer is held to its share.
        The square counts once for every layer that shares the hidden dimensions: else few steps would not shut any.
        """
        total = torch.zeros(())
        for kind, share in self.open_shares().items():
            excess = share - (1 + (self.wanted[kind] - 1) * min(progress, 1.0))
            linear, quadratic = self.multipliers[kind]
            times = self.shared_by if kind is Kind.HIDDEN else 1
            total = total.to(share.device) + (linear * excess + times * quadratic * excess.square()).mean()
        return total

    def widest(self, kind: Kind, count: int) -> dict[Row, list[int]]:
        """Of each row of a kind that has masks, its `count` most open units; of equals, the first."""
        values = self.parameters[kind].detach().numpy()
        return {row: np.argsort(-values[row], kind="stable")[:count].tolist() for row in np.ndindex(values.shape[:-1])}


def masks_for(source: DraftShape, shape: DraftShape, device: torch.device | None = None) -> Masks:
    """Masks of a source whose units lie in order of importance, the most important first (`autotune.proxy.elastic`).

    All are open at first, more important units a little wider: with few tokens to learn from, what training does not
    tell apart is left as its importance has it.
    """
    whole, asked = sizes(source), sizes(shape)
    fewer = {kind: asked[kind][-1] / whole[kind][-1] for kind in Kind if asked[kind][-1] < whole[kind][-1]}
    first = pick_layers(source.layers, shape.layers)

    def begun(kind: Kind) -> Tensor:
        values = torch.linspace(_FRONT, _BACK, whole[kind][-1])
        if kind is Kind.LAYERS:
            values = torch.tensor([_FRONT if layer in first else _BACK for layer in range(source.layers)])
        return values.expand(whole[kind]).clone().to(device=device).requires_grad_()

    multipliers = {kind: torch.tensor([0.0, _FIRST_PHI], device=device, requires_grad=True) for kind in fewer}
    return Masks({kind: begun(kind) for kind in fewer}, fewer, multipliers, shared_by=source.layers)


def _stretched(logits: Tensor) -> Tensor:
    return (torch.sigmoid(logits) * (_HIGH - _LOW) + _LOW).clamp(0.0, 1.0)
