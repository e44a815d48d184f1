"""Estimates of drafting without a model, against real decoding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.candidate import Lookup, LookupKind
from autotune.model_free import LOOKUPS, score_lookups, walk
from autotune.results import LatencyTable, MeasureSettings, TargetLatency
from autotune.runtime.decode import Decoder, DecodeRequest
from autotune.runtime.lookup import open_lookup
from autotune.sampling import SamplingSettings
from autotune.traces import Trace
from tests.support.sessions import VOCAB, PairwiseSession, random_table

EACH = pytest.mark.parametrize("lookup", LOOKUPS, ids=str)


def trace_of(prompt: list[int], continuation: list[int]) -> Trace:
    count = len(continuation)
    tokens = np.array([*prompt, *continuation], np.int32)
    return Trace(
        np.array(prompt, np.int32), np.array(continuation, np.int32), np.zeros(count, np.float32), tokens, "text"
    )


def latency(verify_s: float = 0.0) -> TargetLatency:
    """A step takes 1 ms, and every further position `verify_s` more; the loop takes nothing."""
    settings_ = MeasureSettings(context_tokens=8, threads=1)
    table = LatencyTable(tuple((1e-3 + n * verify_s,) for n in range(9)), settings_, "fake")
    return TargetLatency(table, 0.0, 0.0)


@EACH
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(1, 6), st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9))
def test_greedy_rounds_are_those_of_real_decoding(lookup: Lookup, seed: int, lookahead: int, prompt: list[int]) -> None:
    session = PairwiseSession(random_table(seed))
    continuation, _ = Decoder(session, None, 0).decode(DecodeRequest(prompt, 50))
    course = walk(lookup, [trace_of(prompt, continuation)], VOCAB, 6)
    _, statistics = Decoder(session, open_lookup(lookup, VOCAB), lookahead).decode(DecodeRequest(prompt, 50))
    assert course.acceptance.rounds[0][lookahead] == statistics.rounds
    counts = course.proposed[0, lookahead]
    assert counts.sum() == statistics.rounds
    assert (counts * np.arange(7)).sum() == statistics.drafted


@pytest.mark.parametrize("kind", list(LookupKind))
def test_sampled_rounds_are_those_of_real_decoding_on_average(kind: LookupKind) -> None:
    lookup, sampling, table = Lookup(kind, 1, 3), SamplingSettings(0.5), random_table(3, 3.0)
    prompts = [np.random.default_rng(n).integers(0, VOCAB, 12).tolist() for n in range(200)]
    session, traces, rounds = PairwiseSession(table), [], 0
    drafter = open_lookup(lookup, VOCAB)
    for seed, prompt in enumerate(prompts):
        written, _ = Decoder(session, None, 0).decode(DecodeRequest(prompt, 40, sampling, seed))
        traces.append(trace_of(prompt, written))
        rounds += Decoder(session, drafter, 3).decode(DecodeRequest(prompt, 40, sampling, 10_000 + seed))[1].rounds
    expected = [row[3] for row in walk(lookup, traces, VOCAB, 3).acceptance.rounds]
    spread = np.std(expected) * np.sqrt(2 * len(prompts))
    assert abs(sum(expected) - rounds) < 4 * spread


def test_a_text_that_repeats_itself_is_read_off() -> None:
    phrase = [1, 2, 3, 4]
    scored = score_lookups([trace_of(phrase * 2, phrase * 6)], VOCAB, latency(), 8)
    best = scored[0].best
    assert best.lookahead in (7, 8)
    assert best.tokens_per_round.value == 24 / 3
    assert best.speedup.value > 6.0
    assert [each.best.tokens_per_s.value for each in scored] == sorted(
        (each.best.tokens_per_s.value for each in scored), reverse=True
    )


def test_a_text_without_repetition_costs_no_more_than_the_target_alone() -> None:
    scored = score_lookups([trace_of([0, 1], [2, 3, 4, 5, 6])], VOCAB, latency(1e-3), 3)
    for each in scored:
        for score in each.scores:
            assert score.tokens_per_round.value == 1.0
            assert 0.5 < score.speedup.value <= 1.0  # all that is lost is the looking up


def test_without_a_lookahead_there_is_nothing_to_try() -> None:
    assert score_lookups([trace_of([0], [1])], VOCAB, latency(), 0) == []
