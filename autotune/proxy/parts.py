"""Sub-networks: what they are, which ones a shared training draws, and how much training a budget buys."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autotune.candidate import DraftShape
from autotune.errors import BadRequest
from autotune.proxy.base import Axes
from autotune.proxy.units import pick_layers

REFERENCE_FLOPS = 50e9
"""Training arithmetic per second of the reference machine that budgets in seconds are converted with: about what one
server core with AVX-512 does in fp32 to networks of a million parameters."""

BATCH_TOKENS = 1024
"""Training tokens of one step."""

CANDIDATE_BATCH_TOKENS = 512
"""Training tokens of one step where drafts are trained one by one: with few tokens, more and smaller steps teach more.

Measured on the demo, 2 layers of 8, 65,536 tokens: acceptance .545 with steps of 1024, .569 of 512, .577 of 256."""


@dataclass(frozen=True)
class Part:
    """A sub-network: the layers used, in order, and how many of each layer's units (always the first ones)."""

    layers: tuple[int, ...]
    heads: int
    kv_heads: int
    ffn: int
    hidden: int

    def shape(self, whole: DraftShape) -> DraftShape:
        """The architecture of this part of a model of shape `whole`."""
        return replace(
            whole,
            layers=len(self.layers),
            heads=self.heads,
            kv_heads=self.kv_heads,
            ffn=self.ffn,
            hidden=self.hidden,
        )


def whole_part(shape: DraftShape) -> Part:
    """The part that is the model itself."""
    return Part(tuple(range(shape.layers)), shape.heads, shape.kv_heads, shape.ffn, shape.hidden)


def draw_part(source: DraftShape, axes: Axes, seed: int, step: int) -> Part:
    """The sub-network a training step works on: a function of the seed and the step.

    Widths are drawn evenly: where full width was favoured, narrow drafts stayed behind what a training of their own
    makes of them, and the order of shapes suffered.  One part a step, for steps are what a short training lacks: the
    sandwich of largest, smallest and a random part (Yu & Huang 1903.05134) makes about a third as many.
    """
    rng = np.random.default_rng([seed, step, 1])
    layers = int(rng.choice(axes.layers, p=_depth_shares(axes)))
    heads, kv_heads = axes.heads[rng.integers(len(axes.heads))]
    return Part(
        pick_layers(source.layers, layers), heads, kv_heads, int(rng.choice(axes.ffn)), int(rng.choice(axes.hidden))
    )


def mean_parameters(source: DraftShape, axes: Axes) -> float:
    """Parameters a training step computes with, on average over the parts `draw_part` draws."""
    widths = [
        replace(source, heads=heads, kv_heads=kv_heads, ffn=ffn, hidden=hidden)
        for heads, kv_heads in axes.heads
        for ffn in axes.ffn
        for hidden in axes.hidden
    ]
    depth = float(np.dot(axes.layers, _depth_shares(axes)))

    def cost(shape: DraftShape) -> float:
        return replace(shape, layers=1).decode_parameters + (depth - 1) * shape.layer_parameters

    return float(np.mean([cost(shape) for shape in widths]))


def budget_tokens(budget_s: float, parameters: float) -> int:
    """Training tokens that `budget_s` seconds on the reference machine buy for networks of that many parameters.

    A pass forward and back takes 6 operations per parameter and token (Kaplan et al. 2001.08361).  The number
    depends on nothing measured: a slower or loaded machine takes longer and gets the same result.
    """
    return int(budget_s * REFERENCE_FLOPS / (6 * parameters))


def budget_s(tokens: int, parameters: float) -> float:
    """Seconds on the reference machine that buy this many training tokens."""
    return tokens * 6 * parameters / REFERENCE_FLOPS


def training_steps(tokens: int, parameters: float, what: str, batch_tokens: int = BATCH_TOKENS) -> int:
    """Steps that so many tokens make for networks of that many parameters; BadRequest, naming `what`, if none."""
    if tokens < batch_tokens:
        least_s = budget_s(batch_tokens, parameters)
        raise BadRequest(f"{what} is less than one training step: give at least {least_s:.2g} s")
    return tokens // batch_tokens


def _depth_shares(axes: Axes) -> NDArray[np.float64]:
    """How often each depth is drawn `[len(axes.layers)]`: in inverse proportion to its cost.

    Shallow drafts differ most from the source and have most to learn; deep ones share the layers they train.
    """
    shares = 1.0 / np.asarray(axes.layers, np.float64)
    normalised: NDArray[np.float64] = shares / shares.sum()
    return normalised
