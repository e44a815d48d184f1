"""How good a demo model is: its loss on held-out files, and how often its greedy continuations loop."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from autotune.demo.corpus import Document
from autotune.demo.tokens import END_ID, encode

WINDOWS = 48
_LOOP_PROMPTS, _LOOP_PROMPT_TOKENS, _LOOP_TOKENS = 64, 48, 64
_LOOP_WINDOW, _LOOP_DISTINCT = 4, 0.5


@dataclass(frozen=True)
class ModelFacts:
    """What `facts.json` says of a model."""

    held_out_nats_per_token: float
    held_out_bits_per_byte: float
    held_out_windows: int
    looping_share: float
    """Share of greedy continuations less than half of whose 4-token windows are distinct."""
    looping_prompts: int


def examine(
    model: LlamaForCausalLM, tokenizer: Tokenizer, held_out: Sequence[Document], prompts: Sequence[str]
) -> ModelFacts:
    """The facts of a model, on held-out documents and prompts cut from them."""
    model.eval()
    stream = encode(tokenizer, held_out)
    text_bytes = sum(len(document.text.encode()) for document in held_out)
    nats, windows = held_out_loss(model, stream)
    continuations = _continuations(model, tokenizer, prompts[:_LOOP_PROMPTS])
    looping = [is_looping(ids) for ids in continuations]
    return ModelFacts(
        held_out_nats_per_token=nats,
        held_out_bits_per_byte=nats * len(stream) / text_bytes / math.log(2.0),
        held_out_windows=windows,
        looping_share=sum(looping) / max(len(looping), 1),
        looping_prompts=len(looping),
    )


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, stream: NDArray[np.int32]) -> tuple[float, int]:
    """Mean nats per token over evenly spaced windows of the whole context, and how many windows."""
    length = min(model.config.max_position_embeddings, len(stream) - 1)
    starts = np.unique(np.linspace(0, len(stream) - length - 1, WINDOWS).astype(np.int64))
    nats = 0.0
    for start in starts:
        window = torch.from_numpy(stream[start : start + length + 1].astype(np.int64)).to(model.device)
        logits = model(input_ids=window[None, :-1], use_cache=False).logits[0]
        nats += torch.nn.functional.cross_entropy(logits.float(), window[1:]).item()
    return nats / len(starts), len(starts)


def is_looping(ids: Sequence[int]) -> bool:
    """Whether less than half of the text's 4-token windows are distinct."""
    windows = [tuple(ids[at : at + _LOOP_WINDOW]) for at in range(len(ids) - _LOOP_WINDOW + 1)]
    return len(set(windows)) < _LOOP_DISTINCT * len(windows)


@torch.no_grad()
def _continuations(model: LlamaForCausalLM, tokenizer: Tokenizer, prompts: Sequence[str]) -> list[list[int]]:
    """Greedy continuations, each up to its end token; all prompts are cut to one length, so none is padded."""
    length = min(_LOOP_PROMPT_TOKENS, model.config.max_position_embeddings // 2)
    tokens = min(_LOOP_TOKENS, model.config.max_position_embeddings - length)
    encoded = (tokenizer.encode(prompt).ids for prompt in prompts)
    rows = [prompt[-length:] for prompt in encoded if len(prompt) >= length]
    if not rows:
        return []
    ids = torch.tensor(rows, device=model.device)
    generated = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, pad_token_id=END_ID
    )
    continuations = generated[:, length:].tolist()
    return [ids[: ids.index(END_ID)] if END_ID in ids else ids for ids in continuations]
