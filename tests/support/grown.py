"""Checkpoints of which all layers but the last add nothing: a draft of that layer is the same function, so it pays."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from tests.support.checkpoints import EOS_ID, VOCAB, save_tokenizer

_SILENT = {"llama": ("o_proj", "down_proj"), "opt": ("out_proj", "fc2")}


def save_grown(folder: Path, family: str, *, layers: int, hidden: int, ffn: int) -> None:
    """Write a random model of that family and a tokenizer; only its last layer changes the residual stream."""
    torch.manual_seed(0)
    common = {"vocab_size": VOCAB, "hidden_size": hidden, "num_hidden_layers": layers, "bos_token_id": EOS_ID}
    common |= {"num_attention_heads": 8, "max_position_embeddings": 128, "eos_token_id": EOS_ID, "pad_token_id": None}
    model: LlamaForCausalLM | OPTForCausalLM
    if family == "llama":
        settings = {"intermediate_size": ffn, "num_key_value_heads": 8, "initializer_range": 0.08}
        model = LlamaForCausalLM(LlamaConfig(**common, **settings))
    else:
        settings = {"ffn_dim": ffn, "word_embed_proj_dim": hidden, "init_std": 0.08, "dropout": 0.0}
        model = OPTForCausalLM(OPTConfig(**common, **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            silent = ".layers." in name and f".layers.{layers - 1}." not in name
            if silent and any(f".{part}." in name for part in _SILENT[family]):
                parameter.zero_()
    model.eval().save_pretrained(folder)
    save_tokenizer(folder)
