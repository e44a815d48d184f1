"""Log-probabilities of emitted tokens, from the very logits that verified them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autotune.runtime.session import Session, Tokens


class TokenLogprobs(NamedTuple):
    """What the target thought of a token: at temperature 1 and without filters, whatever it was drawn with."""

    logprob: float
    """Of the token itself."""
    likeliest: tuple[tuple[int, float], ...]
    """The likeliest tokens with theirs, the first of them first."""


class NotedLogits:
    """A target's side of a verification that keeps the logits of its latest call."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._rows: NDArray[np.float32] = np.empty((0, 0), np.float32)

    def logits(self, tokens: Tokens, start: int) -> NDArray[np.float32]:
        """As the session's."""
        self._rows = self._session.logits(tokens, start)
        return self._rows

    def greedy(self, tokens: Tokens, start: int) -> NDArray[np.int64]:
        """The arg-max token `[n]` after each of the n tokens, of the logits that are kept."""
        chosen: NDArray[np.int64] = self.logits(tokens, start).argmax(-1)
        return chosen

    def logprobs(self, emitted: Sequence[int], likeliest: int) -> tuple[TokenLogprobs, ...]:
        """Of every emitted token, which the latest call's rows stand for one by one."""
        rows = self._rows[: len(emitted)].astype(np.float64)
        rows = rows - rows.max(-1, keepdims=True)
        rows -= np.log(np.exp(rows).sum(-1, keepdims=True))
        return tuple(
            TokenLogprobs(float(row[token]), tuple((int(each), float(row[each])) for each in _largest(row, likeliest)))
            for row, token in zip(rows, emitted, strict=True)
        )


def _largest(row: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    if not count:
        return np.empty(0, np.int64)
    found = np.argpartition(-row, min(count, len(row)) - 1)[:count]
    return found[np.argsort(-row[found], kind="stable")]
