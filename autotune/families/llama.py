"""LLaMA 1 to 3, and what is built like it (Vicuna, Sheared-LLaMA)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from autotune.families.base import Config
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

    def fitted_shape(self, shape: DraftShape) -> DraftShape | None:
        """The shape with the fewest heads that divide its hidden size, which transformers demands of a LLaMA."""
        group = shape.heads // shape.kv_heads
        for heads in range(shape.heads, shape.hidden + 1):
            for kv_heads in range(shape.kv_heads, heads // group + 1):
                if shape.hidden % heads == 0 and heads % kv_heads == 0:
                    return replace(shape, heads=heads, kv_heads=kv_heads)
        return None

    def config(self, shape: DraftShape, numerics: Numerics, tied: bool = False, like: Path | None = None) -> Config:
        """The config.json of a checkpoint of such weights; BadRequest if there can be none."""
        if _is_mistral(shape):
            return Mistral().config(shape, replace(numerics, family=Mistral.name), tied, like)
        return super().config(shape, numerics, tied, like)

    def write(self, weights: ModelWeights, folder: Path, like: Path | None) -> None:
        """Write a checkpoint that transformers loads with the same logits (fp32)."""
        if _is_mistral(weights.shape):
            renamed = replace(weights, numerics=replace(weights.numerics, family=Mistral.name))
            return Mistral().write(renamed, folder, like)
        return super().write(weights, folder, like)


def _is_mistral(shape: DraftShape) -> bool:
    """Whether a checkpoint must call the model a Mistral, which computes the same and may have any number of heads.

    transformers refuses a LLaMA whose heads do not divide its hidden size; one with biases has to get more heads.
    """
    return shape.hidden % shape.heads != 0 and not shape.style.biases
