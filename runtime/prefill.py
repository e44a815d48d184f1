"""Filling a session's cache with a prompt."""

from collections.abc import Sequence

from autotune.runtime.session import Session

PREFILL_CHUNK_TOKENS = 64


def prefill(session: Session, tokens: Sequence[int]) -> None:
    """Fill the session's cache with tokens from position 0, in chunks that bound the logits' memory."""
    extend(session, tokens, 0)


def extend(session: Session, tokens: Sequence[int], cached: int) -> None:
    """Fill the cache with those of the sequence's tokens that are behind the first `cached` ones, as `prefill` does."""
    for start in range(cached, len(tokens), PREFILL_CHUNK_TOKENS):
        session.greedy(tokens[start : start + PREFILL_CHUNK_TOKENS], start)
