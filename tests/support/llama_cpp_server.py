"""The HTTP server of llama.cpp, from the wheel `xllamacpp`, over a GGUF file made of a checkpoint of ours.

Run as a program (`python llama_cpp_server.py MODEL.gguf CONTEXT SLOTS`) it serves until its standard input closes.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def write_gguf(folder: Path, file: Path) -> None:
    """Write a LLaMA checkpoint with a byte-level BPE tokenizer as GGUF, fp32."""
    import gguf

    from autotune.targets import resolve_target

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


@contextmanager
def serve(model: Path, context: int, slots: int = 2) -> Iterator[str]:
    """The URL of a server of that GGUF file, `slots` sequences of `context` tokens at once, while the block runs."""
    log = model.with_suffix(".log")
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, __file__, str(model), str(context), str(slots)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for line in process.stdout:  # llama.cpp may print, too
            if line.startswith(b"listening "):
                break
        else:
            raise RuntimeError(f"llama.cpp's server did not start: {log.read_text()[-2000:]}")
        yield line.split()[1].decode()
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _main(model: str, context: int, slots: int) -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.model_alias = {"served"}
    parameters.n_ctx = context * slots
    parameters.n_parallel = slots
    parameters.kv_unified = False
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = 1
    parameters.warmup = False
    parameters.cache_prompt = False
    server = xllamacpp.Server(parameters)
    sys.stdout.write(f"listening {server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
