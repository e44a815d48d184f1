"""Measured figures of a contest, with bootstrap intervals over prompts."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from autotune.contest import Tally
from autotune.results import Evidence, Figure
from autotune.runtime.decode import Statistics

_RESAMPLES = 1000


def speed(tally: Tally) -> Figure:
    """Measured tokens per second of decoding, pooled over prompts."""
    return _pooled_ratio(tally, lambda s: s.tokens, lambda s: s.decode_s)


def tokens_per_round(tally: Tally) -> Figure:
    """Measured TAR, pooled over prompts."""
    return _pooled_ratio(tally, lambda s: s.tokens, lambda s: s.rounds)


def _pooled_ratio(tally: Tally, above: Callable[[Statistics], float], below: Callable[[Statistics], float]) -> Figure:
    """Σ above / Σ below over prompts, with its bootstrap interval."""
    numerator = np.array([above(statistics) for statistics in tally.statistics])
    denominator = np.array([below(statistics) for statistics in tally.statistics])
    return _figure(lambda picks: numerator[picks].sum(-1) / denominator[picks].sum(-1), len(numerator))


def speedup(tally: Tally, alone: Tally) -> Figure:
    """Tokens/s of a pair over those of the target alone; prompts are resampled together for both."""
    tokens, seconds = _columns(tally)
    tokens_alone, seconds_alone = _columns(alone)

    def ratio(picks: NDArray[np.int64]) -> NDArray[np.float64]:
        pair = tokens[picks].sum(-1) / seconds[picks].sum(-1)
        return np.asarray(pair * seconds_alone[picks].sum(-1) / tokens_alone[picks].sum(-1))

    return _figure(ratio, len(tokens))


def _columns(tally: Tally) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tokens and decoding seconds `[prompts]`."""
    rows = [(statistics.tokens, statistics.decode_s) for statistics in tally.statistics]
    tokens, seconds = np.array(rows, np.float64).T
    return tokens, seconds


def _figure(statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]], prompts: int) -> Figure:
    """A measured statistic of prompts with its 95 % percentile-bootstrap interval."""
    everyone = np.arange(prompts)
    picks = np.random.default_rng(0).integers(0, prompts, (_RESAMPLES, prompts))
    low, high = np.quantile(statistic(picks), [0.025, 0.975])
    return Figure(float(statistic(everyone)), Evidence.MEASURED, float(low), float(high))
