"""Mistral: LLaMA whose attention may reach back over a window only."""

from collections.abc import Mapping
from typing import Any, ClassVar

from autotune.families.llama_like import LlamaLike, LlamaLikeSettings
from autotune.families.settings import Positions, Width
from autotune.shape import DraftShape
from autotune.weights import Numerics


class _MistralSettings(LlamaLikeSettings):
    max_position_embeddings: Positions = 131_072
    num_key_value_heads: Width | None = 8
    sliding_window: Positions | None = 4096

    def window_tokens(self) -> int | None:
        return self.sliding_window


class Mistral(LlamaLike[_MistralSettings]):
    """Checkpoints of `MistralForCausalLM`; no sequence is longer than their window."""

    name = "mistral"
    architectures: tuple[str, ...] = ("MistralForCausalLM",)
    model_type: ClassVar[str] = "mistral"
    settings = _MistralSettings

    def entries(self, shape: DraftShape, numerics: Numerics) -> Mapping[str, Any]:
        """The entries of config.json, with a context that makes the window needless."""
        return {**super().entries(shape, numerics), "sliding_window": None}
