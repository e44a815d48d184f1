"""The mathematics of acceptance (NumPy only): how many tokens a round of speculative decoding emits.

Let y_1 … y_T be a trace of the target, p the target's and q the draft's distribution, both given the true prefix.

* r_t = min(1, q(y_t) / p(y_t)): given that the output token is y_t, the probability that a drafted token at t was
  accepted (speculative sampling: Leviathan et al. 2211.17192, Chen et al. 2302.01318, read backwards from the
  output).  Greedy decoding is the limit r_t = [argmax q == y_t].
* s_t = P(a round starts at t), s_1 = 1.  A round of lookahead k that starts at t accepts n < k tokens with
  probability r_t … r_{t+n-1} (1 - r_{t+n}) and is followed by one that starts at t+n+1; it accepts all k with
  probability r_t … r_{t+k-1} and is followed by one that starts at t+k+1.

The round that token t belongs to is uninterrupted since t-k with probability s_{t-k} r_{t-k} … r_{t-1}; then t is the
target's own bonus token and t+1 starts a round for certain, otherwise t+1 starts one if t was not accepted.  Hence

    s_{t+1} = (1 - r_t) + (r_{t-k} … r_t) s_{t-k},

a linear recurrence of lag k + 1, solved here for many positions at once by recursive doubling.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autotune.objective import MEAN, Objective, counts
from autotune.results import Acceptance, Evidence

Vector = NDArray[np.float64]

_BLOCK = 256
"""Tokens at which doubling the lag costs more than walking on block by block."""


class BurstCounts(NamedTuple):
    """Expected counts over all rounds of lookahead k."""

    accepted: Vector
    """`[k]` drafted tokens kept, by position in the burst."""
    examined: Vector
    """`[k]` drafted tokens looked at, by position in the burst."""
    emitted: Vector
    """`[k + 1]` rounds that emit 1 … k + 1 tokens.  Its sum is Σ s_t, and Σ (n + 1) · emitted[n] is T."""


def acceptance_probabilities(draft_logprobs: ArrayLike, target_logprobs: ArrayLike) -> Vector:
    """r_t = min(1, q/p) `[T]` from log-probabilities `[T]` of the trace's own tokens."""
    difference = np.asarray(draft_logprobs, np.float64) - np.asarray(target_logprobs, np.float64)
    return np.exp(np.minimum(difference, 0.0))


def tokens_per_round(acceptance: ArrayLike | Sequence[ArrayLike], max_lookahead: int) -> Vector:
    """TAR(k) = T / Σ s_t for k = 0 … `max_lookahead`, as `[max_lookahead + 1]`; entry 0 is 1.0.

    `acceptance` is one trace `[T]` of floats in [0, 1], or a list of such traces, which are pooled.
    """
    traces = _as_traces(acceptance)
    _, rounds = expected_rounds(traces, max_lookahead)
    total: Vector = sum(len(trace) for trace in traces) / rounds.sum(axis=0)
    return total


def expected_rounds(traces: Sequence[ArrayLike], max_lookahead: int) -> tuple[NDArray[np.int64], Vector]:
    """Lengths `[traces]` and expected rounds Σ s_t `[traces, max_lookahead + 1]` of every trace."""
    flat, offsets = _concatenate(traces)
    rounds = np.empty((len(offsets) - 1, max_lookahead + 1))
    for lookahead in range(max_lookahead + 1):
        rounds[:, lookahead] = np.add.reduceat(round_starts(flat, offsets, lookahead), offsets[:-1])
    return np.diff(offsets), rounds


def round_starts(acceptance: Vector, offsets: NDArray[np.int64], lookahead: int) -> Vector:
    """s_t `[T]`: the probability that a round starts at each token of concatenated traces.

    acceptance: r_t `[T]`; offsets: `[traces + 1]`, trace i is `acceptance[offsets[i]:offsets[i + 1]]`.
    """
    total, lag = len(acceptance), lookahead + 1
    starts = np.ones(total)
    if lookahead == 0:
        return starts
    # The invariant: s_t = starts_t + carry_t s_{t-lag}.  It begins as the recurrence itself …
    np.subtract(1.0, acceptance[:-1], out=starts[1:])
    starts[offsets[:-1]] = 1.0
    carry = np.zeros(total)
    carry[lag:] = _window_products(acceptance, lag)[: max(total - lag, 0)]
    for start in offsets[:-1]:
        carry[start : start + lag] = 0.0
    # … is substituted into itself, which doubles the lag …
    while lag < min(_BLOCK, total):
        starts[lag:] += carry[lag:] * starts[:-lag]
        carry[lag:] = carry[lag:] * carry[:-lag]
        lag *= 2
    # … and is then solved a block of `lag` tokens at a time.
    for begin in range(lag, total, lag):
        end = min(begin + lag, total)
        starts[begin:end] += carry[begin:end] * starts[begin - lag : end - lag]
    return starts


def _window_products(values: Vector, length: int) -> Vector:
    """Products of every `length` consecutive values, by binary powers; empty if there are fewer."""
    product, covered = np.ones(max(len(values) - length + 1, 0)), 0
    power, width = values, 1
    while covered < length and product.size:
        if length & width:
            product = product * power[covered : covered + product.size]
            covered += width
        if covered < length:
            power, width = power[: len(power) - width] * power[width:], 2 * width
    return product


def count_acceptance(
    traces: Sequence[ArrayLike], max_lookahead: int, evidence: Evidence = Evidence.ESTIMATED
) -> Acceptance:
    """Counts of tokens, rounds and per-position acceptance of r_t traces, for lookaheads 0 … `max_lookahead`."""
    lengths, rounds = expected_rounds(traces, max_lookahead)
    bursts = count_bursts(traces, max_lookahead)
    return Acceptance(
        tokens=tuple(int(n) for n in lengths),
        rounds=tuple(tuple(float(x) for x in row) for row in rounds),
        accepted=tuple(float(x) for x in bursts.accepted),
        examined=tuple(float(x) for x in bursts.examined),
        evidence=evidence,
    )


def count_bursts(traces: Sequence[ArrayLike], lookahead: int) -> BurstCounts:
    """What happens to the bursts of lookahead k, position by position.

    A draft position is examined when all before it in its burst were accepted; positions past a trace's end are not
    counted, and a trace's last round is cut at its end.
    """
    flat, offsets = _concatenate(traces)
    left = np.repeat(offsets[1:], np.diff(offsets)) - np.arange(len(flat))
    accepted, examined, emitted = np.zeros(lookahead), np.zeros(lookahead), np.zeros(lookahead + 1)
    at = np.arange(len(flat))
    reach = round_starts(flat, offsets, lookahead)  # P(a round starts at `at` and keeps `kept` tokens or more)
    for kept in range(lookahead + 1):
        inside = left[at] > kept
        if kept:
            emitted[kept - 1] += reach[~inside].sum()
        at, reach = at[inside], reach[inside]
        if kept == lookahead:
            emitted[kept] += reach.sum()
            break
        onward = reach * flat[at + kept]
        examined[kept], accepted[kept] = reach.sum(), onward.sum()
        emitted[kept] += examined[kept] - accepted[kept]
        reach = onward
    return BurstCounts(accepted, examined, emitted)


def bootstrap_interval(
    acceptance: Acceptance,
    lookahead: int,
    objective: Objective = MEAN,
    *,
    confidence: float = 0.95,
    resamples: int = 500,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile-bootstrap interval of the objective's TAR(k) over traces (counts are resampled, never ratios).

    The minimum over categories of resampled figures is lower than that of the given ones where two are close, so the
    interval of the worst category errs to the low side.
    """
    tokens, rounds = counts(acceptance, lookahead)
    picks = objective.resamples(acceptance.categories, len(tokens), resamples, seed)
    ratios = objective.rate(tokens[picks], rounds[picks], acceptance.categories)
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1.0 - tail])
    return float(low), float(high)


def _as_traces(acceptance: ArrayLike | Sequence[ArrayLike]) -> list[Vector]:
    if isinstance(acceptance, Sequence) and len(acceptance) and np.ndim(acceptance[0]) == 1:
        return [np.asarray(trace, np.float64) for trace in acceptance]
    array = np.asarray(acceptance, np.float64)
    return list(array) if array.ndim == 2 else [array]


def _concatenate(traces: Sequence[ArrayLike]) -> tuple[Vector, NDArray[np.int64]]:
    arrays = [np.asarray(trace, np.float64) for trace in traces]
    arrays = [array for array in arrays if array.size]
    if not arrays:
        raise ValueError("there is no trace token to count")
    flat = np.concatenate(arrays)
    if not (np.isfinite(flat).all() and flat.min() >= 0.0 and flat.max() <= 1.0):
        raise ValueError("acceptance probabilities must be finite and lie in [0, 1]")
    return flat, np.concatenate([[0], np.cumsum([len(array) for array in arrays])])
