"""Tiny random models as canonical weights, and what their logits must be."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.families import write_checkpoint
from autotune.shape import DraftShape, Norm, Style
from autotune.weights import ModelWeights, Numerics, RopeScaling, random_weights
from tests.support.checkpoints import logits_of

NUMERICS = Numerics(family="llama", norm_eps=1e-5, rope_theta=10_000.0, context_tokens=128)

_OPT_BIASES = ("attn.q", "attn.k", "attn.v", "attn.o", "ffn.up", "ffn.down")
_OPT = Style(norm=Norm.LAYER, learned_positions=128, gated=False, biases=_OPT_BIASES)
_OPT_350M = Style(
    norm=Norm.LAYER, norm_first=False, learned_positions=128, gated=False, biases=_OPT_BIASES, embed_dim=24
)
_QWEN2 = Style(biases=("attn.q", "attn.k", "attn.v"))

STYLED = {
    "scaled rotary": (DraftShape(2, 4, 2, 32, 64, 88, 101), "llama"),
    "qwen2": (DraftShape(2, 4, 2, 16, 64, 88, 101, style=_QWEN2), "qwen2"),
    "qwen3": (DraftShape(2, 4, 2, 16, 48, 88, 101, style=Style(qk_norm=True)), "qwen3"),
    "opt": (DraftShape(2, 4, 4, 16, 64, 88, 101, style=_OPT), "opt"),
    "opt-350m": (DraftShape(2, 4, 4, 8, 32, 40, 101, style=_OPT_350M), "opt"),
    "opt, odd heads": (DraftShape(1, 3, 3, 6, 18, 20, 33, style=_OPT), "opt"),
}
"""Models that are not built the usual way, with their families: every piece of `autotune.shape.Style`."""


def styled_weights(name: str, seed: int = 0) -> ModelWeights:
    """Random weights of a model of `STYLED`."""
    shape, family = STYLED[name]
    scaling = RopeScaling(8.0, 1.0, 4.0, 64) if name == "scaled rotary" else None
    theta = 1_000_000.0 if family.startswith("qwen") else 10_000.0
    return tiny_weights(shape, seed, Numerics(family, 1e-5, theta, 128, scaling))


def tiny_weights(shape: DraftShape, seed: int = 0, numerics: Numerics = NUMERICS) -> ModelWeights:
    """Random weights whose norms and biases differ from one another, which all-alike ones would hide when mixed up."""
    weights = random_weights(shape, numerics, seed)
    rng = np.random.default_rng(seed + 1)
    vectors = {
        name: rng.uniform(*((-0.3, 0.3) if name.endswith("bias") else (0.5, 1.5)), array.shape).astype(np.float32)
        for name, array in weights.arrays.items()
        if array.ndim == 1
    }
    return ModelWeights(shape, numerics, dict(weights.arrays) | vectors)


def reference_logits(weights: ModelWeights, tokens: list[int], folder: Path) -> NDArray[np.float32]:
    """Logits `[n, vocab]` of transformers' model in fp32; the checkpoint is written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(weights, folder)
    logits: NDArray[np.float32] = logits_of(folder, tokens).numpy()
    return logits
