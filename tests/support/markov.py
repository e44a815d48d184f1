"""A stand-in for a target's session: the next token depends on the last one only."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.candidate import DraftShape, Precision
from autotune.program import Program
from autotune.targets import Target
from autotune.traces import Tokens
from autotune.weights import Numerics

VOCAB = 12
SHAPE = DraftShape(layers=1, heads=1, kv_heads=1, head_dim=2, hidden=2, ffn=2, vocab=VOCAB)


class MarkovModel:
    """Logits are `table[token]`; checks that positions are asked for in order, as a key/value cache needs it."""

    def __init__(self, table: NDArray[np.float32], capacity_tokens: int = 1000) -> None:
        self.table = table
        self.program = Program("fake", "cpu", Precision.FP32, SHAPE, numerics(capacity_tokens), capacity_tokens)
        self.widest_tokens = 0
        self._cached: list[int] = []
        self._buffer = np.zeros((64, VOCAB), np.float32)

    def logits(self, tokens: Tokens, start: int) -> NDArray[np.float32]:
        """Logits `[n, vocab]`, a view that the next call overwrites."""
        assert start <= len(self._cached), "positions were skipped"
        assert start + len(tokens) <= self.program.capacity_tokens, "the cache is too small"
        self._cached[start:] = [int(token) for token in tokens]
        self.widest_tokens = max(self.widest_tokens, len(tokens))
        self._buffer[:] = np.nan
        self._buffer[: len(tokens)] = self.table[np.asarray(tokens)]
        return self._buffer[: len(tokens)]

    def greedy(self, tokens: Tokens, start: int) -> NDArray[np.int64]:
        """Arg-max tokens `[n]`."""
        return self.logits(tokens, start).argmax(-1)


def numerics(context_tokens: int) -> Numerics:
    """Numerics with that context length."""
    return Numerics("llama", 1e-5, 1e4, context_tokens)


def markov_target(*, context_tokens: int = 1000, eos_ids: tuple[int, ...] = ()) -> Target:
    """A target whose session is a `MarkovModel`."""
    return Target(
        "fake", "llama", SHAPE, numerics(context_tokens), Path("nowhere"), "target-1", "tokenizer-1", eos_ids, None
    )


def successor_table(step: int = 1) -> NDArray[np.float32]:
    """A table in which token t is followed by t + step (modulo the vocabulary), almost surely at temperature 1."""
    table = np.zeros((VOCAB, VOCAB), np.float32)
    table[np.arange(VOCAB), (np.arange(VOCAB) + step) % VOCAB] = 20.0
    return table
