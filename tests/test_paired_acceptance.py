"""Drafts compared on the same traces, and one draft on more of them."""

from dataclasses import replace

import numpy as np
import pytest

from autotune.acceptance import bootstrap_interval, count_acceptance
from autotune.objective import WORST
from autotune.paired_acceptance import joined, ratio_interval, resampled_speeds
from autotune.results import Acceptance
from tests.support.figures import acceptance_by_category

ROUND_S = {1: 0.010, 2: 0.011, 3: 0.014}


def drafts(worse: float, seed: int = 0) -> tuple[Acceptance, Acceptance]:
    """Two drafts on the same 60 traces, some of which are easy and some hard for both."""
    rng = np.random.default_rng(seed)
    ease = rng.uniform(0.3, 0.9, 60)
    wobble = rng.normal(0, 0.02, 60)
    return (
        count_acceptance([np.full(50, share) for share in ease], 3),
        count_acceptance([np.full(50, share) for share in np.clip(ease - worse + wobble, 0, 1)], 3),
    )


def test_a_difference_that_own_intervals_hide_is_seen_in_pairs() -> None:
    better, worse = drafts(0.03)
    low, high = ratio_interval(resampled_speeds(worse, ROUND_S), resampled_speeds(better, ROUND_S))
    assert 0.9 < low < high < 1.0
    assert bootstrap_interval(worse, 2)[1] > bootstrap_interval(better, 2)[0]


def test_no_difference_is_not_decided() -> None:
    one, other = drafts(0.0)
    low, high = ratio_interval(resampled_speeds(one, ROUND_S), resampled_speeds(other, ROUND_S))
    assert low < 1.0 < high
    assert ratio_interval(resampled_speeds(one, ROUND_S), resampled_speeds(one, ROUND_S)) == (1.0, 1.0)


def test_speeds_are_those_of_the_best_lookahead_by_the_objective() -> None:
    even = acceptance_by_category(code=0.8, chat=0.2)
    fastest = {1: 0.010, 2: 0.010}
    assert resampled_speeds(even, fastest, WORST) == pytest.approx(np.full(500, 1.4 / 0.010))
    assert resampled_speeds(even, {1: 0.010, 2: 0.020}, WORST) == pytest.approx(np.full(500, 1.2 / 0.010))


def test_parts_joined_are_the_whole() -> None:
    rng = np.random.default_rng(1)
    traces = [rng.uniform(size=int(rng.integers(5, 40))) for _ in range(12)]
    names = tuple("abc"[n % 3] for n in range(12))
    whole = replace(count_acceptance(traces, 4), categories=names)
    first, second = (
        replace(count_acceptance(traces[part], 4), categories=names[part]) for part in (slice(0, 5), slice(5, 12))
    )
    both = joined(first, second)
    assert both.tokens == whole.tokens
    assert both.categories == whole.categories
    assert np.array(both.rounds) == pytest.approx(np.array(whole.rounds))
    assert both.accepted == pytest.approx(whole.accepted)
    assert both.examined == pytest.approx(whole.examined)
