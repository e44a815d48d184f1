"""The speeds of two drafts compared on the same traces, and the acceptance of one draft on more traces (pure).

Some text is easy for every draft and some is hard for all, so that most of what makes a draft's TAR uncertain is which
traces it was estimated on.  Drafts that were scored on the *same* traces share that part: in a paired bootstrap, which
resamples traces once for both, it cancels from their ratio, whose interval is far narrower than the drafts' own
intervals make it look.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autotune.objective import MEAN, Objective, counts
from autotune.results import Acceptance

Speeds = NDArray[np.float64]
"""Tokens/s of a draft in every bootstrap resample `[resamples]`."""

_RESAMPLES = 500
_TAIL = 0.025


def joined(first: Acceptance, second: Acceptance) -> Acceptance:
    """The acceptance of a draft on the traces of both, the first's before the second's; evidence as the first's."""
    return replace(
        first,
        tokens=first.tokens + second.tokens,
        rounds=first.rounds + second.rounds,
        accepted=tuple(one + other for one, other in zip(first.accepted, second.accepted, strict=True)),
        examined=tuple(one + other for one, other in zip(first.examined, second.examined, strict=True)),
        categories=first.categories + second.categories,
    )


def resampled_speeds(acceptance: Acceptance, round_s: Mapping[int, float], objective: Objective = MEAN) -> Speeds:
    """The objective's tokens/s of a draft in every resample of its traces, each at its best lookahead.

    round_s: seconds of a round, by lookahead.  Of all drafts that were scored on the same traces, resample i draws the
    same ones.
    """
    picks = objective.resamples(acceptance.categories, len(acceptance.tokens), _RESAMPLES, seed=0)
    speeds = []
    for lookahead, seconds in round_s.items():
        tokens, rounds = counts(acceptance, lookahead)
        speeds.append(objective.rate(tokens[picks], rounds[picks], acceptance.categories) / seconds)
    return np.asarray(np.max(speeds, axis=0))


def ratio_interval(first: Speeds, second: Speeds) -> tuple[float, float]:
    """95 % interval of how many times faster the first draft is than the second, on the same traces."""
    low, high = np.quantile(first / second, (_TAIL, 1 - _TAIL))
    return float(low), float(high)
