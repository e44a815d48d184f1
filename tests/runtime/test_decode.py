"""Lossless decoding with fakes whose output depends on what their caches really hold."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import BadRequest
from autotune.runtime.decode import Decoder, DecodeRequest, Statistics
from autotune.runtime.drafter import ModelDrafter
from autotune.sampling import SamplingSettings, distribution
from tests.support.sessions import VOCAB, PairwiseSession, TrimmedSession, near_table, random_table


def decode(
    target_seed: int, noise: float, lookahead: int, request: DecodeRequest, capacity: int = 256
) -> tuple[list[int], Statistics]:
    table = random_table(target_seed)
    drafter = ModelDrafter(PairwiseSession(near_table(table, 99, noise), capacity)) if lookahead else None
    return Decoder(PairwiseSession(table, capacity), drafter, lookahead).decode(request)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 30),
    st.sampled_from([0.0, 0.5, 2.0, 10.0]),
    st.integers(1, 6),
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5),
    st.integers(1, 40),
)
def test_greedy_output_is_the_targets_own(
    seed: int, noise: float, lookahead: int, prompt: list[int], length: int
) -> None:
    alone, plain = decode(seed, 0.0, 0, DecodeRequest(prompt, length))
    paired, statistics = decode(seed, noise, lookahead, DecodeRequest(prompt, length))
    assert paired == alone
    assert len(alone) == length == statistics.tokens
    assert plain.rounds == length
    assert sum((n + 1) * rounds for n, rounds in enumerate(statistics.emitted)) == length


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 30),
    st.sampled_from([0.0, 0.5, 10.0]),
    st.integers(1, 6),
    st.sets(st.integers(0, VOCAB - 1), min_size=1, max_size=VOCAB - 1),
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5),
)
def test_greedy_output_with_a_trimmed_draft_is_the_targets_own(
    seed: int, noise: float, lookahead: int, kept: set[int], prompt: list[int]
) -> None:
    table = random_table(seed)
    draft = TrimmedSession(PairwiseSession(near_table(table, 99, noise)), np.array(sorted(kept)))
    alone, _ = Decoder(PairwiseSession(table), None, 0).decode(DecodeRequest(prompt, 40))
    paired, statistics = Decoder(PairwiseSession(table), ModelDrafter(draft), lookahead).decode(
        DecodeRequest(prompt, 40)
    )
    assert paired == alone
    # Each token that the draft cannot propose is the target's own, and ends a round.
    assert statistics.rounds >= sum(token not in kept for token in alone)
    assert statistics.tokens == 40


def test_a_perfect_draft_needs_the_fewest_rounds() -> None:
    _, statistics = decode(1, 0.0, 4, DecodeRequest([1], 50))
    assert statistics.rounds == 10
    assert statistics.emitted == [0, 0, 0, 0, 10]


@pytest.mark.parametrize("kept", [None, [0, 2, 3, 6]])
def test_sampled_output_has_the_targets_distribution(kept: list[int] | None) -> None:
    """The first three tokens of many runs, against the exact probabilities (chi-square)."""
    sampling = SamplingSettings(0.9, top_k=5)
    table = random_table(4)
    whole = PairwiseSession(near_table(table, 5, 1.0))
    runs, counts = 6000, np.zeros((VOCAB,) * 3)
    draft = whole if kept is None else TrimmedSession(whole, np.array(kept))
    decoder = Decoder(PairwiseSession(table), ModelDrafter(draft), 2)
    for seed in range(runs):
        tokens, _ = decoder.decode(DecodeRequest([3, 1], 3, sampling, seed))
        counts[tuple(tokens)] += 1
    expected = np.zeros_like(counts)
    for a in range(VOCAB):
        for b in range(VOCAB):
            chain = [(3, 1), (1, a), (a, b)]
            p = [distribution(table[pair], sampling) for pair in chain]
            expected[a, b] = runs * p[0][a] * p[1][b] * p[2]
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    statistic = ((counts - expected)[common] ** 2 / expected[common]).sum()
    degrees = common.sum() - 1
    assert statistic < degrees + 4 * np.sqrt(2 * degrees)


def test_a_seed_repeats_itself_and_another_differs() -> None:
    sampling = SamplingSettings(1.0)
    first, _ = decode(1, 1.0, 3, DecodeRequest([1], 30, sampling, seed=1))
    again, _ = decode(1, 1.0, 3, DecodeRequest([1], 30, sampling, seed=1))
    other, _ = decode(1, 1.0, 3, DecodeRequest([1], 30, sampling, seed=2))
    assert first == again != other


def test_eos_ends_the_output_and_is_its_last_token() -> None:
    whole, _ = decode(2, 0.5, 0, DecodeRequest([1], 60))
    eos = whole[25]
    expected = whole[: whole.index(eos) + 1]
    for lookahead in (0, 1, 4):
        tokens, statistics = decode(2, 0.5, lookahead, DecodeRequest([1], 60, eos_ids=frozenset([eos])))
        assert tokens == expected
        assert statistics.tokens == len(expected)


@pytest.mark.parametrize("lookahead", [0, 1, 5])
def test_the_context_is_filled_to_its_last_position(lookahead: int) -> None:
    tokens, _ = decode(3, 0.5, lookahead, DecodeRequest([1, 2, 3], 100), capacity=20)
    assert len(tokens) == 17


def test_a_round_is_yielded_as_soon_as_it_is_verified() -> None:
    table = random_table(1)
    target = PairwiseSession(table)
    statistics = Statistics()
    rounds = Decoder(target, ModelDrafter(PairwiseSession(table)), 3).rounds(DecodeRequest([1], 40), statistics)
    done = next(rounds)
    assert (len(done.tokens), done.drafted, done.accepted) == (4, 3, 3)
    assert target.calls == 1
    assert (statistics.tokens, statistics.drafted) == (4, 3)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (DecodeRequest([], 5), "empty"),
        (DecodeRequest([1], 0), "max_new_tokens"),
        (DecodeRequest([1] * 20, 5), "20 tokens and the context 20"),
    ],
)
def test_bad_requests_are_refused(request_: DecodeRequest, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        decode(0, 0.0, 0, request_, capacity=20)


@pytest.mark.parametrize("sampling", [SamplingSettings(), SamplingSettings(0.7, top_k=3)])
@pytest.mark.parametrize("lookahead", [0, 3])
def test_logprobs_are_the_targets_own_of_every_emitted_token(lookahead: int, sampling: SamplingSettings) -> None:
    table, prompt = random_table(6), [1, 4]
    request = DecodeRequest(prompt, 30, sampling, logprobs=2)
    drafter = ModelDrafter(PairwiseSession(near_table(table, 9, 0.5)))
    decoder = Decoder(PairwiseSession(table), drafter, lookahead)
    rounds = list(decoder.rounds(request, Statistics()))
    tokens = [token for done in rounds for token in done.tokens]
    assert tokens == decoder.decode(replace(request, logprobs=None))[0]
    text = [*prompt, *tokens]
    noted = [each for done in rounds for each in done.logprobs]
    assert len(noted) == len(tokens)
    for place, (token, each) in enumerate(zip(tokens, noted, strict=True), start=len(prompt)):
        logits = table[text[place - 2], text[place - 1]].astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum())
        assert each.logprob == pytest.approx(expected[token])
        assert [likely for likely, _ in each.likeliest] == np.argsort(-expected)[:2].tolist()
        assert [logprob for _, logprob in each.likeliest] == pytest.approx(sorted(expected)[:-3:-1])


def test_a_request_may_ask_for_fewer_drafted_tokens() -> None:
    table = random_table(1)
    decoder = Decoder(PairwiseSession(table), ModelDrafter(PairwiseSession(table)), 4)
    for asked, drafted in ((None, 4), (9, 4), (2, 2), (0, 0)):
        done = next(decoder.rounds(DecodeRequest([1], 40, lookahead=asked), Statistics()))
        assert done.drafted == done.accepted == drafted


def test_siblings_decode_in_turns_what_each_would_alone() -> None:
    table = random_table(3)
    first = Decoder(PairwiseSession(table), ModelDrafter(PairwiseSession(near_table(table, 5, 0.5))), 3)
    requests = [DecodeRequest([n, 2], 25) for n in range(3)]
    expected = [first.decode(request)[0] for request in requests]
    courses = [first.sibling().rounds(request, Statistics()) for request in requests]
    tokens: list[list[int]] = [[] for _ in requests]
    for _ in range(5):
        for course, text in zip(courses, tokens, strict=True):
            text += next(course).tokens
    for text, whole in zip(tokens, expected, strict=True):
        assert text == whole[: len(text)]


def test_a_lookahead_needs_a_drafter() -> None:
    with pytest.raises(ValueError, match="drafter"):
        Decoder(PairwiseSession(random_table(0)), None, 2)
