"""The demo model: a transformers LLaMA that begins as a bigram model of its corpus."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from autotune.candidate import DraftShape
from autotune.demo.tokens import END_ID

LARGEST_BIGRAM_VOCAB = 8192
"""The bigram table has vocab² entries; larger vocabularies begin from noise."""

_SMOOTHING = 3.0
_EMBEDDING_STD, _HEAD_STD, _MATRIX_GAIN = 0.5, 0.02, 0.6


def new_model(shape: DraftShape, context_tokens: int, stream: NDArray[np.int32], seed: int) -> LlamaForCausalLM:
    """A model of that shape, ready to train on `stream` ([tokens] ids).

    The last matrix of every attention and feed-forward block is zero, so that at first only embedding and head count.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM(llama_config(shape, context_tokens))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.normal_(std=_initial_std(name, weight))
        if 2 < shape.hidden <= shape.vocab <= LARGEST_BIGRAM_VOCAB:
            embedding, head = bigram_factors(stream, shape.vocab, shape.hidden)
            model.model.embed_tokens.weight.copy_(embedding)
            model.lm_head.weight.copy_(head)
    return model


def llama_config(shape: DraftShape, context_tokens: int) -> LlamaConfig:
    """The Hugging Face configuration of a shape."""
    return LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=context_tokens,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=False,
        bos_token_id=END_ID,
        eos_token_id=END_ID,
    )


def bigram_factors(stream: NDArray[np.int32], vocab: int, hidden: int) -> tuple[Tensor, Tensor]:
    """Embedding and head `[vocab, hidden]` with which an otherwise empty LLaMA predicts by bigrams.

    The table log p(b|a)/p(b) is factorised as A Bᵀ, rows weighted by how often a occurs.  Two more dimensions make the
    factors usable behind RMSNorm: a constant one, on which the head puts log p(b), and a slack one, which gives all
    rows the same norm, so that the norm divides by a constant.  A random rotation leaves no dimension special.
    """
    table, log_unigrams, weights = _bigram_table(stream, vocab)
    rank = hidden - 2
    left, singular, right = torch.svd_lowrank(table * weights[:, None], q=min(rank + 10, vocab), niter=2)
    scale = singular[:rank].sqrt()
    rows, columns = left[:, :rank] * scale / weights[:, None], right[:, :rank] * scale
    square_norms = rows.pow(2).sum(1) + 1.0
    common = square_norms.quantile(0.999)
    slack = (common - square_norms).clamp(min=0.0).sqrt()
    embedding = torch.cat([rows, torch.ones(vocab, 1), slack[:, None]], 1)
    head = torch.cat([columns, log_unigrams[:, None], torch.zeros(vocab, 1)], 1)
    rms = (common / hidden).sqrt()
    rotation, _ = torch.linalg.qr(torch.randn(hidden, hidden))
    return embedding / rms @ rotation, head * rms @ rotation


def _bigram_table(stream: NDArray[np.int32], vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    """log p(b|a)/p(b) `[vocab, vocab]`, log p(b) `[vocab]` and row weights `[vocab]` of mean 1."""
    pairs = stream[:-1].astype(np.int64) * vocab + stream[1:]
    counts = torch.from_numpy(np.bincount(pairs, minlength=vocab * vocab).reshape(vocab, vocab)).float()
    unigrams = counts.sum(0) + 0.5
    unigrams /= unigrams.sum()
    occurrences = counts.sum(1, keepdim=True)
    conditional = (counts + _SMOOTHING * unigrams) / (occurrences + _SMOOTHING)
    weights = (occurrences[:, 0] + 1.0).sqrt()
    return (conditional / unigrams).log(), unigrams.log(), weights / weights.mean()


def _initial_std(name: str, weight: Tensor) -> float:
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return 0.0
    if "embed_tokens" in name:
        return _EMBEDDING_STD
    return _HEAD_STD if "lm_head" in name else _MATRIX_GAIN / math.sqrt(weight.shape[1])
