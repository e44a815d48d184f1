"""Tiny Hugging Face checkpoints, written by transformers itself."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB = 320
EOS_TOKEN = "<|end|>"
EOS_ID = 0


_TINY: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": EOS_ID,
    "eos_token_id": EOS_ID,
}
_GATED = {"intermediate_size": 48, "num_key_value_heads": 2, "initializer_range": 0.3}
_OPT = {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.3}
_SETTINGS: dict[str, dict[str, Any]] = {
    "llama": _GATED,
    "mistral": _GATED,
    "qwen2": _GATED,
    "qwen3": {**_GATED, "head_dim": 16},
    "opt": _OPT,
    "opt-350m": {**_OPT, "word_embed_proj_dim": 20, "do_layer_norm_before": False},
}
"""Settings of the tiny models; weights far from uniform, so that arg-max tokens are well separated."""

TINY_MODELS = tuple(_SETTINGS)


def save_model(
    folder: Path,
    model_type: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    shard_size: str | None = None,
    **overrides: Any,
) -> PreTrainedModel:
    """The random model of one of `TINY_MODELS` that was saved: 2 layers, 4 heads, hidden 32, ffn 48, unless overridden.

    All but OPT have 2 kv heads.
    """
    torch.manual_seed(seed)
    settings = _TINY | _SETTINGS[model_type] | overrides
    config = AutoConfig.for_model(model_type.partition("-")[0], **settings)
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):  # ones and zeros would hide mix-ups
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        if name.endswith("bias"):
            torch.nn.init.uniform_(parameter, -0.3, 0.3)
    model.save_pretrained(folder, **({"max_shard_size": shard_size} if shard_size else {}))
    return model


def save_llama(folder: Path, **settings: Any) -> PreTrainedModel:
    """The random LLaMA that was saved; see `save_model`."""
    return save_model(folder, "llama", **settings)


def save_tokenizer(folder: Path, corpus: tuple[str, ...] = ("def add(a, b):\n    return a + b\n",)) -> Tokenizer:
    """The byte-level BPE tokenizer that was saved, with `<|end|>` as id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 20, special_tokens=[EOS_TOKEN], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": EOS_TOKEN, "eos_token": EOS_TOKEN}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


def edit_json(path: Path, remove: tuple[str, ...] = (), **changes: Any) -> None:
    """Change and remove entries of a JSON file."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if name not in remove}))


def logits_of(folder: Path, ids: list[int]) -> torch.Tensor:
    """transformers' fp32 logits `[n, vocab]` of a checkpoint."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]
