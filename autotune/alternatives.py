"""The target's likeliest tokens at each position of a trace: choosing them, and laying them out (NumPy only)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KEPT_MASS = 0.995
"""Probability that the tokens kept of a position hold together, if `MOST_KEPT` of them do."""
_MASS_TOLERANCE = 0.01
"""Servers round what they tell."""
MOST_KEPT = 64
"""Most tokens kept of one position; of 100,000 positions that is at most 50 MB."""


@dataclass(frozen=True)
class Alternatives:
    """The target's likeliest tokens at each position of a trace, for drafts to be distilled from.

    Log-probabilities are those of the distribution that the workload draws from, over the whole vocabulary; of a
    greedy workload, those at temperature 1.  Of each position as many tokens are kept as hold most of the mass.
    """

    counts: NDArray[np.int32]
    """[P + T] tokens kept of each position, given the tokens before it; 0 where nothing is known."""
    tokens: NDArray[np.int32]
    """[Σ counts] position after position, the likeliest first."""
    logprobs: NDArray[np.float32]
    """[Σ counts]"""


def alternatives_of(probabilities: NDArray[np.floating]) -> Alternatives:
    """The fewest likeliest tokens of each of n positions whose mass reaches `KEPT_MASS`, but at most `MOST_KEPT`.

    probabilities: [n, vocab], each row summing to 1.  Of equally likely tokens the one with the smaller id is first.
    """
    likely, found = probabilities, np.broadcast_to(np.arange(probabilities.shape[-1]), probabilities.shape)
    if not likely.all():  # the zeros of a filtered vocabulary, all equal, would make the selection slow
        columns = np.flatnonzero(likely.any(0))
        likely, found = likely[:, columns], found[:, columns]
    spare = likely.shape[-1] - MOST_KEPT
    if spare > 0:  # a sort of all would take many times as long
        places = np.sort(np.argpartition(likely, spare, -1)[:, spare:], -1)
        found, likely = np.take_along_axis(found, places, -1), np.take_along_axis(likely, places, -1)
    order = np.argsort(-likely, -1, kind="stable")
    found, likely = np.take_along_axis(found, order, -1), np.take_along_axis(likely, order, -1)
    mass_before = likely.cumsum(-1, dtype=np.float64) - likely
    kept = (mass_before < KEPT_MASS) & (likely > 0.0)
    logprobs = np.minimum(np.log(likely[kept]), 0.0)
    return Alternatives(kept.sum(-1, dtype=np.int32), found[kept].astype(np.int32), logprobs.astype(np.float32))


def ranked_alternatives(places: Sequence[Sequence[tuple[int, float]]]) -> Alternatives:
    """As `alternatives_of`, of tokens and their log-probabilities, the likeliest first; all others are unknown."""
    kept = []
    for place in places:
        mass_before = np.cumsum([0.0, *(np.exp(logprob) for _, logprob in place[:-1])])
        kept.append(place[: min(int((mass_before < KEPT_MASS).sum()), MOST_KEPT)])
    return Alternatives(
        np.array([len(place) for place in kept], np.int32),
        np.array([token for place in kept for token, _ in place], np.int32),
        np.array([logprob for place in kept for _, logprob in place], np.float32),
    )


def join_alternatives(parts: Sequence[Alternatives]) -> Alternatives:
    """The positions of all parts, one part after the other."""
    return Alternatives(
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.logprobs for part in parts]),
    )


def no_alternatives(positions: int) -> Alternatives:
    """So many positions of which nothing is known."""
    return Alternatives(np.zeros(positions, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))


def damage(alternatives: Alternatives) -> str | None:
    """What contradicts itself in alternatives that come from outside, in words; None if all is well."""
    counts, tokens, logprobs = alternatives.counts, alternatives.tokens, alternatives.logprobs
    if counts.min(initial=0) < 0 or not counts.sum(dtype=np.int64) == len(tokens) == len(logprobs):
        return f"the likeliest tokens are {len(tokens)} and {len(logprobs)}, and not as many as their counts say"
    if tokens.min(initial=0) < 0:
        return "the id of a likely token is negative"
    if not (np.isfinite(logprobs).all() and logprobs.max(initial=0.0) <= 0.0):
        return "the log-probability of a likely token is positive or not finite"
    position = np.repeat(np.arange(len(counts)), counts)
    mass = np.bincount(position, np.exp(logprobs.astype(np.float64)), minlength=1)
    if mass.max() > 1.0 + _MASS_TOLERANCE:
        return f"the likeliest tokens of one position have a probability of {mass.max():.3f} together"
    if (np.diff(logprobs)[np.diff(position) == 0] > 0).any():
        return "the likeliest tokens are not in their order"
    return None


def padded_alternatives(
    alternatives: Alternatives, longest: int | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Tokens `[P + T, M]` padded with -1, and their log-probabilities `[P + T, M]` padded with -inf.

    M is `longest`, or else the largest count there is; where a position has more, the unlikeliest are left out.
    """
    counts = alternatives.counts
    width = int(counts.max(initial=0)) if longest is None else longest
    place = np.arange(len(alternatives.tokens)) - np.repeat(counts.cumsum() - counts, counts)
    fits = place < width
    filled = np.arange(width) < counts[:, None]
    tokens = np.full(filled.shape, -1, np.int32)
    logprobs = np.full(filled.shape, -np.inf, np.float32)
    tokens[filled] = alternatives.tokens[fits]
    logprobs[filled] = alternatives.logprobs[fits]
    return tokens, logprobs
