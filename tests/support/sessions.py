"""Fake sessions for the runtime: the next token depends on the last two cached ones, so a stale cache shows."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autotune.candidate import DraftShape, Precision
from autotune.program import Drafting, Program
from autotune.runtime.sampled_burst import draw_call_by_call
from autotune.runtime.session import SampledBurst, Session, StoppedBurst, Tokens
from autotune.runtime.stopping_burst import stop_call_by_call
from autotune.sampling import SamplingSettings
from autotune.stopping import StopRule
from autotune.weights import Numerics, TokenIds

VOCAB = 7


class CallByCall:
    """Bursts of a session that has no program for them."""

    def burst(self: Session, tokens: Tokens, start: int, count: int) -> list[int]:
        return greedy_burst(self, tokens, start, count)

    def sampled_burst(
        self: Session, tokens: Tokens, start: int, count: int, settings: SamplingSettings, noise: Sequence[float]
    ) -> SampledBurst:
        return draw_call_by_call(self, tokens, start, count, settings, noise)

    def stopping_burst(
        self: Session,
        tokens: Tokens,
        start: int,
        count: int,
        rule: StopRule,
        settings: SamplingSettings,
        noise: Sequence[float],
    ) -> StoppedBurst:
        return stop_call_by_call(self, tokens, start, count, rule, settings, noise)


class PairwiseSession(CallByCall):
    """Logits are `table[previous, token]` `[vocab]`, read from what the cache really holds."""

    def __init__(self, table: NDArray[np.float32], capacity_tokens: int = 256) -> None:
        shape = DraftShape(layers=1, heads=1, kv_heads=1, head_dim=2, hidden=2, ffn=2, vocab=VOCAB)
        numerics = Numerics("fake", 1e-5, 1e4, capacity_tokens)
        self.program = Program("fake", "cpu", Precision.FP32, shape, numerics, capacity_tokens)
        self.drafting = Drafting.CALLS
        self.calls = 0
        self._table = table
        self._cached: list[int] = []

    def logits(self, tokens: Tokens, start: int) -> NDArray[np.float32]:
        assert 0 <= start <= len(self._cached), "positions were skipped"
        assert start + len(tokens) <= self.program.capacity_tokens, "the cache is too small"
        self.calls += 1
        self._cached[start:] = [int(token) for token in tokens]
        pairs = [(self._cached[i - 1] if i else 0, self._cached[i]) for i in range(start, len(self._cached))]
        return np.stack([self._table[pair] for pair in pairs])

    def greedy(self, tokens: Tokens, start: int) -> NDArray[np.int64]:
        return self.logits(tokens, start).argmax(-1)

    def pretend_cached(self, count: int) -> None:
        self._cached = [0] * count

    def sibling(self) -> "PairwiseSession":
        return PairwiseSession(self._table, self.program.capacity_tokens)

    def close(self) -> None:
        self._cached.clear()


class TrimmedSession(CallByCall):
    """Another session as it would be with its head trimmed to `token_ids`."""

    def __init__(self, whole: Session, token_ids: TokenIds) -> None:
        shape = replace(whole.program.shape, draft_vocab=len(token_ids))
        self.program = replace(whole.program, shape=shape, token_ids=tuple(token_ids.tolist()))
        self.drafting = Drafting.CALLS
        self._whole = whole
        self._token_ids = token_ids

    def logits(self, tokens: Tokens, start: int) -> NDArray[np.float32]:
        return self._whole.logits(tokens, start)[:, self._token_ids]

    def greedy(self, tokens: Tokens, start: int) -> NDArray[np.int64]:
        return self._token_ids[self.logits(tokens, start).argmax(-1)]

    def pretend_cached(self, count: int) -> None:
        self._whole.pretend_cached(count)

    def sibling(self) -> "TrimmedSession":
        return TrimmedSession(self._whole.sibling(), self._token_ids)

    def close(self) -> None:
        self._whole.close()


def greedy_burst(session: Session, tokens: Tokens, start: int, count: int) -> list[int]:
    """`count` greedily drafted tokens, a call for each."""
    drafted: list[int] = []
    given = list(tokens)
    for _ in range(count):
        drafted.append(int(session.greedy(given, start)[-1]))
        start, given = start + len(given), drafted[-1:]
    return drafted


def random_table(seed: int, sharpness: float = 1.5) -> NDArray[np.float32]:
    """Logits `[vocab, vocab, vocab]` of a random second-order chain."""
    return (np.random.default_rng(seed).standard_normal((VOCAB,) * 3) * sharpness).astype(np.float32)


def near_table(table: NDArray[np.float32], seed: int, noise: float) -> NDArray[np.float32]:
    """A draft for the chain of `table`: the same logits, disturbed."""
    disturbed = table + noise * np.random.default_rng(seed).standard_normal(table.shape)
    return disturbed.astype(np.float32)


class BatchOf:
    """Sessions of single sequences as one batch session: what each cache holds decides, and what is skipped shows."""

    def __init__(self, sessions: Sequence[Session], smaller_batches: tuple[int, ...] = ()) -> None:
        self.program = replace(sessions[0].program, batch=len(sessions), smaller_batches=smaller_batches)
        self.calls: list[tuple[int, int]] = []
        """Rows and tokens of each."""
        self._sessions = sessions

    def logits(
        self, tokens: NDArray[np.int64], starts: Sequence[int], sequences: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        rows = list(range(len(self._sessions))) if sequences is None else list(sequences)
        assert len(rows) in self.program.batches, "no such number of sequences"
        assert len(set(rows)) == len(rows) == len(tokens) == len(starts)
        self.calls.append(tokens.shape)
        return np.stack(
            [self._sessions[row].logits(given, start) for row, given, start in zip(rows, tokens, starts, strict=True)]
        )

    def greedy(
        self, tokens: NDArray[np.int64], starts: Sequence[int], sequences: Sequence[int] | None = None
    ) -> NDArray[np.int64]:
        chosen = self.logits(tokens, starts, sequences).argmax(-1)
        ids = self.program.head_tokens
        return chosen if ids is None else ids[chosen]

    def close(self) -> None:
        for session in self._sessions:
            session.close()
