"""The mathematics against a simulator, against real greedy decoding, and against real sampled decoding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autotune.acceptance import (
    acceptance_probabilities,
    bootstrap_interval,
    count_acceptance,
    count_bursts,
    expected_rounds,
    tokens_per_round,
)
from autotune.runtime.decode import Decoder, DecodeRequest, Round, Statistics
from autotune.runtime.drafter import ModelDrafter
from autotune.sampling import SamplingSettings, distribution
from tests.support.sessions import PairwiseSession, near_table, random_table

probabilities = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0))
one_trace = st.lists(probabilities, min_size=1, max_size=40)


def walk_rounds(r: list[float], lookahead: int) -> tuple[float, NDArray[np.float64]]:
    """Expected rounds and rounds by emitted tokens, following every round from every start (no recurrence used)."""
    length = len(r)
    starts = np.zeros(length + lookahead + 2)
    starts[0] = 1.0
    emitted = np.zeros(lookahead + 1)
    for t in range(length):
        alive, most = starts[t], min(lookahead + 1, length - t)
        for n in range(1, most):
            rejected = alive * (1 - r[t + n - 1])
            emitted[n - 1] += rejected
            starts[t + n] += rejected
            alive *= r[t + n - 1]
        emitted[most - 1] += alive
        starts[t + most] += alive
    return starts[:length].sum(), emitted


@settings(max_examples=150, deadline=None)
@given(st.lists(one_trace, min_size=1, max_size=4), st.integers(0, 9))
def test_counts_equal_a_walk_over_all_rounds(traces: list[list[float]], lookahead: int) -> None:
    rounds = [walk_rounds(r, lookahead) for r in traces]
    _, expected = expected_rounds(traces, lookahead)
    np.testing.assert_allclose(expected[:, lookahead], [total for total, _ in rounds], atol=1e-9)
    bursts = count_bursts(traces, lookahead)
    np.testing.assert_allclose(bursts.emitted, sum(emitted for _, emitted in rounds), atol=1e-9)
    assert (np.arange(lookahead + 1) + 1) @ bursts.emitted == pytest.approx(sum(map(len, traces)))
    assert np.all(bursts.accepted <= bursts.examined + 1e-12)


@settings(max_examples=100, deadline=None)
@given(st.lists(one_trace, min_size=1, max_size=4))
def test_tokens_per_round_grows_with_the_lookahead_and_stays_below_k_plus_1(traces: list[list[float]]) -> None:
    tar = tokens_per_round(traces, 8)
    assert tar[0] == pytest.approx(1.0)
    assert np.all(tar <= np.arange(9) + 1 + 1e-9)
    assert np.all(tar >= 1 - 1e-9)


def test_a_random_round_simulator_agrees() -> None:
    rng = np.random.default_rng(5)
    r, lookahead, runs = rng.random(60) ** 0.4, 4, 4000
    counts = np.zeros(runs)
    for run in range(runs):
        t = 0
        while t < len(r):
            kept = 0
            while kept < lookahead and t + kept < len(r) and rng.random() < r[t + kept]:
                kept += 1
            t += kept + 1
            counts[run] += 1
    expected = expected_rounds([r], lookahead)[1][0, lookahead]
    assert abs(counts.mean() - expected) < 4 * counts.std() / np.sqrt(runs)


def test_long_and_block_boundary_traces_agree_with_the_walk() -> None:
    rng = np.random.default_rng(1)
    for length in (255, 256, 257, 1500):
        r = np.where(rng.random(length) < 0.9, 1.0, rng.random(length))
        for lookahead in (1, 2, 7):
            rounds = expected_rounds([r], lookahead)[1][0, lookahead]
            assert rounds == pytest.approx(walk_rounds(list(r), lookahead)[0])


def test_greedy_rounds_of_a_real_decoder_are_counted_exactly() -> None:
    target = random_table(0)
    draft = near_table(target, seed=1, noise=1.2)
    for lookahead in (1, 3, 5):
        traces, rounds, emitted = [], 0, np.zeros(lookahead + 1)
        for prompt in ([1, 2], [3], [4, 5, 6]):
            tokens, _ = Decoder(PairwiseSession(target), None, 0).decode(DecodeRequest(prompt, 50))
            drafter = PairwiseSession(draft)
            predicted = drafter.greedy([*prompt, *tokens], 0)[len(prompt) - 1 : -1]
            traces.append((predicted == np.array(tokens)).astype(float))
            decoder = Decoder(PairwiseSession(target), ModelDrafter(PairwiseSession(draft)), lookahead)
            repeated, statistics = decoder.decode(DecodeRequest(prompt, 50))
            assert repeated == tokens
            rounds += statistics.rounds
            emitted[: len(statistics.emitted)] += statistics.emitted
        assert 0.2 < np.concatenate(traces).mean() < 0.95
        assert expected_rounds(traces, lookahead)[1][:, lookahead].sum() == pytest.approx(rounds)
        np.testing.assert_allclose(count_bursts(traces, lookahead).emitted, emitted, atol=1e-9)


@pytest.mark.parametrize(
    "sampling", [SamplingSettings(1.0), SamplingSettings(0.7, top_k=4), SamplingSettings(1.0, 0, 0.8)]
)
def test_sampled_rounds_of_real_decoders_agree_within_their_statistical_error(sampling: SamplingSettings) -> None:
    target = random_table(2)
    draft = near_table(target, seed=3, noise=0.8)
    lookahead, length, prompt = 3, 40, [1, 2]
    real, predicted = [], []
    for seed in range(250):
        decoder = Decoder(PairwiseSession(target), ModelDrafter(PairwiseSession(draft)), lookahead)
        _, statistics = decoder.decode(DecodeRequest(prompt, length, sampling, seed))
        real.append(statistics.rounds)
        tokens, _ = Decoder(PairwiseSession(target), None, 0).decode(
            DecodeRequest(prompt, length, sampling, 10_000 + seed)
        )
        p, q = (_logprobs(table, prompt, tokens, sampling) for table in (target, draft))
        predicted.append(expected_rounds([acceptance_probabilities(q, p)], lookahead)[1][0, lookahead])
    error = np.sqrt(np.var(real) / len(real) + np.var(predicted) / len(predicted))
    assert abs(np.mean(real) - np.mean(predicted)) < 3.5 * error
    assert error / np.mean(real) < 0.02


def _logprobs(
    table: NDArray[np.float32], prompt: list[int], tokens: list[int], sampling: SamplingSettings
) -> NDArray[np.float64]:
    logits = PairwiseSession(table).logits([*prompt, *tokens], 0)[len(prompt) - 1 : -1]
    chosen = distribution(logits, sampling)[np.arange(len(tokens)), tokens]
    with np.errstate(divide="ignore"):
        return np.log(chosen)


def test_a_token_the_draft_can_never_propose_is_never_accepted() -> None:
    assert acceptance_probabilities([-np.inf, -1.0, -2.0], [-1.0, -2.0, -1.0]) == pytest.approx([0, 1, np.exp(-1)])


def test_pooling_weighs_tokens_not_prompts() -> None:
    pooled = tokens_per_round([np.ones(90), np.zeros(10)], 2)[2]
    assert pooled == pytest.approx(100 / (30 + 10))


def test_counts_and_their_interval() -> None:
    rng = np.random.default_rng(0)
    acceptance = count_acceptance([rng.random(50) for _ in range(40)], 4)
    low, high = bootstrap_interval(acceptance, 4)
    assert low < acceptance.tokens_per_round(4) < high
    assert bootstrap_interval(acceptance, 0) == pytest.approx((1.0, 1.0))
    assert acceptance.max_lookahead == 4


@pytest.mark.parametrize("bad", [[1.5], [-0.1], [float("nan")], []])
def test_impossible_acceptances_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"acceptance|no trace"):
        tokens_per_round([bad], 2)


def test_statistics_add_up() -> None:
    total = Statistics()
    for emitted in (1, 3, 3):
        one = Statistics(prefill_s=1.0, burst_s=0.5, verify_s=0.25, decode_s=1.0)
        one.count_round(Round([7] * emitted, drafted=3, accepted=emitted - 1))
        total.add(one)
    assert (total.tokens, total.rounds, total.drafted, total.emitted) == (7, 3, 9, [1, 0, 2])
    assert total.tokens_per_round == pytest.approx(7 / 3)
    assert total.overhead_s == pytest.approx(0.75)
