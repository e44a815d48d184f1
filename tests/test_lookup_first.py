"""Estimates of a draft with a lookup before it, against real decoding and against either alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.acceptance import expected_rounds
from autotune.candidate import Lookup, LookupKind
from autotune.lookup_first import Drafted, estimate_lookup_first, walk_first
from autotune.model_free import LOOKUPS, Agreement, agreements, walk
from autotune.runtime.decode import Decoder, DecodeRequest
from autotune.runtime.drafter import ModelDrafter
from autotune.runtime.lookup import open_lookup
from autotune.runtime.lookup_first import LookupFirstDrafter
from tests.support.figures import BUILD
from tests.support.figures import latency as burst_latency
from tests.support.sessions import VOCAB, PairwiseSession, random_table
from tests.test_model_free import latency, trace_of

LOOKUP = Lookup(LookupKind.SUFFIX_AUTOMATON, 1)
NOTHING = Agreement(0, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(LOOKUPS),
    st.integers(0, 40),
    st.integers(1, 5),
    st.integers(1, 5),
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9),
)
def test_greedy_rounds_are_those_of_real_decoding(
    lookup: Lookup, seed: int, found: int, drafted: int, prompt: list[int]
) -> None:
    target, draft = PairwiseSession(random_table(seed)), PairwiseSession(random_table(seed + 1, 0.5))
    written, _ = Decoder(target, None, 0).decode(DecodeRequest(prompt, 50))
    text = [0, *prompt, *written]
    guesses = random_table(seed + 1, 0.5).argmax(-1)[text[:-1], text[1:]][len(prompt) - 1 : -1]
    acceptance = guesses == np.array(written)
    places = agreements(lookup, trace_of(prompt, written), VOCAB, 5)
    course = walk_first(places, acceptance.astype(float), found, drafted)
    drafter = LookupFirstDrafter(open_lookup(lookup, VOCAB), found, ModelDrafter(draft), drafted)
    _, statistics = Decoder(target, drafter, max(found, drafted)).decode(DecodeRequest(prompt, 50))
    assert course.rounds == statistics.rounds
    sizes = np.arange(found + 1) @ course.found + np.arange(drafted + 1) @ course.drafted
    assert sizes == statistics.drafted


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 5))
def test_where_nothing_is_found_it_is_the_draft_alone(chances: list[float], lookahead: int) -> None:
    course = walk_first([NOTHING] * len(chances), np.array(chances), 3, lookahead)
    _, rounds = expected_rounds([chances], lookahead)
    assert course.rounds == pytest.approx(rounds[0, lookahead])
    assert course.missed == 0.0


def test_where_all_is_found_it_is_the_lookup_alone() -> None:
    trace = trace_of([1, 2, 3, 4] * 2, [1, 2, 3, 4] * 6)
    places = agreements(LOOKUP, trace, VOCAB, 8)
    course = walk_first(places, np.zeros(24), 8, 2)
    assert course.rounds == walk(LOOKUP, [trace], VOCAB, 8).acceptance.rounds[0][8]
    assert course.drafted.sum() == 0.0


def test_the_best_of_both_is_no_slower_than_either() -> None:
    """Half of the text repeats itself, the other half is drafted well."""
    rng = np.random.default_rng(0)
    traces = [trace_of([1, 2, 3] * 3, [1, 2, 3] * 6), trace_of([5], rng.permutation(VOCAB)[:5].tolist())]
    draft = Drafted(BUILD, burst_latency(1e-4, 2e-4, 3e-4, 4e-4), [np.full(18, 0.3), np.full(5, 0.9)])
    both = estimate_lookup_first(draft, traces, VOCAB, latency(), 4, 2)
    assert both.build == draft.build
    never = (Lookup(LookupKind.SUFFIX_AUTOMATON, 99),)
    alone = estimate_lookup_first(draft, traces, VOCAB, latency(), 4, 2, lookups=never)
    assert both.best.tokens_per_s.value > alone.best.tokens_per_s.value
    assert both.best.tokens_per_round.low is not None
    assert both.best.tokens_per_round.low <= both.best.tokens_per_round.value
