"""A lookup before a draft: whole decodings, who is asked, and a draft that missed rounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.runtime.decode import Decoder, DecodeRequest
from autotune.runtime.drafter import ModelDrafter
from autotune.runtime.lookup import LookupDrafter, SuffixAutomaton
from autotune.runtime.lookup_first import LookupFirstDrafter
from autotune.sampling import SamplingSettings
from tests.support.sessions import VOCAB, PairwiseSession, random_table

GREEDY = SamplingSettings()


def both(table_seed: int, found: int, drafted: int, shortest: int = 1) -> LookupFirstDrafter:
    lookup = LookupDrafter(SuffixAutomaton, VOCAB, shortest)
    return LookupFirstDrafter(lookup, found, ModelDrafter(PairwiseSession(random_table(table_seed))), drafted)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 30),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 3),
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12),
)
def test_greedy_output_is_the_targets_own(
    seed: int, found: int, drafted: int, shortest: int, prompt: list[int]
) -> None:
    table = random_table(seed)
    alone, _ = Decoder(PairwiseSession(table), None, 0).decode(DecodeRequest(prompt, 60))
    decoder = Decoder(PairwiseSession(table), both(seed + 1, found, drafted, shortest), max(found, drafted))
    for _ in range(2):  # nothing is left of an earlier request
        tokens, _ = decoder.decode(DecodeRequest(prompt, 60))
        assert tokens == alone


def test_sampled_output_follows_the_targets_distribution() -> None:
    table, sampling = random_table(3, 2.0), SamplingSettings(1.0)
    alone = Decoder(PairwiseSession(table), None, 0)
    decoder = Decoder(PairwiseSession(table), both(4, 3, 2), 3)
    counts = np.zeros((2, VOCAB))
    for row, each in enumerate((alone, decoder)):
        for seed in range(3000):
            tokens, _ = each.decode(DecodeRequest([1, 2, 1], 3, sampling, seed + 10_000 * row))
            counts[row, tokens[-1]] += 1
    expected = counts.sum(0) / 2
    used = expected > 5
    statistic = ((counts[1] - counts[0]) ** 2 / (2 * expected.clip(1)))[used].sum()
    assert statistic < used.sum() + 5 * np.sqrt(2 * used.sum())


def test_the_draft_is_asked_only_where_nothing_is_found() -> None:
    draft = ModelDrafter(PairwiseSession(random_table(0)))
    drafter = LookupFirstDrafter(LookupDrafter(SuffixAutomaton, VOCAB, 2), 4, draft, 2)
    rng = np.random.default_rng(0)
    drafter.start([1, 2, 3, 1, 2])
    assert drafter.propose([1, 2, 3, 1, 2], 9, GREEDY, rng).tokens == [3, 1, 2, 3]
    drafter.settle(0)
    proposal = drafter.propose([1, 2, 3, 1, 2, 0], 9, GREEDY, rng)
    fresh = ModelDrafter(PairwiseSession(random_table(0)))
    fresh.start([1, 2, 3, 1, 2, 0])
    assert proposal.tokens == fresh.propose([1, 2, 3, 1, 2, 0], 2, GREEDY, rng).tokens


@pytest.mark.parametrize("missed", [1, 2, 3, 70, 150])
def test_a_draft_catches_up_with_what_it_missed(missed: int) -> None:
    session = PairwiseSession(random_table(5))
    drafter = ModelDrafter(session)
    drafter.start([1, 2])
    sequence = [1, 2, *(n % VOCAB for n in range(missed))]
    fresh = ModelDrafter(PairwiseSession(random_table(5)))
    fresh.start(sequence)
    rng = np.random.default_rng(0)
    assert drafter.propose(sequence, 4, GREEDY, rng) == fresh.propose(sequence, 4, GREEDY, rng)


def test_a_sibling_follows_a_text_of_its_own() -> None:
    drafter = both(7, 3, 2)
    drafter.start([1, 2, 1])
    sibling = drafter.sibling()
    sibling.start([3, 4, 3])
    rng = np.random.default_rng(0)
    assert sibling.propose([3, 4, 3], 1, GREEDY, rng).tokens == [4]
    assert drafter.propose([1, 2, 1], 1, GREEDY, rng).tokens == [2]
