"""OPT: learned positions, LayerNorm and a ReLU, with biases; OPT-350M norms last and has a narrower embedding."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from autotune.families.mapped import MappedFamily
from autotune.families.rope import DEFAULT_THETA
from autotune.families.settings import FfnWidth, Positions, Settings, Width
from autotune.shape import DraftShape, Norm, Style
from autotune.weights import Numerics

_BIASES = ("attn.q", "attn.k", "attn.v", "attn.o", "ffn.up", "ffn.down")
_NORM_EPS = 1e-5
"""config.json has no entry for it."""


class _OptSettings(Settings):
    ffn_dim: FfnWidth
    max_position_embeddings: Positions = 2048
    word_embed_proj_dim: Width | None = None
    do_layer_norm_before: bool = True
    remove_final_layer_norm: bool = Field(False, alias="_remove_final_layer_norm")
    activation_function: str = "relu"
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    tie_word_embeddings: bool = True

    def shape(self) -> DraftShape:
        narrow = self.word_embed_proj_dim not in (None, self.hidden_size)
        style = Style(
            norm=Norm.LAYER,
            norm_first=self.do_layer_norm_before,
            learned_positions=self.max_position_embeddings,
            gated=False,
            biases=_BIASES if self.enable_bias else (),
            embed_dim=self.word_embed_proj_dim if narrow else None,
        )
        return DraftShape(
            layers=self.num_hidden_layers,
            heads=self.num_attention_heads,
            kv_heads=self.num_attention_heads,
            head_dim=self.whole_head_dim(),
            hidden=self.hidden_size,
            ffn=self.ffn_dim,
            vocab=self.vocab_size,
            style=style,
        )

    def numerics(self, family: str) -> Numerics:
        return Numerics(family, _NORM_EPS, DEFAULT_THETA, self.max_position_embeddings)

    def unsupported(self) -> Iterator[str]:
        yield from super().unsupported()
        if self.activation_function != "relu":
            yield f"activation_function {self.activation_function!r} (only 'relu')"
        if self.remove_final_layer_norm and self.do_layer_norm_before:
            yield "_remove_final_layer_norm = true"
        if not self.layer_norm_elementwise_affine:
            yield "layer_norm_elementwise_affine = false"


class Opt(MappedFamily[_OptSettings]):
    """Checkpoints of `OPTForCausalLM`."""

    name = "opt"
    architectures: tuple[str, ...] = ("OPTForCausalLM",)
    model_type: ClassVar[str] = "opt"
    settings = _OptSettings
    prefixes: ClassVar[tuple[str, ...]] = ("model.decoder.", "decoder.")
    names: ClassVar[Mapping[str, str]] = {
        "embed": "embed_tokens",
        "embed.project": "project_in",
        "positions": "embed_positions",
        "norm": "final_layer_norm",
        "head.project": "project_out",
        "attn.norm": "self_attn_layer_norm",
        "attn.q": "self_attn.q_proj",
        "attn.k": "self_attn.k_proj",
        "attn.v": "self_attn.v_proj",
        "attn.o": "self_attn.out_proj",
        "ffn.norm": "final_layer_norm",
        "ffn.up": "fc1",
        "ffn.down": "fc2",
    }
    unused_rows: ClassVar[Mapping[str, int]] = {"positions": 2}  # position 0 is the third row
    kept_from_like: ClassVar[tuple[str, ...]] = ("prefix", "init_std", "dropout", "attention_dropout", "layerdrop")

    def entries(self, shape: DraftShape, numerics: Numerics) -> Mapping[str, Any]:
        """The entries of config.json."""
        return {
            "ffn_dim": shape.ffn,
            "max_position_embeddings": shape.style.learned_positions,
            "word_embed_proj_dim": shape.embed_dim,
            "do_layer_norm_before": shape.style.norm_first,
            "_remove_final_layer_norm": False,
            "activation_function": "relu",
            "enable_bias": bool(shape.style.biases),
            "layer_norm_elementwise_affine": True,
        }

    def fitted_shape(self, shape: DraftShape) -> DraftShape | None:
        """The shape with as many heads as share out the hidden size, which is how config.json tells their size."""
        sizes = range(shape.head_dim, shape.hidden // shape.heads + 1)
        size = next((each for each in sizes if shape.hidden % each == 0), None)
        if size is None:
            return None
        heads = shape.hidden // size
        return replace(shape, heads=heads, kv_heads=heads, head_dim=size)
