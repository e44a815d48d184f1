"""Several requests decoded together, with fakes whose output depends on what their caches really hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import BadRequest
from autotune.runtime.batch_decode import BatchDecoder, BatchStatistics, Lookahead
from autotune.runtime.decode import Decoder, DecodeRequest
from autotune.runtime.drafter import ModelDrafter
from autotune.sampling import SamplingSettings, distribution
from tests.support.sessions import VOCAB, BatchOf, PairwiseSession, TrimmedSession, near_table, random_table

CAPACITY = 30
TABLE = random_table(3)
DRAFTED = near_table(TABLE, 99, 0.7)
KEPT = np.array([0, 2, 3, 6])

samplings = st.sampled_from([SamplingSettings(), SamplingSettings(0.8), SamplingSettings(1.2, top_k=3)])
requests = st.builds(
    DecodeRequest,
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=CAPACITY - 1),
    st.integers(1, CAPACITY),
    samplings,
    st.integers(0, 1000),
    st.frozensets(st.integers(0, VOCAB - 1), max_size=1),
    st.none() | st.integers(0, 3),
)
batches = st.sampled_from([(1,), (2,), (1, 3), (1, 2, 4), (2, 3), (4,)])


def session(drafts: bool, trimmed: bool = False, capacity: int = CAPACITY) -> PairwiseSession | TrimmedSession:
    whole = PairwiseSession(DRAFTED if drafts else TABLE, capacity)
    return TrimmedSession(whole, KEPT) if trimmed else whole


def decoder(
    sizes: tuple[int, ...], lookahead: int | Lookahead, trimmed: bool = False, capacity: int = CAPACITY
) -> BatchDecoder:
    target, draft = (
        BatchOf([session(drafts, drafts and trimmed, capacity) for _ in range(sizes[-1])], sizes[:-1])
        for drafts in (False, True)
    )
    return BatchDecoder(target, draft if lookahead else None, lookahead)


def alone(request: DecodeRequest, lookahead: int, trimmed: bool = False) -> list[int]:
    """What the request comes to by itself."""
    return Decoder(session(False), ModelDrafter(session(True, trimmed)), lookahead).decode(request)[0]


@settings(max_examples=300, deadline=None)
@given(st.lists(requests, min_size=1, max_size=8), batches, st.integers(0, 4), st.booleans())
def test_every_sequence_is_what_decoding_it_alone_gives(
    asked: list[DecodeRequest], sizes: tuple[int, ...], lookahead: int, trimmed: bool
) -> None:
    """Prompts, ends, samplings, seeds and lookaheads mixed; places refilled; caches filled to their last position."""
    tokens, statistics = decoder(sizes, lookahead, trimmed).decode(asked)
    assert tokens == [alone(request, lookahead, trimmed) for request in asked]
    assert statistics.tokens == sum(map(len, tokens))
    assert statistics.rounds >= statistics.batches


@settings(max_examples=150, deadline=None)
@given(st.lists(requests, min_size=1, max_size=8), batches, st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_greedy_output_stays_the_targets_own_while_the_lookahead_changes(
    asked: list[DecodeRequest], sizes: tuple[int, ...], lookaheads: list[int]
) -> None:
    """By the round, so that the draft lags behind for a while and has to catch up."""
    rounds = 0

    def lookahead(active: int) -> int:
        nonlocal rounds
        rounds += 1
        assert 1 <= active <= sizes[-1]
        return lookaheads[rounds % len(lookaheads)]

    greedy = [DecodeRequest(each.prompt, each.max_new_tokens, eos_ids=each.eos_ids) for each in asked]
    tokens, _ = decoder(sizes, lookahead).decode(greedy)
    assert tokens == [alone(request, 0) for request in greedy]


def test_the_lookahead_follows_the_sequences_that_are_still_decoded() -> None:
    seen: list[int] = []

    def lookahead(active: int) -> int:
        seen.append(active)
        return 0

    decoder((1, 2, 4), lookahead).decode([DecodeRequest([1], length) for length in (2, 4, 4, 6)])
    assert sorted(set(seen), reverse=True) == [4, 3, 1]


def test_what_has_ended_costs_nothing_where_the_program_takes_fewer() -> None:
    batch = decoder((1, 2, 4), 0)
    batch.decode([DecodeRequest([1], length) for length in (1, 1, 2, 3, 5)])
    assert isinstance(batch.target, BatchOf)
    assert [rows for rows, _ in batch.target.calls] == [4, 4, 2, 1, 1, 1]


def test_a_place_is_refilled_as_soon_as_its_request_ended() -> None:
    batch, statistics = decoder((2,), 0), BatchStatistics()
    order = [index for index, _ in batch.rounds([DecodeRequest([1], n) for n in (1, 3, 2)], statistics)]
    assert order == [0, 1, 2, 1, 2, 1]
    assert (statistics.batches, statistics.rounds) == (3, 6)


def test_a_stopped_request_leaves_its_place() -> None:
    batch, emitted = decoder((1, 2), 2), [0, 0, 0]
    for index, done in batch.rounds([DecodeRequest([1], 20)] * 3, BatchStatistics()):
        emitted[index] += len(done.tokens)
        if index == 0:
            batch.stop(0)
    assert emitted[0] <= 3
    assert emitted[1:] == [20, 20]


def test_a_perfect_draft_needs_the_fewest_rounds_in_lockstep() -> None:
    target, draft = (BatchOf([PairwiseSession(TABLE) for _ in range(3)], (1,)) for _ in range(2))
    tokens, statistics = BatchDecoder(target, draft, 4).decode([DecodeRequest([n], 50) for n in range(3)])
    assert [len(each) for each in tokens] == [50] * 3
    assert (statistics.batches, statistics.rounds) == (10, 30)
    # After a round that kept everything, the draft's first step takes two tokens; no call of its own catches up.
    assert len(draft.calls) == 10 * 4
    assert {width for _, width in draft.calls} == {1, 2}


@pytest.mark.parametrize("trimmed", [False, True])
def test_sampled_output_of_a_batch_has_the_targets_distribution(trimmed: bool) -> None:
    """The first three tokens of many requests, against the exact probabilities (chi-square), the schedule changing."""
    sampling, runs = SamplingSettings(0.9, top_k=5), 6000
    batch = decoder((1, 4), lambda active: active % 3, trimmed)
    tokens, _ = batch.decode([DecodeRequest([3, 1], 3, sampling, seed) for seed in range(runs)])
    counts = np.zeros((VOCAB,) * 3)
    for each in tokens:
        counts[tuple(each)] += 1
    expected = np.zeros_like(counts)
    for a in range(VOCAB):
        for b in range(VOCAB):
            p = [distribution(TABLE[pair], sampling) for pair in ((3, 1), (1, a), (a, b))]
            expected[a, b] = runs * p[0][a] * p[1][b] * p[2]
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    statistic = ((counts - expected)[common] ** 2 / expected[common]).sum()
    degrees = common.sum() - 1
    assert statistic < degrees + 4 * np.sqrt(2 * degrees)


def test_bad_requests_are_refused_before_anything_is_decoded() -> None:
    batch = decoder((2,), 1)
    for request, message in (
        (DecodeRequest([], 5), "empty"),
        (DecodeRequest([1] * CAPACITY, 5), f"{CAPACITY} tokens and the context {CAPACITY}"),
        (DecodeRequest([1], 5, logprobs=2), "log-probabilities"),
    ):
        with pytest.raises(BadRequest, match=message):
            batch.decode([DecodeRequest([1], 5), request])
    assert isinstance(batch.target, BatchOf)
    assert batch.target.calls == []


def test_target_and_draft_must_fit_each_other() -> None:
    target = BatchOf([session(False), session(False)])
    with pytest.raises(ValueError, match="needs a draft"):
        BatchDecoder(target, None, 2)
    with pytest.raises(ValueError, match="other batches"):
        BatchDecoder(target, BatchOf([session(True)] * 3), 2)
