from pathlib import Path

import pytest

from autotune.errors import BadRequest
from autotune.presets import find_draft, presets, read_presets
from autotune.shape import Norm

MODEL = """
[models.small]
repository = "our/small"
licence = "none"
config = { architectures = ["LlamaForCausalLM"], vocab_size = 32, hidden_size = 8, intermediate_size = 16, \
num_hidden_layers = 2, num_attention_heads = 2 }
"""


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama-65b", 65.29),
        ("llama-7b", 6.74),
        ("llama-2-70b", 68.98),
        ("llama-3-70b", 70.55),
        ("llama-3-8b", 8.03),
        ("vicuna-33b", 32.53),
        ("sheared-llama-1.3b", 1.345),
        ("tinyllama-1.1b", 1.10),
        ("mistral-7b", 7.24),
        ("qwen2.5-7b", 7.62),
        ("qwen3-8b", 8.19),
    ],
)
def test_sizes_are_those_published(name: str, billions: float) -> None:
    assert presets().models[name].shape.parameters / 1e9 == pytest.approx(billions, rel=2e-3)


def test_the_systems_of_the_paper_are_there() -> None:
    models = presets().models
    assert {"llama-65b", "opt-66b", "llama-2-70b", "llama-3-70b", "llama-3-8b", "vicuna-33b", "llama-7b"} <= set(models)
    assert {"sheared-llama-1.3b", "opt-125m", "opt-350m", "opt-1.3b", "opt-2.7b", "opt-6.7b"} <= set(models)
    assert models["llama-65b"].source == "llama-7b"
    small = models["opt-350m"].shape
    assert (small.style.norm, small.style.norm_first, small.style.embed_dim) == (Norm.LAYER, False, 512)
    scaling = models["llama-3.1-70b"].numerics.rope_scaling
    assert scaling is not None
    assert (scaling.factor, scaling.original_context_tokens) == (8.0, 8192)


@pytest.mark.parametrize("name", list(presets().models))
def test_a_source_has_the_same_vocabulary_and_is_no_larger(name: str) -> None:
    model = presets().models[name]
    source = presets().models[model.source]
    assert source.shape.vocab == model.shape.vocab
    assert source.family == model.family
    assert source.shape.parameters <= model.shape.parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("noft-1.3b", 1.345),
        ("noft-wide-1.3b", 1.334),
        ("noft-wide-796m", 1.274),
        ("noft-wide-543m", 0.869),
        ("noft-wide-290m", 0.465),
    ],
)
def test_named_drafts(name: str, parameters: float) -> None:
    draft = find_draft(name)
    assert draft.shape.parameters / 1e9 == pytest.approx(parameters, abs=6e-4)
    assert draft.shape.head_dim == 128
    assert presets().models[draft.source].shape.hidden >= draft.shape.hidden


def test_unknown_names_are_told_the_nearest() -> None:
    with pytest.raises(BadRequest, match=r"unknown draft 'noft-wide-1.4b': did you mean noft-wide-1.3b"):
        find_draft("noft-wide-1.4b")
    with pytest.raises(BadRequest, match=r"unknown draft 'zzzz': known are noft-1.3b, noft-wide-1.3b"):
        find_draft("zzzz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MODEL.replace("our/small", "our/small\x00"), "cannot be read"),
        (MODEL.replace('licence = "none"', ""), r"models\.small\.licence: Field required"),
        (MODEL + "\ncolour = 1", r"models\.small\.colour: Extra inputs"),
        (MODEL + 'source = "big"', r"small: its source 'big' is not among the models"),
        (
            MODEL.replace("LlamaForCausalLM", "Mamba2ForCausalLM"),
            r"small is a Mamba2ForCausalLM, which is not supported",
        ),
        (MODEL.replace("vocab_size = 32", "vocab_size = -32"), r"small.*vocab_size"),
        (
            MODEL + '[drafts.odd]\nsource = "small"\nlayers = 1\nheads = 3\nkv_heads = 2\nhidden = 8\nffn = 8',
            "odd: 3 heads cannot be shared evenly",
        ),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "models.toml").write_text(text)
    with pytest.raises(BadRequest, match=message):
        read_presets(tmp_path / "models.toml")
