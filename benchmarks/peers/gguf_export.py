"""A checkpoint as llama.cpp reads it: GGUF, fp32.  Needs the package `gguf`."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from autotune.targets import resolve_target


def write_gguf(folder: Path, file: Path) -> None:
    """Write a LLaMA checkpoint with a byte-level BPE tokenizer as GGUF, fp32."""
    import gguf

    target = resolve_target(str(folder))
    shape, numerics, weights = target.shape, target.numerics, target.read_weights()
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(numerics.context_tokens)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(numerics.norm_eps)
    writer.add_rope_freq_base(numerics.rope_theta)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_vocab_size(shape.vocab)
    _add_tokenizer(writer, folder, shape.vocab, target.eos_ids[0])
    names = {"embed": "token_embd", "norm": "output_norm", "head": "output"}
    names |= {
        f"layers.{index}.{ours}": f"blk.{index}.{theirs}"
        for index in range(shape.layers)
        for ours, theirs in {
            "attn.norm": "attn_norm",
            "attn.q": "attn_q",
            "attn.k": "attn_k",
            "attn.v": "attn_v",
            "attn.o": "attn_output",
            "ffn.norm": "ffn_norm",
            "ffn.gate": "ffn_gate",
            "ffn.up": "ffn_up",
            "ffn.down": "ffn_down",
        }.items()
    }
    for ours, theirs in names.items():
        array = np.ascontiguousarray(weights.arrays[ours], np.float32)
        if ours.endswith(("attn.q", "attn.k")):  # GGUF's LLaMA rotates neighbours, Hugging Face's the two halves
            rows, columns = array.shape
            halves = array.reshape(rows // shape.head_dim, 2, shape.head_dim // 2, columns)
            array = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))
        writer.add_tensor(f"{theirs}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, folder: Path, vocab: int, end: int) -> None:
    import gguf

    content = json.loads((folder / "tokenizer.json").read_text())
    tokens = {token_id: token for token, token_id in content["model"]["vocab"].items()}
    special = {token["id"]: token["content"] for token in content["added_tokens"]}
    tokens |= special
    kinds = [
        gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL if i in tokens else gguf.TokenType.UNUSED
        for i in range(vocab)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens.get(token_id, f"[unused {token_id}]") for token_id in range(vocab)])
    writer.add_token_types(kinds)
    merges = content["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)
