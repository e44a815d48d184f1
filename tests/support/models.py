"""Tiny random LLaMAs as canonical weights, and what transformers computes with them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.candidate import DraftShape
from autotune.families.llama import Llama
from autotune.weights import ModelWeights, Numerics, random_weights
from tests.support.checkpoints import logits_of

NUMERICS = Numerics(family="llama", norm_eps=1e-5, rope_theta=10_000.0, context_tokens=128)


def tiny_weights(shape: DraftShape, seed: int = 0) -> ModelWeights:
    """Random weights whose norms differ from one another, which all-ones norms would hide when mixed up."""
    weights = random_weights(shape, NUMERICS, seed)
    rng = np.random.default_rng(seed + 1)
    norms = {
        name: rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
        for name, array in weights.arrays.items()
        if name.endswith("norm")
    }
    return ModelWeights(shape, NUMERICS, dict(weights.arrays) | norms)


def reference_logits(weights: ModelWeights, tokens: list[int], folder: Path) -> NDArray[np.float32]:
    """Logits `[n, vocab]` of transformers' LlamaForCausalLM in fp32; the checkpoint is written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    Llama().write(weights, folder, like=None)
    logits: NDArray[np.float32] = logits_of(folder, tokens).numpy()
    return logits
