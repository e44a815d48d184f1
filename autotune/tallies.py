"""Measured figures of a contest by the run's objective, with bootstrap intervals over prompts.

`categories` are those of the prompts, `[prompts]`; the pooled mean does not need them.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from autotune.contest import Tally
from autotune.objective import MEAN, Objective
from autotune.results import Evidence, Figure
from autotune.runtime.decode import Statistics

_RESAMPLES = 1000

_Counts = NDArray[np.float64]


def speed(tally: Tally, objective: Objective = MEAN, categories: Sequence[str] = ()) -> Figure:
    """Measured tokens per second of decoding."""
    return _rate(tally, lambda s: s.decode_s, objective, categories)


def tokens_per_round(tally: Tally, objective: Objective = MEAN, categories: Sequence[str] = ()) -> Figure:
    """Measured TAR."""
    return _rate(tally, lambda s: s.rounds, objective, categories)


def speedup(tally: Tally, alone: Tally, objective: Objective = MEAN, categories: Sequence[str] = ()) -> Figure:
    """Tokens/s of a pair over those of the target alone; prompts are resampled together for both."""
    pair, base = ((_column(each, lambda s: s.tokens), _column(each, lambda s: s.decode_s)) for each in (tally, alone))

    def ratio(picks: NDArray[np.int64]) -> _Counts:
        return objective.speedup(pair[0][picks], pair[1][picks], base[0][picks], base[1][picks], categories)

    return _figure(ratio, len(tally.statistics), objective, categories)


def _rate(
    tally: Tally, below: Callable[[Statistics], float], objective: Objective, categories: Sequence[str]
) -> Figure:
    """Tokens over what is counted below them."""
    tokens, rest = _column(tally, lambda s: s.tokens), _column(tally, below)
    return _figure(
        lambda picks: objective.rate(tokens[picks], rest[picks], categories), len(tokens), objective, categories
    )


def _column(tally: Tally, count: Callable[[Statistics], float]) -> _Counts:
    """One of the counts `[prompts]`."""
    return np.array([count(statistics) for statistics in tally.statistics], np.float64)


def _figure(
    statistic: Callable[[NDArray[np.int64]], _Counts], prompts: int, objective: Objective, categories: Sequence[str]
) -> Figure:
    """A measured statistic of prompts with its 95 % percentile-bootstrap interval."""
    picks = objective.resamples(categories, prompts, _RESAMPLES, 0)
    low, high = np.quantile(statistic(picks), [0.025, 0.975])
    return Figure(float(statistic(np.arange(prompts))), Evidence.MEASURED, float(low), float(high))
