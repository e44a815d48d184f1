"""Drafting by confidence alters no output, greedy or sampled, and follows the sequence whatever it proposes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.runtime.adaptive import AdaptiveDrafter
from autotune.runtime.decode import Decoder, DecodeRequest, Statistics
from autotune.runtime.drafter import NOTHING, ModelDrafter, Proposal
from autotune.runtime.session import SampledBurst
from autotune.sampling import SamplingSettings, distribution
from tests.support.sessions import VOCAB, PairwiseSession, TrimmedSession, near_table, random_table
from tests.support.stopping import plan_of, rule_of

SAMPLING = SamplingSettings(0.9, top_k=5)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 30),
    st.sampled_from([0.0, 0.5, 2.0, 10.0]),
    st.integers(1, 6),
    st.floats(0.05, 20.0),
    st.floats(0.1, 5.0),
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5),
    st.integers(1, 40),
)
def test_greedy_output_is_the_targets_own(
    seed: int, noise: float, most: int, tokens_per_s: float, power: float, prompt: list[int], length: int
) -> None:
    table = random_table(seed)
    plan = plan_of(most, lookahead=1, tokens_per_s=tokens_per_s, power=power)
    drafter = AdaptiveDrafter(PairwiseSession(near_table(table, 99, noise)), plan)
    alone, _ = Decoder(PairwiseSession(table), None, 0).decode(DecodeRequest(prompt, length))
    paired, statistics = Decoder(PairwiseSession(table), drafter, most).decode(DecodeRequest(prompt, length))
    assert paired == alone
    assert statistics.drafted <= statistics.rounds * most


def test_it_drafts_long_where_it_is_sure_and_short_where_it_is_not() -> None:
    table = random_table(1, sharpness=8.0)
    lengths = {}
    for power in (0.0, 4.0):
        drafter = AdaptiveDrafter(PairwiseSession(table), plan_of(6, onward=0.9, power=power))
        _, statistics = Decoder(PairwiseSession(table), drafter, 6).decode(DecodeRequest([1], 60))
        lengths[power] = statistics.drafted / statistics.rounds
    assert lengths[0.0] > 5.5  # every token is taken for certain
    assert 1.0 < lengths[4.0] < 5.0


def chi_square(make_drafter: Callable[[PairwiseSession], ModelDrafter], runs: int = 6000) -> tuple[float, float]:
    """Of the first three tokens of many runs against their exact probabilities: the statistic and a bound for it."""
    table, draft, counts = random_table(4), near_table(random_table(4), 5, 1.0), np.zeros((VOCAB,) * 3)
    decoder = Decoder(PairwiseSession(table), make_drafter(PairwiseSession(draft)), 3)
    for seed in range(runs):
        counts[tuple(decoder.decode(DecodeRequest([3, 1], 3, SAMPLING, seed))[0])] += 1
    expected = np.zeros_like(counts)
    for a in range(VOCAB):
        for b in range(VOCAB):
            p = [distribution(table[pair], SAMPLING) for pair in [(3, 1), (1, a), (a, b)]]
            expected[a, b] = runs * p[0][a] * p[1][b] * p[2]
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    statistic = ((counts - expected)[common] ** 2 / expected[common]).sum()
    degrees = common.sum() - 1
    return float(statistic), float(degrees + 4 * np.sqrt(2 * degrees))


@pytest.mark.parametrize("tokens_per_s", [0.6, 1.5, 4.0])
def test_sampled_output_has_the_targets_distribution(tokens_per_s: float) -> None:
    plan, drafters = plan_of(3, SAMPLING, tokens_per_s=tokens_per_s), []

    def make(session: PairwiseSession) -> ModelDrafter:
        drafters.append(AdaptiveDrafter(session, plan))
        return drafters[-1]

    statistic, bound = chi_square(make)
    assert statistic < bound


@pytest.mark.parametrize("kept", [[0, 2, 3, 6]])
def test_sampled_output_of_a_trimmed_draft_too(kept: list[int]) -> None:
    plan = plan_of(3, SAMPLING, tokens_per_s=1.5)
    statistic, bound = chi_square(lambda session: AdaptiveDrafter(TrimmedSession(session, np.array(kept)), plan))
    assert statistic < bound


class DropsWhatItDrew(ModelDrafter):
    """Proposes a token only if the token itself is likely: the fault that the confidence must not have."""

    def propose(
        self, sequence: list[int], count: int, settings: SamplingSettings, rng: np.random.Generator
    ) -> Proposal:
        proposal = super().propose(sequence, 1, settings, rng)
        assert proposal.drawn is not None
        if proposal.drawn.probabilities[0] < 0.4:
            self._length = len(sequence)
            return NOTHING
        return proposal


def test_to_drop_a_token_for_what_it_is_would_be_noticed() -> None:
    statistic, bound = chi_square(DropsWhatItDrew)
    assert statistic > 2 * bound


@pytest.mark.parametrize("sampling", [SamplingSettings(), SAMPLING])
def test_what_it_never_proposes_is_followed_all_the_same(sampling: SamplingSettings) -> None:
    table = random_table(2)
    drafter = AdaptiveDrafter(PairwiseSession(near_table(table, 3, 0.5)), plan_of(4, sampling, tokens_per_s=1e6))
    decoder = Decoder(PairwiseSession(table), drafter, 4)
    tokens, statistics = decoder.decode(DecodeRequest([1, 2], 30, sampling, seed=5))
    assert statistics.drafted == 0
    assert statistics.rounds == 30
    text = [1, 2, *tokens]
    fresh = ModelDrafter(PairwiseSession(near_table(table, 3, 0.5)))
    fresh.start(text)
    rng = np.random.default_rng(0)
    expected = fresh.propose(text, 3, SamplingSettings(), rng)
    assert drafter.session.burst(text[drafter._length :], drafter._length, 3) == expected.tokens


@pytest.mark.parametrize("sampling", [SamplingSettings(0.5), SamplingSettings(0.9, top_p=0.5)])
def test_with_other_settings_its_lookahead_is_fixed(sampling: SamplingSettings) -> None:
    table = random_table(2)
    plan = plan_of(5, tokens_per_s=1e6, lookahead=3)
    request = DecodeRequest([1], 30, sampling, seed=2)
    adaptive = Decoder(PairwiseSession(table), AdaptiveDrafter(PairwiseSession(table), plan), plan.most)
    fixed = Decoder(PairwiseSession(table), ModelDrafter(PairwiseSession(table)), 3)
    assert list(adaptive.rounds(request, Statistics())) == list(fixed.rounds(request, Statistics()))


def test_a_request_may_ask_for_fewer_drafted_tokens() -> None:
    table = random_table(1)
    drafter = AdaptiveDrafter(PairwiseSession(table), plan_of(6, power=0.0))
    decoder = Decoder(PairwiseSession(table), drafter, 6)
    for asked, drafted in ((None, 6), (2, 2), (0, 0)):
        assert next(decoder.rounds(DecodeRequest([1], 40, lookahead=asked), Statistics())).drafted == drafted


def test_the_beginning_of_a_draw_is_proposed_with_its_own_distributions() -> None:
    table = random_table(3)
    drafter = AdaptiveDrafter(PairwiseSession(table), plan_of(4, SAMPLING))
    drafter._rule = rule_of(4, goes_on_from=0.1, worth_from=0.2)
    drafter.start([1, 2])
    shortened = 0
    for seed in range(60):
        proposal = drafter.propose([1, 2], 4, SAMPLING, np.random.default_rng(seed))
        if not proposal.tokens:
            drafter.start([1, 2])
            continue
        drawn = proposal.drawn
        assert isinstance(drawn, SampledBurst)
        assert len(drawn.tokens) == len(drawn.probabilities) == len(proposal.tokens)
        text = [1, 2, *proposal.tokens]
        for place, token in enumerate(proposal.tokens):
            q = distribution(table[text[place], text[place + 1]], SAMPLING)
            assert drawn.distribution(place) == pytest.approx(q)
            assert drawn.probabilities[place] == pytest.approx(q[token])
        shortened += len(proposal.tokens) < drafter._proposed
    assert shortened


def test_siblings_share_the_plan() -> None:
    plan = replace(plan_of(4), lookahead=3)
    first = AdaptiveDrafter(PairwiseSession(random_table(3)), plan)
    second = first.sibling()
    assert second.plan is plan
    assert second.session is not first.session
