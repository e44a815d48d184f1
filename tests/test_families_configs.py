"""What config.json may say: both spellings of transformers, published models, and everything that is refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from autotune.errors import BadRequest
from autotune.families import describe_config, family_of, read_checkpoint
from autotune.shape import Norm
from autotune.weights import RopeScaling
from tests.support.checkpoints import VOCAB, edit_json, save_model

SOURCE = Path("config.json")

LLAMA_65B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 8192,
    "intermediate_size": 22016,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
}
LLAMA31_8B = LLAMA_65B | {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
}
MISTRAL_7B = LLAMA31_8B | {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "rope_theta": 10000.0,
    "rope_scaling": None,
}
QWEN2_7B = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "sliding_window": 131072,
    "use_sliding_window": False,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
}
QWEN3_06B = QWEN2_7B | {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "attention_bias": False,
    "max_position_embeddings": 40960,
    "sliding_window": None,
    "tie_word_embeddings": True,
}
OPT_350M = {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "_remove_final_layer_norm": False,
    "activation_function": "relu",
    "do_layer_norm_before": False,
    "ffn_dim": 4096,
    "hidden_size": 1024,
    "max_position_embeddings": 2048,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "vocab_size": 50272,
    "word_embed_proj_dim": 512,
}


@pytest.mark.parametrize(
    ("config", "shape", "parameters"),
    [
        # Parameters count embedding and head apart, also where they are tied.
        (LLAMA_65B, "80L-64H-22016F-8192D", 65_285_660_672),
        (LLAMA31_8B, "32L-32/8H-14336F-4096D", 8_030_261_248),
        (MISTRAL_7B, "32L-32/8H-14336F-4096D", 7_241_732_096),
        (QWEN2_7B, "28L-28/4H-18944F-3584D", 7_615_616_512),
        (QWEN3_06B, "28L-16/8H-3072F-1024D", 596_049_920 + 151936 * 1024),
        (OPT_350M, "24L-16H-4096F-1024D", 331_196_416 + 50272 * 512),
    ],
)
def test_published_models_have_the_published_sizes(config: dict[str, Any], shape: str, parameters: int) -> None:
    described, _ = describe_config(config, SOURCE)
    assert str(described) == shape
    # OPT's two unused rows of positions are no parameters of ours.
    assert described.parameters == parameters - (2 * 1024 if config["model_type"] == "opt" else 0)


def test_context_rotary_settings_and_style_of_published_models() -> None:
    _, llama = describe_config(LLAMA31_8B, SOURCE)
    assert (llama.rope_theta, llama.context_tokens) == (500_000.0, 131_072)
    assert llama.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 8192)
    assert describe_config(MISTRAL_7B, SOURCE)[1].context_tokens == 4096
    assert describe_config(QWEN2_7B, SOURCE)[1].context_tokens == 131_072
    shape, opt = describe_config(OPT_350M, SOURCE)
    assert (opt.context_tokens, opt.norm_eps, shape.style.learned_positions) == (2048, 1e-5, 2048)
    assert (shape.style.norm, shape.style.norm_first, shape.embed_dim) == (Norm.LAYER, False, 512)


@pytest.mark.parametrize(
    ("change", "context_tokens"),
    [
        ({"sliding_window": None}, 32_768),
        ({"sliding_window": 100_000}, 32_768),
        ({"sliding_window": 1024}, 1024),
    ],
)
def test_no_sequence_of_a_mistral_is_longer_than_its_window(change: dict[str, Any], context_tokens: int) -> None:
    assert describe_config(MISTRAL_7B | change, SOURCE)[1].context_tokens == context_tokens


def test_defaults_are_those_of_transformers() -> None:
    """Mistral has a window, and groups of heads, unless config.json says otherwise."""
    bare = {name: value for name, value in MISTRAL_7B.items() if name not in ("sliding_window", "num_key_value_heads")}
    shape, numerics = describe_config(bare, SOURCE)
    assert (shape.kv_heads, numerics.context_tokens) == (8, 4096)
    assert describe_config(bare | {"num_key_value_heads": None}, SOURCE)[0].kv_heads == 32
    bare = {name: value for name, value in QWEN3_06B.items() if name != "head_dim"}
    assert describe_config(bare, SOURCE)[0].head_dim == 128
    assert (
        describe_config(QWEN2_7B | {"use_sliding_window": True, "sliding_window": 512}, SOURCE)[1].context_tokens == 512
    )


@pytest.mark.parametrize(
    ("change", "scaling"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 4}}, RopeScaling(4.0)),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, RopeScaling(4.0)),
        ({"rope_scaling": {"rope_type": "default"}}, None),
        (
            {"rope_scaling": {"type": "llama3", "factor": 2.0, "low_freq_factor": 1, "high_freq_factor": 4}},
            RopeScaling(2.0, 1.0, 4.0, 2048),
        ),
        (
            {
                "rope_scaling": {"type": "llama3", "factor": 2.0, "low_freq_factor": 1, "high_freq_factor": 4},
                "original_max_position_embeddings": 512,
            },
            RopeScaling(2.0, 1.0, 4.0, 512),
        ),
    ],
)
def test_scalings_in_both_spellings(change: dict[str, Any], scaling: RopeScaling | None) -> None:
    assert describe_config(LLAMA_65B | change, SOURCE)[1].rope_scaling == scaling


def test_a_config_without_architectures_is_known_by_its_type() -> None:
    assert describe_config(OPT_350M | {"architectures": None}, SOURCE)[1].family == "opt"
    assert describe_config(MISTRAL_7B | {"architectures": []}, SOURCE)[1].family == "mistral"


ROPE_ENTRIES = ("rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor", "full_attention")
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (LLAMA_65B, {"hidden_size": -8192}, "config.json: hidden_size is -8192: input should be greater than or equal"),
        (LLAMA_65B, {"num_hidden_layers": 0}, "num_hidden_layers is 0: input should be greater"),
        (
            LLAMA_65B,
            {"hidden_size": 2_000_000},
            "hidden_size is 2000000: input should be less than or equal to 1000000",
        ),
        (LLAMA_65B, {"num_hidden_layers": 10_001}, "num_hidden_layers is 10001: input should be less than or equal"),
        (LLAMA_65B, {"vocab_size": 10**30}, "vocab_size is 10{30}: input should be less than or equal"),
        (
            LLAMA_65B,
            {"num_hidden_layers": 10_000, "hidden_size": 524_288},
            r"a model of 1.1e\+16 parameters, more than",
        ),
        (OPT_350M, {"num_hidden_layers": 10_000, "hidden_size": 524_288}, r"a model of 1.1e\+16 parameters, more than"),
        (OPT_350M, {"max_position_embeddings": 10**12}, "max_position_embeddings is 10{12}: input should be less"),
        (LLAMA_65B, {"hidden_size": 8200}, "hidden_size 8200 cannot be divided by num_attention_heads 64"),
        (OPT_350M, {"num_attention_heads": 15}, "hidden_size 1024 cannot be divided by num_attention_heads 15"),
        (LLAMA_65B, {"num_key_value_heads": 7}, "64 heads cannot be shared evenly by 7 kv heads"),
        (LLAMA_65B, {"head_dim": 7}, "head_dim 7 is odd"),
        (LLAMA_65B, {"hidden_size": "8192"}, "hidden_size is '8192': input should be a valid integer"),
        (LLAMA_65B, {"num_attention_heads": True}, "num_attention_heads is True: input should be a valid integer"),
        (LLAMA_65B, {"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0: input should be greater than or equal to 0"),
        (LLAMA_65B, {"rms_norm_eps": float("nan")}, "rms_norm_eps is nan: input should be"),
        (LLAMA_65B, {"rope_theta": 0}, "rope_theta is 0: input should be greater than 0"),
        (LLAMA_65B, {"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no': input should be a valid boolean"),
        (LLAMA_65B, {"rope_scaling": 4}, "rope_scaling is 4: input should be"),
        (LLAMA_65B, {"rope_scaling": {"type": "linear"}}, "rope type 'linear' without factor"),
        (
            LLAMA_65B,
            {"rope_scaling": {"type": "linear", "factor": 0}},
            "rope_scaling.factor is 0: input should be greater",
        ),
        (LLAMA_65B, {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, "high_freq_factor 4.0 must be larger than"),
        (LLAMA_65B, {"rope_scaling": {"type": "dynamic", "factor": 2}}, "rope type 'dynamic' .* is not supported"),
        (QWEN2_7B, {"rope_scaling": {"type": "yarn", "factor": 4}}, "rope type 'yarn' .* is not supported"),
        (QWEN3_06B, {"rope_parameters": {"sliding_attention": {"rope_type": "default"}}}, "differ between layers"),
        (LLAMA_65B, {"partial_rotary_factor": 0.5}, "partial rotary embeddings is not supported"),
        (MISTRAL_7B, {"sliding_window": 0}, "sliding_window is 0: input should be greater"),
        (MISTRAL_7B, {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        (OPT_350M, {"activation_function": "gelu"}, r"activation_function 'gelu' \(only 'relu'\) is not supported"),
        (
            OPT_350M,
            {"_remove_final_layer_norm": True, "do_layer_norm_before": True},
            "_remove_final_layer_norm = true is",
        ),
        (OPT_350M, {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine = false is not supported"),
        (OPT_350M, {"quantization_config": {"bits": 4}}, "quantised weights"),
        (OPT_350M, {"word_embed_proj_dim": 0}, "word_embed_proj_dim is 0: input should be greater"),
    ],
)
def test_refuses_in_one_line(config: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message) as caught:
        describe_config(config | change, SOURCE)
    assert str(caught.value).startswith("config.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("config", "entry"), [(LLAMA_65B, "hidden_size"), (OPT_350M, "ffn_dim")])
def test_says_which_entry_is_missing(config: dict[str, Any], entry: str) -> None:
    with pytest.raises(BadRequest, match=f"^config.json: {entry} is missing$"):
        describe_config({name: value for name, value in config.items() if name != entry}, SOURCE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(ROPE_ENTRIES), inner, max_size=4),
    max_leaves=5,
)


@given(
    st.sampled_from([LLAMA31_8B, MISTRAL_7B, QWEN2_7B, QWEN3_06B, OPT_350M]).flatmap(
        lambda config: st.tuples(
            st.just(config),
            st.dictionaries(st.sampled_from([*config, "rope_parameters"]), JSON, min_size=1, max_size=2),
        )
    )
)
@settings(deadline=None, max_examples=300)
def test_any_other_value_is_read_or_refused_in_one_line(changed: tuple[dict[str, Any], dict[str, Any]]) -> None:
    config, change = changed
    try:
        shape, numerics = describe_config(config | change, SOURCE)
    except BadRequest as error:
        refusal = str(error)
    else:
        refusal = ""
        assert shape.parameters <= 10**13
        assert np.isfinite([numerics.norm_eps, numerics.rope_theta]).all()
    assert len(refusal.splitlines()) <= 1


def test_post_norm_models_never_had_the_norm_that_is_said_to_be_removed() -> None:
    assert describe_config(OPT_350M | {"_remove_final_layer_norm": True}, SOURCE)[0].embed_dim == 512


@pytest.mark.parametrize(
    ("model_type", "name", "change"),
    [
        ("opt", "model.decoder.embed_tokens.weight", {"vocab_size": VOCAB - 7}),
        ("opt-350m", "model.decoder.embed_tokens.weight", {"vocab_size": VOCAB + 64}),
        ("qwen2", "model.embed_tokens.weight", {"vocab_size": VOCAB + 1}),
    ],
)
def test_a_vocabulary_padded_in_one_place_only_names_both_numbers(
    model_type: str, name: str, change: dict[str, int], tmp_path: Path
) -> None:
    save_model(tmp_path, model_type)
    edit_json(tmp_path / "config.json", **change)
    said = f"says vocab_size {change['vocab_size']}, but '{name}' has {VOCAB} rows"
    with pytest.raises(BadRequest, match=f"{re.escape(said)}.* set vocab_size to {VOCAB} if"):
        read_checkpoint(tmp_path)


def test_a_head_padded_apart_from_the_embedding_is_named(tmp_path: Path) -> None:
    save_model(tmp_path, "mistral")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"lm_head.weight": tensors["lm_head.weight"][:-3].clone()}, path)
    with pytest.raises(BadRequest, match=f"says vocab_size {VOCAB}, but 'lm_head.weight' has {VOCAB - 3} rows"):
        read_checkpoint(tmp_path)


def test_shapes_are_all_checked_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path, "opt")
    monkeypatch.setattr("autotune.tensor_file.StoredTensor.read", lambda self: pytest.fail(f"read {self.name}"))
    edit_json(tmp_path / "config.json", num_hidden_layers=3)
    with pytest.raises(BadRequest, match=r"has no tensor 'model.decoder.layers.2.self_attn_layer_norm.weight'"):
        read_checkpoint(tmp_path)
    edit_json(tmp_path / "config.json", num_hidden_layers=2, max_position_embeddings=65)
    with pytest.raises(BadRequest, match=r"'model.decoder.embed_positions.weight' .* is \[66, 32\], .* \[67, 32\]"):
        read_checkpoint(tmp_path)
    edit_json(tmp_path / "config.json", max_position_embeddings=64, ffn_dim=10_000_000)
    with pytest.raises(BadRequest, match=r"'model.decoder.layers.0.fc1.weight' .* is \[48, 32\]"):
        read_checkpoint(tmp_path)


def test_fp32_checkpoints_stay_on_disk(tmp_path: Path) -> None:
    save_model(tmp_path, "opt")
    for array in read_checkpoint(tmp_path).arrays.values():
        while isinstance(array.base, np.ndarray):
            array = array.base
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_the_family_is_found_by_folder(tmp_path: Path) -> None:
    save_model(tmp_path, "qwen3")
    family = family_of(tmp_path)
    assert family.name == "qwen3"
    assert family.describe(tmp_path)[0].style.qk_norm
