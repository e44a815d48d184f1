"""The objectives over categories: what each comes to, how they lie to each other, and their intervals."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.acceptance import bootstrap_interval, count_acceptance
from autotune.objective import MEAN, WORST, Objective, only, rates_by_category, weighted
from autotune.results import Acceptance

LOOKAHEADS = 3
names = st.sampled_from(["chat", "code", "mathematics"])
trace = st.tuples(names, st.lists(st.floats(0, 1), min_size=1, max_size=20))
traces = st.lists(trace, min_size=1, max_size=12)
all_weights = st.fixed_dictionaries({name: st.floats(0.01, 100) for name in ("chat", "code", "mathematics")})


def acceptance_of(texts: list[tuple[str, list[float]]]) -> Acceptance:
    counted = count_acceptance([ratios for _, ratios in texts], LOOKAHEADS)
    return replace(counted, categories=tuple(name for name, _ in texts))


def there(acceptance: Acceptance, weights: dict[str, float]) -> dict[str, float]:
    return {name: weights[name] for name in set(acceptance.categories)}


@given(traces, all_weights, st.integers(0, LOOKAHEADS))
def test_every_objective_lies_between_the_worst_and_the_best_category(
    texts: list[tuple[str, list[float]]], weights: dict[str, float], lookahead: int
) -> None:
    acceptance = acceptance_of(texts)
    each = [only(name).tokens_per_round(acceptance, lookahead) for name in set(acceptance.categories)]
    lowest, highest = min(each) * (1 - 1e-9), max(each) * (1 + 1e-9)
    assert WORST.tokens_per_round(acceptance, lookahead) == pytest.approx(min(each))
    for objective in (MEAN, weighted(there(acceptance, weights))):
        assert lowest <= objective.tokens_per_round(acceptance, lookahead) <= highest


@given(traces, st.integers(0, LOOKAHEADS))
def test_weights_that_are_the_shares_of_the_tokens_give_the_pooled_mean(
    texts: list[tuple[str, list[float]]], lookahead: int
) -> None:
    acceptance = acceptance_of(texts)
    shares = dict.fromkeys(acceptance.categories, 0.0)
    for name, tokens in zip(acceptance.categories, acceptance.tokens, strict=True):
        shares[name] += tokens
    mean = MEAN.tokens_per_round(acceptance, lookahead)
    assert weighted(shares).tokens_per_round(acceptance, lookahead) == pytest.approx(mean)
    assert mean == pytest.approx(acceptance.tokens_per_round(lookahead))


@given(traces, all_weights, st.floats(0.01, 100))
def test_weights_count_by_their_ratios(
    texts: list[tuple[str, list[float]]], weights: dict[str, float], unit: float
) -> None:
    acceptance = acceptance_of(texts)
    given_weights = there(acceptance, weights)
    scaled = weighted({name: unit * weight for name, weight in given_weights.items()})
    assert sum(weight for _, weight in scaled.weights) == pytest.approx(1.0)
    assert scaled.tokens_per_round(acceptance, 2) == pytest.approx(
        weighted(given_weights).tokens_per_round(acceptance, 2)
    )


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=20), min_size=1, max_size=6))
def test_with_one_category_all_objectives_are_the_mean(texts: list[list[float]]) -> None:
    acceptance = acceptance_of([("code", ratios) for ratios in texts])
    mean, interval = MEAN.tokens_per_round(acceptance, 2), bootstrap_interval(acceptance, 2)
    for objective in (WORST, only("code"), weighted({"code": 3.0, "chat": 0.0})):
        assert objective.tokens_per_round(acceptance, 2) == pytest.approx(mean)
        assert bootstrap_interval(acceptance, 2, objective) == pytest.approx(interval)


def test_the_weighted_mean_is_of_rounds_per_token() -> None:
    """Half the tokens at 4 a round, half at 1: 100 tokens take 12.5 + 50 rounds."""
    tokens, rounds = np.array([40.0, 40.0]), np.array([10.0, 40.0])
    assert weighted({"a": 1, "b": 1}).rate(tokens, rounds, ("a", "b")) == pytest.approx(100 / 62.5)
    assert weighted({"a": 0, "b": 1}).rate(tokens, rounds, ("a", "b")) == pytest.approx(1.0)


def test_the_worst_speedup_is_not_that_of_the_slowest_category() -> None:
    """Category a is slower in tokens/s, b gains less by speculation."""
    tokens, seconds, alone_s = np.array([10.0, 10.0]), np.array([5.0, 2.0]), np.array([15.0, 2.2])
    assert WORST.speedup(tokens, seconds, tokens, alone_s, ("a", "b")) == pytest.approx(1.1)
    assert WORST.rate(tokens, seconds, ("a", "b")) == pytest.approx(2.0)
    assert MEAN.speedup(tokens, seconds, tokens, alone_s, ("a", "b")) == pytest.approx(17.2 / 7)
    halves = weighted({"a": 1, "b": 1})
    assert halves.speedup(tokens, seconds, tokens, alone_s, ("a", "b")) == pytest.approx(17.2 / 7)


@given(st.lists(names, min_size=1, max_size=20), st.integers(0, 5))
def test_resamples_keep_the_categories_of_strata(categories: list[str], seed: int) -> None:
    picks = WORST.resamples(categories, len(categories), 7, seed)
    assert picks.shape == (7, len(categories))
    assert (np.array(categories)[picks] == np.array(categories)).all()
    assert (WORST.resamples(categories, len(categories), 7, seed) == picks).all()


def test_a_category_of_one_trace_does_not_vary() -> None:
    acceptance = acceptance_of([("chat", [0.5] * 9), *(("code", [float(n % 2)] * 9) for n in range(20))])
    low, high = bootstrap_interval(acceptance, 1, only("chat"))
    assert low == high == only("chat").tokens_per_round(acceptance, 1)
    low, high = bootstrap_interval(acceptance, 1, only("code"))
    assert low < only("code").tokens_per_round(acceptance, 1) < high


def test_categories_are_told_apart_in_the_order_of_their_names() -> None:
    found, rates = rates_by_category(np.array([[8.0, 2.0, 4.0]]), np.array([[2.0, 1.0, 4.0]]), ("b", "a", "b"))
    assert found == ["a", "b"]
    assert rates == pytest.approx(np.array([[2.0, 2.0]]))


@pytest.mark.parametrize("objective", [WORST, only("code")])
def test_without_categories_only_the_mean_is_known(objective: Objective) -> None:
    acceptance = count_acceptance([[0.5, 1.0]], 2)
    assert MEAN.tokens_per_round(acceptance, 1) > 1
    with pytest.raises(ValueError, match="0 categories were given for 1 texts"):
        objective.tokens_per_round(acceptance, 1)
