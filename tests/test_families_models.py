"""Every family against transformers: what it reads, what it writes, and drafts cut out of what it read."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from autotune.errors import BadRequest
from autotune.families import read_checkpoint, write_checkpoint
from autotune.shape import Norm
from autotune.weights import ModelWeights
from tests.support.checkpoints import TINY_MODELS, edit_json, logits_of, save_model
from tests.support.models import STYLED, reference_logits, styled_weights
from tests.support.reference_decoder import decoder_logits

IDS = [5, 1, 300, 17, 17, 200, 9]

LLAMA31 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,  # wavelengths of 6 to 200 positions: stretched whole, in part and not at all
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{model: (model, {}) for model in TINY_MODELS},
    "llama with attention biases": ("llama", {"attention_bias": True}),
    "llama with all biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama 3.1": ("llama", {"rope_parameters": LLAMA31}),
    "llama, stretched": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "mistral without a window": ("mistral", {"sliding_window": None}),
    "mistral with a window": ("mistral", {"sliding_window": 7}),
    "mistral, own head size": ("mistral", {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 12}),
    "qwen2 with a window": ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3 with biases": ("qwen3", {"attention_bias": True}),
    "opt without biases": ("opt", {"enable_bias": False}),
    "opt, untied": ("opt", {"tie_word_embeddings": False}),
    "opt, odd heads": ("opt", {"hidden_size": 36, "num_attention_heads": 4, "word_embed_proj_dim": 36}),
    "opt, post-norm": ("opt", {"do_layer_norm_before": False}),
    "opt-350m, pre-norm": ("opt-350m", {"do_layer_norm_before": True}),
    "opt-350m, untied": ("opt-350m", {"tie_word_embeddings": False}),
    "opt, sharded": ("opt", {"shard_size": "20KB"}),
    "qwen3, sharded": ("qwen3", {"shard_size": "20KB"}),
    **{f"{model}, fp16": (model, {"dtype": torch.float16}) for model in ("opt-350m", "qwen2")},
    **{f"{model}, bf16": (model, {"dtype": torch.bfloat16}) for model in ("opt", "qwen3")},
}


def close(actual: Any, expected: Any) -> None:
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", STYLED)
def test_the_reference_decoder_computes_what_transformers_does(name: str, tmp_path: Path) -> None:
    weights = styled_weights(name)
    tokens = np.random.default_rng(7).integers(0, weights.shape.vocab, 90).tolist()
    close(decoder_logits(weights, tokens), reference_logits(weights, tokens, tmp_path))
    again = read_checkpoint(tmp_path)
    assert (again.shape, again.numerics) == (weights.shape, weights.numerics)
    for array_name, array in weights.arrays.items():
        np.testing.assert_array_equal(again.arrays[array_name], array)


@pytest.mark.parametrize("variant", VARIANTS)
def test_reads_and_writes_what_transformers_computes(variant: str, tmp_path: Path) -> None:
    model_type, settings = VARIANTS[variant]
    original, copy = tmp_path / "original", tmp_path / "copy"
    save_model(original, model_type, **settings)
    weights = read_checkpoint(original)
    assert all(array.dtype == np.float32 for array in weights.arrays.values())
    expected = logits_of(original, IDS)
    close(decoder_logits(weights, IDS), expected)

    write_checkpoint(weights, copy, like=original)
    close(logits_of(copy, IDS), expected)
    again = read_checkpoint(copy)
    assert (again.shape, again.numerics) == (weights.shape, weights.numerics)
    assert (again.arrays["head"] is again.arrays["embed"]) == (weights.arrays["head"] is weights.arrays["embed"])
    config, before = (AutoConfig.from_pretrained(folder) for folder in (copy, original))
    assert config.dtype == torch.float32
    for entry in ("architectures", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"):
        assert getattr(config, entry) == getattr(before, entry)


def test_styles_are_those_of_the_families(tmp_path: Path) -> None:
    styles = {}
    for model_type in TINY_MODELS:
        save_model(tmp_path / model_type, model_type)
        styles[model_type] = read_checkpoint(tmp_path / model_type).shape.style
    assert styles["llama"] == styles["mistral"]
    assert styles["qwen2"] == replace(styles["llama"], biases=("attn.q", "attn.k", "attn.v"))
    assert styles["qwen3"] == replace(styles["llama"], qk_norm=True)
    opt = styles["opt"]
    assert (opt.norm, opt.norm_first, opt.learned_positions, opt.gated) == (Norm.LAYER, True, 64, False)
    assert styles["opt-350m"] == replace(opt, norm_first=False, embed_dim=20)


def cut(source: ModelWeights, layers: tuple[int, ...], ffn: int) -> ModelWeights:
    """The model of some layers of `source` and their first channels, sliced by hand."""
    arrays = {name: array for name, array in source.arrays.items() if not name.startswith("layers.")}
    for position, layer in enumerate(layers):
        for name, array in source.arrays.items():
            if name.startswith(f"layers.{layer}."):
                part = name.split(".", 2)[2]
                if part.startswith(("ffn.gate", "ffn.up")):
                    array = array[:ffn]
                elif part == "ffn.down":
                    array = array[:, :ffn]
                arrays[f"layers.{position}.{part}"] = array
    return ModelWeights(replace(source.shape, layers=len(layers), ffn=ffn), source.numerics, arrays)


@pytest.mark.parametrize("model_type", TINY_MODELS)
def test_a_draft_cut_from_a_model_loads_in_transformers(model_type: str, tmp_path: Path) -> None:
    save_model(tmp_path / "source", model_type, num_hidden_layers=3)
    draft = cut(read_checkpoint(tmp_path / "source"), layers=(0, 2), ffn=20)
    write_checkpoint(draft, tmp_path / "draft", like=tmp_path / "source")
    close(logits_of(tmp_path / "draft", IDS), decoder_logits(draft, IDS))
    assert read_checkpoint(tmp_path / "draft").shape == draft.shape


def rename(folder: Path, old: str, new: str) -> None:
    """Change the beginnings of names in the checkpoint's file."""
    tensors = load_file(folder / "model.safetensors")
    renamed = {new + name.removeprefix(old) if name.startswith(old) else name: each for name, each in tensors.items()}
    save_file(renamed, folder / "model.safetensors")


@pytest.mark.parametrize("model_type", ["opt", "opt-350m"])
def test_opt_may_be_stored_under_shorter_names(model_type: str, tmp_path: Path) -> None:
    save_model(tmp_path, model_type)
    expected = read_checkpoint(tmp_path)
    rename(tmp_path, "model.decoder.", "decoder.")
    shorter = read_checkpoint(tmp_path)
    assert shorter.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(shorter.arrays[name], array)


def test_a_llama_may_be_stored_without_its_prefix(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    expected = read_checkpoint(tmp_path).arrays
    rename(tmp_path, "model.", "")
    np.testing.assert_array_equal(read_checkpoint(tmp_path).layer(1, "ffn.up"), expected["layers.1.ffn.up"])


@pytest.mark.parametrize("model_type", ["opt", "qwen2"])
def test_a_tied_head_may_be_stored_too(model_type: str, tmp_path: Path) -> None:
    model = save_model(tmp_path, model_type, tie_word_embeddings=True)
    table = model.get_input_embeddings().weight.detach()
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    assert "lm_head.weight" not in tensors

    save_file(tensors | {"lm_head.weight": table.clone()}, path)
    both = read_checkpoint(tmp_path)
    assert both.arrays["head"] is both.arrays["embed"]

    save_file(tensors | {"lm_head.weight": 2 * table}, path)  # transformers does not tie those
    apart = read_checkpoint(tmp_path)
    np.testing.assert_array_equal(apart.arrays["head"], 2 * apart.arrays["embed"])
    close(decoder_logits(apart, IDS), logits_of(tmp_path, IDS))

    embed = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    save_file({name: each for name, each in tensors.items() if name != embed} | {"lm_head.weight": table}, path)
    only = read_checkpoint(tmp_path)
    assert only.arrays["head"] is only.arrays["embed"]
    np.testing.assert_array_equal(only.arrays["embed"], table.numpy())


def test_a_head_with_the_embeddings_values_is_written_once(tmp_path: Path) -> None:
    """Weights that went through a file are two arrays, tied or not."""
    save_model(tmp_path / "source", "opt")
    tied = read_checkpoint(tmp_path / "source")
    apart = replace(tied, arrays={**tied.arrays, "head": tied.arrays["embed"].copy()})
    write_checkpoint(apart, tmp_path / "copy", like=tmp_path / "source")
    assert "lm_head.weight" not in load_file(tmp_path / "copy" / "model.safetensors")
    assert json.loads((tmp_path / "copy" / "config.json").read_text())["tie_word_embeddings"] is True


def test_opt_keeps_what_belongs_to_its_training_and_tokens(tmp_path: Path) -> None:
    save_model(tmp_path / "source", "opt", bos_token_id=2, eos_token_id=2, pad_token_id=1, dropout=0.25)
    edit_json(tmp_path / "source" / "config.json", prefix="</s>")
    write_checkpoint(read_checkpoint(tmp_path / "source"), tmp_path / "copy", like=tmp_path / "source")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (2, 2, 1)
    assert (config["prefix"], config["dropout"]) == ("</s>", 0.25)
    generation = json.loads((tmp_path / "copy" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == 2


def test_numbers_a_format_has_no_entry_for_are_refused(tmp_path: Path) -> None:
    weights = styled_weights("opt")
    odd = replace(weights, numerics=replace(weights.numerics, norm_eps=1e-3))
    with pytest.raises(BadRequest, match=r"no OPTForCausalLM checkpoint can say .*norm_eps=0.001.* norm_eps=1e-05"):
        write_checkpoint(odd, tmp_path)
    biased = styled_weights("qwen2")
    llama = replace(biased, numerics=replace(biased.numerics, family="llama"))
    with pytest.raises(BadRequest, match="no LlamaForCausalLM checkpoint can say what this model is"):
        write_checkpoint(llama, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_damaged_entries_of_half_precision(value: float, tmp_path: Path) -> None:
    save_model(tmp_path, "opt", dtype=torch.bfloat16)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["model.decoder.embed_positions.weight"][-1, -1] = value
    save_file(tensors, path)
    with pytest.raises(BadRequest, match=r"'model.decoder.embed_positions.weight' .* NaN or infinite"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 0.2), (torch.float16, 1.2), (torch.bfloat16, 1.2)])
def test_reading_takes_no_more_memory_than_conversion_needs(dtype: torch.dtype, most: float, tmp_path: Path) -> None:
    """Large checkpoints just fit: what is stored in fp32 is mapped, and nothing is held twice."""
    save_model(tmp_path, "opt", dtype=dtype, vocab_size=60_000)
    tracemalloc.start()
    weights = read_checkpoint(tmp_path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    stored = {id(array): array.nbytes for array in weights.arrays.values()}  # the tied table counts once
    assert peak_bytes < most * sum(stored.values())
