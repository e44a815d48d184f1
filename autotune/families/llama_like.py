"""What LLaMA's descendants share: RMSNorm, rotary positions, grouped-query attention and SwiGLU."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from autotune.families.mapped import MappedFamily
from autotune.families.rope import DEFAULT_THETA, RopeSettings, rope_entries
from autotune.families.settings import AnySettings, FfnWidth, Positions, PositiveFloat, Settings, Width
from autotune.shape import DraftShape, Style
from autotune.weights import Numerics

ATTENTION = ("attn.q", "attn.k", "attn.v", "attn.o")
FFN = ("ffn.gate", "ffn.up", "ffn.down")


class LlamaLikeSettings(Settings):
    """The entries these families share."""

    intermediate_size: FfnWidth
    num_key_value_heads: Width | None = None
    head_dim: Width | None = None
    max_position_embeddings: Positions
    rms_norm_eps: Annotated[float, Field(ge=0.0)] = 1e-6
    rope_theta: PositiveFloat | None = None
    rope_parameters: RopeSettings | None = None
    rope_scaling: RopeSettings | None = None
    original_max_position_embeddings: Positions | None = None
    partial_rotary_factor: float | None = None
    hidden_act: str = "silu"

    def style(self) -> Style:
        """How the decoder is built."""
        return Style()

    def window_tokens(self) -> int | None:
        """Positions that attention reaches back over; None: all of them."""
        return None

    def shape(self) -> DraftShape:
        """The model's architecture."""
        return DraftShape(
            layers=self.num_hidden_layers,
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads or self.num_attention_heads,
            head_dim=self.head_dim or self.whole_head_dim(),
            hidden=self.hidden_size,
            ffn=self.intermediate_size,
            vocab=self.vocab_size,
            style=self.style(),
        )

    def numerics(self, family: str) -> Numerics:
        """Norms, rotary embeddings and context; within one window, sliding attention is whole attention."""
        rope, positions = self._rope, self.max_position_embeddings
        return Numerics(
            family,
            self.rms_norm_eps,
            rope.rope_theta or self.rope_theta or DEFAULT_THETA,
            min(positions, self.window_tokens() or positions),
            rope.scaling(self.original_max_position_embeddings or positions),
        )

    def unsupported(self) -> Iterator[str]:
        """Settings this program cannot reproduce, in words."""
        yield from super().unsupported()
        if self.hidden_act not in ("silu", "swish"):
            yield f"hidden_act {self.hidden_act!r} (only 'silu')"
        yield from self._rope.unsupported()
        if self.partial_rotary_factor not in (None, 1.0):
            yield "partial rotary embeddings"

    @property
    def _rope(self) -> RopeSettings:
        """Rotary settings, where transformers 5 looks for them first."""
        return self.rope_scaling or self.rope_parameters or RopeSettings()


class LlamaLike(MappedFamily[AnySettings]):
    """Checkpoints with LLaMA's names."""

    prefixes: ClassVar[tuple[str, ...]] = ("model.", "")
    names: ClassVar[Mapping[str, str]] = {
        "embed": "embed_tokens",
        "norm": "norm",
        "attn.norm": "input_layernorm",
        "attn.q": "self_attn.q_proj",
        "attn.k": "self_attn.k_proj",
        "attn.v": "self_attn.v_proj",
        "attn.q_norm": "self_attn.q_norm",
        "attn.k_norm": "self_attn.k_norm",
        "attn.o": "self_attn.o_proj",
        "ffn.norm": "post_attention_layernorm",
        "ffn.gate": "mlp.gate_proj",
        "ffn.up": "mlp.up_proj",
        "ffn.down": "mlp.down_proj",
    }
    kept_from_like: ClassVar[tuple[str, ...]] = ("initializer_range",)

    def entries(self, shape: DraftShape, numerics: Numerics) -> Mapping[str, Any]:
        """The entries of config.json that these families share."""
        return {
            "intermediate_size": shape.ffn,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "max_position_embeddings": numerics.context_tokens,
            "rms_norm_eps": numerics.norm_eps,
            "hidden_act": "silu",
            **rope_entries(numerics),
        }
