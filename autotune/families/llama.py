"""The LLaMA family: RMSNorm, rotary positions, grouped-query attention and SwiGLU, without biases."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autotune.candidate import DraftShape
from autotune.errors import BadRequest
from autotune.families.base import Config, architectures_of
from autotune.families.checkpoint import CheckpointTensors, read_config, write_files
from autotune.shape import weight_shapes
from autotune.weights import FloatArray, ModelWeights, Numerics

_LAYER_NAMES = {
    "attn.norm": "input_layernorm",
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj",
    "ffn.norm": "post_attention_layernorm",
    "ffn.gate": "mlp.gate_proj",
    "ffn.up": "mlp.up_proj",
    "ffn.down": "mlp.down_proj",
}
_OUTER_NAMES = {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight"}
_KEPT_FROM_LIKE = ("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range")

_Count = Annotated[int, Field(ge=1)]


class _LlamaConfig(BaseModel):
    """The entries of config.json that decide the arithmetic; defaults are those of transformers."""

    model_config = ConfigDict(extra="ignore")

    vocab_size: _Count
    hidden_size: _Count
    intermediate_size: _Count
    num_hidden_layers: _Count
    num_attention_heads: _Count
    num_key_value_heads: _Count | None = None
    head_dim: _Count | None = None
    max_position_embeddings: _Count = 2048
    rms_norm_eps: Annotated[float, Field(ge=0.0)] = 1e-6
    rope_theta: float | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    quantization_config: dict[str, Any] | None = None

    @property
    def rope(self) -> Mapping[str, Any]:
        """Rotary settings, where transformers 5 (`rope_parameters`) or 4 (`rope_scaling`) puts them."""
        return self.rope_parameters or self.rope_scaling or {}

    @property
    def theta(self) -> float:
        """Base of the rotary frequencies."""
        return float(self.rope.get("rope_theta") or self.rope_theta or 10_000.0)

    def unsupported(self) -> str | None:
        """The first setting this program cannot reproduce, in words; None if there is none."""
        rope_type = self.rope.get("rope_type", self.rope.get("type", "default"))
        checks = (
            (self.quantization_config is not None, "quantised weights (quantization_config)"),
            (self.attention_bias, "attention_bias = true"),
            (self.mlp_bias, "mlp_bias = true"),
            (self.hidden_act not in ("silu", "swish"), f"hidden_act {self.hidden_act!r} (only 'silu')"),
            (rope_type != "default", f"rope type {rope_type!r} (only 'default')"),
            (self.rope.get("partial_rotary_factor", 1.0) != 1.0, "partial rotary embeddings"),
        )
        return next((words for is_set, words in checks if is_set), None)


class Llama:
    """Checkpoints of `LlamaForCausalLM`."""

    name = "llama"
    architectures: tuple[str, ...] = ("LlamaForCausalLM",)

    def matches(self, config: Config) -> bool:
        """Whether config.json names a LLaMA."""
        return any(name in self.architectures for name in architectures_of(config))

    def describe(self, folder: Path) -> tuple[DraftShape, Numerics]:
        """Shape and numerics of the checkpoint."""
        config = _read_config(folder)
        numerics = Numerics(self.name, config.rms_norm_eps, config.theta, config.max_position_embeddings)
        return _shape(config, folder), numerics

    def read(self, folder: Path) -> ModelWeights:
        """The checkpoint's weights under canonical names."""
        config = _read_config(folder)
        shape, numerics = self.describe(folder)
        tensors = CheckpointTensors(folder)
        arrays: dict[str, FloatArray] = {}
        for name, size in weight_shapes(shape):
            if name == "head" and config.tie_word_embeddings:
                arrays["head"] = arrays["embed"]
            else:
                arrays[name] = tensors.fp32(_stored_name(name), size)
        return ModelWeights(shape, numerics, arrays)

    def write(self, weights: ModelWeights, folder: Path, like: Path | None) -> None:
        """Write a checkpoint that transformers loads with the same logits (fp32)."""
        tied = weights.arrays["head"] is weights.arrays["embed"]
        arrays = {_stored_name(name): array for name, array in weights.arrays.items() if not (tied and name == "head")}
        kept = read_config(like) if like is not None else {}
        config = {name: kept[name] for name in _KEPT_FROM_LIKE if name in kept} | _config_of(weights, tied)
        write_files(folder, config, arrays, like)


def _read_config(folder: Path) -> _LlamaConfig:
    try:
        config = _LlamaConfig.model_validate(read_config(folder))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"{folder}/config.json: {where}: {first['msg']}") from error
    unsupported = config.unsupported()
    if unsupported:
        raise BadRequest(f"{folder}: {unsupported} is not supported")
    return config


def _shape(config: _LlamaConfig, folder: Path) -> DraftShape:
    heads = config.num_attention_heads
    try:
        return DraftShape(
            layers=config.num_hidden_layers,
            heads=heads,
            kv_heads=config.num_key_value_heads or heads,
            head_dim=config.head_dim or config.hidden_size // heads,
            hidden=config.hidden_size,
            ffn=config.intermediate_size,
            vocab=config.vocab_size,
        )
    except ValueError as error:
        raise BadRequest(f"{folder}/config.json: {error}") from error


def _stored_name(name: str) -> str:
    """The Hugging Face name of a canonical one."""
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    _, index, part = name.split(".", 2)
    return f"model.layers.{index}.{_LAYER_NAMES[part]}.weight"


def _config_of(weights: ModelWeights, tied: bool) -> dict[str, Any]:
    shape, numerics = weights.shape, weights.numerics
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": numerics.context_tokens,
        "rms_norm_eps": numerics.norm_eps,
        # Engines built on transformers 4 read rope_theta, those on 5 rope_parameters.
        "rope_theta": numerics.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": numerics.rope_theta},
        "tie_word_embeddings": tied,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float32",
    }
