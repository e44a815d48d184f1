"""Drafting from the text itself, against brute force and in whole decodings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.runtime.decode import Decoder, DecodeRequest
from autotune.runtime.lookup import Index, LookupDrafter, NGrams, SuffixAutomaton
from autotune.sampling import SamplingSettings, distribution
from tests.support.sessions import VOCAB, PairwiseSession, random_table

TEXTS = st.lists(st.integers(0, 2), min_size=1, max_size=80)
KINDS = [NGrams, SuffixAutomaton]


def occurrences(text: list[int], length: int) -> list[int]:
    """Places behind the earlier occurrences of the last `length` tokens."""
    end = text[len(text) - length :]
    return [start + length for start in range(len(text) - length) if text[start : start + length] == end]


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_the_automaton_finds_the_longest_end_that_occurred_before(text: list[int]) -> None:
    automaton = SuffixAutomaton()
    for place, token in enumerate(text, 1):
        automaton.extend(token)
        read = text[:place]
        longest = max((n for n in range(1, place) if occurrences(read, n)), default=0)
        found = automaton.match()
        assert found.length == longest
        if longest:
            assert found.behind in occurrences(read, longest)


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(1, 3), st.integers(0, 3))
def test_n_grams_are_found_where_they_occurred_last(text: list[int], smallest: int, more: int) -> None:
    grams = NGrams(smallest + more, smallest)
    for token in text:
        grams.extend(token)
    found = grams.match()
    sizes = [n for n in range(smallest + more, smallest - 1, -1) if n < len(text) and occurrences(text, n)]
    assert found.length == (sizes[0] if sizes else 0)
    if sizes:
        assert found.behind == max(occurrences(text, sizes[0]))


def test_a_loop_goes_on_beyond_the_end_of_the_text() -> None:
    drafter = LookupDrafter(SuffixAutomaton, VOCAB)
    drafter.start([5, 1, 2, 3, 1, 2, 3])
    assert drafter.continuation([5, 1, 2, 3, 1, 2, 3], 7) == [1, 2, 3, 1, 2, 3, 1]


def test_what_is_too_short_is_not_proposed() -> None:
    text = [1, 2, 3, 4, 1, 2]
    for shortest, expected in ((2, [3, 4, 1]), (3, [])):
        drafter = LookupDrafter(NGrams, VOCAB, shortest)
        drafter.start(text[:3])
        assert drafter.continuation(text, 3) == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(1, 6), st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12))
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_output_is_the_targets_own(kind: type[Index], seed: int, lookahead: int, prompt: list[int]) -> None:
    table = random_table(seed)
    alone, _ = Decoder(PairwiseSession(table), None, 0).decode(DecodeRequest(prompt, 60))
    drafter = LookupDrafter(kind, VOCAB)
    decoder = Decoder(PairwiseSession(table), drafter, lookahead)
    for _ in range(2):  # nothing is left of an earlier request
        tokens, _ = decoder.decode(DecodeRequest(prompt, 60))
        assert tokens == alone


def test_sampled_output_has_the_targets_distribution() -> None:
    """The first three tokens of many runs, against the exact probabilities (chi-square)."""
    sampling = SamplingSettings(0.9, top_k=5)
    table, prompt = random_table(4), [3, 1, 2, 6, 3, 1]
    decoder = Decoder(PairwiseSession(table), LookupDrafter(SuffixAutomaton, VOCAB), 2)
    runs, counts, drafted = 4000, np.zeros((VOCAB,) * 3), 0
    for seed in range(runs):
        tokens, statistics = decoder.decode(DecodeRequest(prompt, 3, sampling, seed))
        counts[tuple(tokens)] += 1
        drafted += statistics.drafted
    assert drafted > runs
    expected = np.zeros_like(counts)
    for a in range(VOCAB):
        for b in range(VOCAB):
            p = [distribution(table[pair], sampling) for pair in [(3, 1), (1, a), (a, b)]]
            expected[a, b] = runs * p[0][a] * p[1][b] * p[2]
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    statistic = ((counts - expected)[common] ** 2 / expected[common]).sum()
    degrees = common.sum() - 1
    assert statistic < degrees + 4 * np.sqrt(2 * degrees)
