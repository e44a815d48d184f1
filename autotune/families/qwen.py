"""Qwen2, LLaMA with biases on queries, keys and values, and Qwen3, LLaMA whose queries and keys are normed."""

from collections.abc import Mapping
from typing import Any, ClassVar

from autotune.families.llama_like import ATTENTION, LlamaLike, LlamaLikeSettings
from autotune.families.settings import AnySettings, Positions, Width
from autotune.shape import DraftShape, Style
from autotune.weights import Numerics


class _QwenSettings(LlamaLikeSettings):
    max_position_embeddings: Positions = 32_768
    num_key_value_heads: Width | None = 32
    use_sliding_window: bool = False
    sliding_window: Positions | None = 4096

    def window_tokens(self) -> int | None:
        return self.sliding_window if self.use_sliding_window else None


class _Qwen2Settings(_QwenSettings):
    def style(self) -> Style:
        return Style(biases=("attn.q", "attn.k", "attn.v"))


class _Qwen3Settings(_QwenSettings):
    head_dim: Width | None = 128
    attention_bias: bool = False

    def style(self) -> Style:
        return Style(qk_norm=True, biases=ATTENTION if self.attention_bias else ())


class _Qwen(LlamaLike[AnySettings]):
    def entries(self, shape: DraftShape, numerics: Numerics) -> Mapping[str, Any]:
        """The entries of config.json, with a context that makes a window needless."""
        return {**super().entries(shape, numerics), "use_sliding_window": False}


class Qwen2(_Qwen[_Qwen2Settings]):
    """Checkpoints of `Qwen2ForCausalLM`."""

    name = "qwen2"
    architectures: tuple[str, ...] = ("Qwen2ForCausalLM",)
    model_type: ClassVar[str] = "qwen2"
    settings = _Qwen2Settings


class Qwen3(_Qwen[_Qwen3Settings]):
    """Checkpoints of `Qwen3ForCausalLM`."""

    name = "qwen3"
    architectures: tuple[str, ...] = ("Qwen3ForCausalLM",)
    model_type: ClassVar[str] = "qwen3"
    settings = _Qwen3Settings

    def entries(self, shape: DraftShape, numerics: Numerics) -> Mapping[str, Any]:
        """The entries of config.json."""
        return {**super().entries(shape, numerics), "attention_bias": bool(shape.style.biases)}
