import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from autotune.errors import BadRequest
from autotune.families import family_of, read_checkpoint, write_checkpoint
from autotune.families.base import Config
from autotune.weights import trimmed
from tests.support.checkpoints import VOCAB, edit_json, logits_of, save_llama

IDS = [5, 1, 300, 17, 17, 200, 9]

VARIANTS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "one kv head": {"num_key_value_heads": 1},
    "full heads": {"num_key_value_heads": 4},
    "own head size": {"head_dim": 16},
    "tied": {"tie_word_embeddings": True},
    "sharded": {"shard_size": "20KB"},
    "fp16": {"dtype": torch.float16},
    "bf16": {"dtype": torch.bfloat16},
    "other numerics": {"rms_norm_eps": 1e-3, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
}


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_reads_what_transformers_saved(variant: str, tmp_path: Path) -> None:
    model = save_llama(tmp_path, **VARIANTS[variant])
    weights = read_checkpoint(tmp_path)
    stored = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    assert all(array.dtype == np.float32 for array in weights.arrays.values())
    np.testing.assert_array_equal(weights.arrays["embed"], stored["model.embed_tokens.weight"])
    np.testing.assert_array_equal(weights.arrays["norm"], stored["model.norm.weight"])
    np.testing.assert_array_equal(weights.arrays["head"], stored["lm_head.weight"])
    for ours, theirs in {
        "attn.norm": "input_layernorm",
        "attn.q": "self_attn.q_proj",
        "attn.k": "self_attn.k_proj",
        "attn.v": "self_attn.v_proj",
        "attn.o": "self_attn.o_proj",
        "ffn.norm": "post_attention_layernorm",
        "ffn.gate": "mlp.gate_proj",
        "ffn.up": "mlp.up_proj",
        "ffn.down": "mlp.down_proj",
    }.items():
        np.testing.assert_array_equal(weights.layer(1, ours), stored[f"model.layers.1.{theirs}.weight"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip_keeps_the_logits(variant: str, tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    save_llama(original, **VARIANTS[variant])
    weights = read_checkpoint(original)
    write_checkpoint(weights, copy, like=original)
    torch.testing.assert_close(logits_of(copy, IDS), logits_of(original, IDS), rtol=0, atol=0)
    again = read_checkpoint(copy)
    assert (again.shape, again.numerics) == (weights.shape, weights.numerics)
    generation = json.loads((copy / "generation_config.json").read_text())
    assert generation["eos_token_id"] == json.loads((copy / "config.json").read_text())["eos_token_id"] == 0


def test_shape_and_numerics_come_from_the_config(tmp_path: Path) -> None:
    save_llama(tmp_path, head_dim=16, **VARIANTS["other numerics"])
    shape, numerics = family_of(tmp_path).describe(tmp_path)
    assert (shape.layers, shape.heads, shape.kv_heads, shape.head_dim) == (2, 4, 2, 16)
    assert (shape.hidden, shape.ffn, shape.vocab) == (32, 48, VOCAB)
    assert (numerics.family, numerics.norm_eps, numerics.rope_theta, numerics.context_tokens) == (
        ("llama", 1e-3, 500.0, 64)
    )


def test_reads_configs_of_transformers_4(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", remove=("rope_parameters", "head_dim"), rope_theta=700.0, rope_scaling=None)
    shape, numerics = family_of(checkpoint).describe(checkpoint)
    assert shape.head_dim == 8
    assert numerics.rope_theta == 700.0


def test_writes_untied_what_is_no_longer_shared(tmp_path: Path) -> None:
    """A draft cut from a tied model may have a head of its own."""
    save_llama(tmp_path / "tied", tie_word_embeddings=True)
    tied = read_checkpoint(tmp_path / "tied")
    arrays = {**tied.arrays, "head": tied.arrays["head"] * np.float32(2)}
    write_checkpoint(type(tied)(tied.shape, tied.numerics, arrays), tmp_path / "untied", like=tmp_path / "tied")
    expected = 2 * logits_of(tmp_path / "tied", IDS)
    torch.testing.assert_close(logits_of(tmp_path / "untied", IDS), expected)


def test_a_family_that_nobody_knows_cannot_be_written(tiny_checkpoint: Path, tmp_path: Path) -> None:
    weights = read_checkpoint(tiny_checkpoint)
    strange = type(weights.numerics)("mamba", 1e-5, 1e4, 64)
    with pytest.raises(BadRequest, match="no family 'mamba'"):
        write_checkpoint(type(weights)(weights.shape, strange, weights.arrays), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_bias": True}, "has no tensor 'model.layers.0.self_attn.q_proj.bias'"),
        ({"mlp_bias": True}, "has no tensor 'model.layers.0.mlp.gate_proj.bias'"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope type 'llama3' without factor"),
        ({"rope_parameters": None, "rope_scaling": {"type": "yarn", "factor": 2}}, "rope type 'yarn' .*only 'default'"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial rotary"),
        ({"quantization_config": {"bits": 4}}, "quantised weights"),
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel, .* supported: LlamaForCausalLM"),
        ({"architectures": None, "model_type": "mamba"}, "is a mamba, .* supported: LlamaForCausalLM"),
        ({"num_attention_heads": 3, "head_dim": 8}, "3 heads cannot be shared evenly by 2 kv heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"intermediate_size": 49}, r"'model.layers.0.mlp.gate_proj.weight' .* is \[48, 32\], .* asks for \[49, 32\]"),
        ({"num_hidden_layers": 3}, "has no tensor 'model.layers.2"),
        (
            {"vocab_size": 321},
            r"vocab_size 321, but 'model.embed_tokens.weight' has 320 rows: .* set vocab_size to 320",
        ),
    ],
)
def test_refuses_a_config_it_cannot_honour(change: Config, message: str, checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", **change)
    with pytest.raises(BadRequest, match=message):
        read_checkpoint(checkpoint)


def test_refuses_what_is_not_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="is not a folder"):
        read_checkpoint(tmp_path / "nowhere")
    (checkpoint / "config.json").write_text('{"architectures": [')
    with pytest.raises(BadRequest, match=r"config.json is not valid JSON"):
        read_checkpoint(checkpoint)
    (checkpoint / "config.json").write_text("[1, 2]")
    with pytest.raises(BadRequest, match="must hold a JSON object, not a list"):
        read_checkpoint(checkpoint)
    (checkpoint / "config.json").unlink()
    with pytest.raises(BadRequest, match=r"has no config.json"):
        read_checkpoint(checkpoint)


def test_refuses_missing_and_pickled_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(BadRequest, match="has no weights"):
        read_checkpoint(checkpoint)
    torch.save({}, checkpoint / "pytorch_model.bin")
    with pytest.raises(BadRequest, match=r"only pickled PyTorch weights.*convert it"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize("kept_bytes", [0, 5, 300, -1])
def test_refuses_truncated_weights(kept_bytes: int, checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(BadRequest, match="corrupt or cut short"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_refuses_weights_that_are_not_finite(value: float, checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(tensors, path)
    with pytest.raises(BadRequest, match=r"'model.layers.1.mlp.up_proj.weight' .* NaN or infinite"):
        read_checkpoint(checkpoint)


def test_refuses_a_number_format_it_does_not_read(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, path)
    with pytest.raises(BadRequest, match=r"stores 'model.norm.weight' as F8_E4M3: convert"):
        read_checkpoint(checkpoint)


def test_refuses_a_broken_shard_index(tmp_path: Path) -> None:
    save_llama(tmp_path, shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[-1].unlink()
    with pytest.raises(BadRequest, match=f"lacks the shard {shards[-1].name}"):
        read_checkpoint(tmp_path)
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}))
    with pytest.raises(BadRequest, match="which is no safetensors file of the folder"):
        read_checkpoint(tmp_path)
    index.write_text("{}")
    with pytest.raises(BadRequest, match="no weight_map"):
        read_checkpoint(tmp_path)


def test_a_checkpoint_that_cannot_be_written_is_one_clear_line(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadRequest, match="cannot write"):
        write_checkpoint(read_checkpoint(tiny_checkpoint), tmp_path / "file" / "folder")


def test_a_trimmed_head_is_refused_before_anything_is_written(tiny_checkpoint: Path, tmp_path: Path) -> None:
    weights = trimmed(read_checkpoint(tiny_checkpoint), np.arange(16))
    with pytest.raises(BadRequest, match=f"a head trimmed to 16 of {VOCAB} tokens cannot be written as a Hugging Face"):
        write_checkpoint(weights, tmp_path)
    assert not list(tmp_path.iterdir())
