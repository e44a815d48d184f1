"""LLaMA 1 to 3, and what is built like it (Vicuna, Sheared-LLaMA)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from autotune.families.heads import with_heads
from autotune.families.llama_like import ATTENTION, FFN, LlamaLike, LlamaLikeSettings
from autotune.families.mistral import Mistral
from autotune.families.settings import Positions
from autotune.shape import DraftShape, Style
from autotune.weights import ModelWeights, Numerics


class _LlamaSettings(LlamaLikeSettings):
    max_position_embeddings: Positions = 2048
    attention_bias: bool = False
    mlp_bias: bool = False

    def style(self) -> Style:
        return Style(biases=ATTENTION * self.attention_bias + FFN * self.mlp_bias)


class Llama(LlamaLike[_LlamaSettings]):
    """Checkpoints of `LlamaForCausalLM`."""

    name = "llama"
    architectures: tuple[str, ...] = ("LlamaForCausalLM",)
    model_type: ClassVar[str] = "llama"
    settings = _LlamaSettings

    def entries(self, shape: DraftShape, numerics: Numerics) -> Mapping[str, Any]:
        """The entries of config.json."""
        biases = shape.style.biases
        return {
            **super().entries(shape, numerics),
            "attention_bias": set(ATTENTION) <= set(biases),
            "mlp_bias": set(FFN) <= set(biases),
        }

    def why_not_written(self, shape: DraftShape) -> str | None:
        """Why transformers would not load it; None if it would."""
        if not shape.style.biases or _loadable_heads(shape):
            return None
        return f"transformers wants heads that divide the hidden size {shape.hidden}"

    def fitted(self, weights: ModelWeights) -> ModelWeights:
        """The model with heads that divide its hidden size, which transformers demands of a LLaMA."""
        heads = _loadable_heads(weights.shape)
        fits = heads is None or weights.shape.hidden % weights.shape.heads == 0
        return weights if heads is None or fits else with_heads(weights, *heads, weights.shape.head_dim)

    def write(self, weights: ModelWeights, folder: Path, like: Path | None) -> None:
        """Write a checkpoint that transformers loads with the same logits (fp32).

        A model whose heads do not divide its hidden size is written as a Mistral, which computes the same and may have
        any number of heads.
        """
        shape = weights.shape
        if shape.hidden % shape.heads and not shape.style.biases:
            renamed = replace(weights, numerics=replace(weights.numerics, family=Mistral.name))
            return Mistral().write(renamed, folder, like)
        return super().write(weights, folder, like)


def _loadable_heads(shape: DraftShape) -> tuple[int, int] | None:
    """The fewest (kv heads, query heads of each), none below the shape's, that divide its hidden size together."""
    group = shape.heads // shape.kv_heads
    for heads in range(shape.heads, shape.hidden + 1):
        if shape.hidden % heads == 0:
            for kv_heads in range(shape.kv_heads, heads // group + 1):
                if heads % kv_heads == 0:
                    return kv_heads, heads // kv_heads
    return None
