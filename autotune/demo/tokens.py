"""The demo's tokenizer (byte-level BPE), and documents as one stream of token ids."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from autotune.demo.corpus import Document

END_TOKEN, END_ID = "<|end|>", 0
"""Begins every document, and so also ends the one before."""
SMALLEST_VOCAB = 257
"""The 256 bytes and the end token."""


def train_tokenizer(documents: Sequence[Document], vocab: int) -> Tokenizer:
    """A byte-level BPE tokenizer of at most `vocab` tokens, the end token being id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.text for document in documents), trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, documents: Sequence[Document]) -> NDArray[np.int32]:
    """Ids `[tokens]` of all documents in order, each behind an end token."""
    stream: list[NDArray[np.int32]] = []
    for document in documents:
        stream.append(np.array([END_ID, *tokenizer.encode(document.text).ids], np.int32))
    return np.concatenate(stream)


def write_tokenizer(tokenizer: Tokenizer, context_tokens: int, folder: Path) -> None:
    """Write `tokenizer.json` and the `tokenizer_config.json` that transformers reads."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "backend": "tokenizers",
        "bos_token": END_TOKEN,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_TOKEN,
        "model_max_length": context_tokens,
        "tokenizer_class": "TokenizersBackend",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
