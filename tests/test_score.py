from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.results import Evidence, Figure, LatencyTable, TargetLatency
from autotune.score import least_s_per_token, needed_to_match, quotient, score_lookahead, score_target_alone
from tests.support.figures import constant_acceptance, latency, target_latency


def test_a_score_is_tokens_over_seconds() -> None:
    acceptance, burst, target = constant_acceptance(0.5), latency(0.002, 0.004, 0.006, 0.008), target_latency()
    score = score_lookahead(acceptance, burst, target, 3)
    assert score.lookahead == 3
    assert score.tokens_per_round.value == pytest.approx(2.5)
    assert score.round_s.value == pytest.approx(0.006 + 0.013 + 0.0005)
    assert score.tokens_per_s.value == pytest.approx(2.5 / 0.0195)
    assert score.speedup.value == pytest.approx(2.5 / 0.0195 * 0.0102)


def test_intervals_scale_with_the_tokens() -> None:
    acceptance = replace(constant_acceptance(0.5), rounds=((100.0, 50.0), (300.0, 250.0)))
    score = score_lookahead(acceptance, latency(0.002), target_latency(), 1)
    tokens = score.tokens_per_round
    assert 300 / 250 <= tokens.low < tokens.value == pytest.approx(400 / 300)
    assert tokens.value < tokens.high <= 100 / 50
    for figure in (score.tokens_per_s, score.speedup):
        factor = figure.value / tokens.value
        assert (figure.low, figure.high) == pytest.approx((tokens.low * factor, tokens.high * factor))


@pytest.mark.parametrize(
    ("of_acceptance", "of_burst", "of_target", "of_speed"),
    [
        (Evidence.ESTIMATED, Evidence.MEASURED, Evidence.MEASURED, Evidence.ESTIMATED),
        (Evidence.MEASURED, Evidence.MEASURED, Evidence.MEASURED, Evidence.ESTIMATED),
        (Evidence.MEASURED, Evidence.EXTRAPOLATED, Evidence.MEASURED, Evidence.EXTRAPOLATED),
        (Evidence.ESTIMATED, Evidence.STAND_IN, Evidence.STAND_IN, Evidence.STAND_IN),
        (Evidence.MEASURED, Evidence.MEASURED, Evidence.STAND_IN, Evidence.STAND_IN),
    ],
)
def test_a_speed_is_never_better_founded_than_what_it_is_made_of(
    of_acceptance: Evidence, of_burst: Evidence, of_target: Evidence, of_speed: Evidence
) -> None:
    target = target_latency()
    score = score_lookahead(
        replace(constant_acceptance(0.5), evidence=of_acceptance),
        replace(latency(0.001, 0.002), evidence=of_burst),
        replace(target, verify=replace(target.verify, evidence=of_target)),
        2,
    )
    assert score.tokens_per_round.evidence == of_acceptance
    assert score.tokens_per_s.evidence == score.speedup.evidence == of_speed


def test_a_round_is_as_well_founded_as_its_worse_half() -> None:
    target = target_latency()
    guessed = replace(target, verify=replace(target.verify, evidence=Evidence.STAND_IN))
    score = score_lookahead(constant_acceptance(0.5), latency(0.001), guessed, 1)
    assert score.round_s.evidence == Evidence.STAND_IN


def test_the_target_alone_is_the_unit() -> None:
    alone = score_target_alone(target_latency())
    assert alone.lookahead == 0
    assert alone.tokens_per_round.value == alone.speedup.value == 1.0
    assert alone.round_s.value == pytest.approx(0.0102)
    assert alone.tokens_per_s.value == pytest.approx(1 / 0.0102)


def test_a_pair_breaks_even_where_tokens_and_seconds_grow_alike() -> None:
    """B beats A exactly if TAR_B / TAR_A exceeds the ratio of their rounds."""
    target = target_latency()
    a, b = (
        score_lookahead(constant_acceptance(kept), latency(step, 2 * step), target, 2)
        for kept, step in [(0.4, 0.001), (0.5, 0.002)]
    )
    richer = b.tokens_per_round.value / a.tokens_per_round.value
    longer = b.round_s.value / a.round_s.value
    assert (b.tokens_per_s.value > a.tokens_per_s.value) == (richer > longer)


def test_medians_and_quartiles_of_a_table() -> None:
    samples = ((4.0, 1.0, 2.0, 3.0), (9.0, 5.0, 7.0))
    table = LatencyTable(samples, latency(1.0).settings, "cpu:test")
    assert table.largest == 2
    assert [table.seconds(n) for n in (0, 1, 2)] == [0.0, 2.5, 7.0]
    assert table.spread(1) == (2.0, 4.0)


figures = st.builds(
    lambda value, below, above: Figure(value, Evidence.ESTIMATED, value * (1 - below), value * (1 + above)),
    st.floats(0.01, 100.0),
    st.floats(0.0, 0.9),
    st.floats(0.0, 9.0),
)


@given(figures, figures)
def test_a_quotient_is_as_uncertain_as_its_parts_together(numerator: Figure, denominator: Figure) -> None:
    result = quotient(numerator, denominator)
    assert result.value == pytest.approx(numerator.value / denominator.value)
    assert result.low is not None
    assert result.high is not None
    assert numerator.low is not None
    assert denominator.low is not None
    assert numerator.high is not None
    assert denominator.high is not None
    slack = 1 + 1e-9
    # No narrower than by either part alone, no wider than if both were at their worst at once.
    assert result.low <= slack * min(numerator.low / denominator.value, numerator.value / denominator.high)
    assert result.high * slack >= max(numerator.high / denominator.value, numerator.value / denominator.low)
    assert result.low * slack >= numerator.low / denominator.high
    assert result.high <= slack * numerator.high / denominator.low


def test_a_quotient_of_exact_figures_is_exact() -> None:
    assert quotient(Figure(3.0, Evidence.MEASURED), Figure(2.0, Evidence.STAND_IN)) == Figure(1.5, Evidence.STAND_IN)


def test_it_breaks_even_where_its_speed_is_the_targets() -> None:
    burst, target = latency(0.002, 0.004, 0.006), target_latency()
    score = score_lookahead(constant_acceptance(0.5), burst, target, 3)
    assert score.break_even is not None
    assert score.break_even.value == pytest.approx((0.006 + 0.013 + 0.0005) / 0.0102)
    assert score.speedup.value == pytest.approx(score.tokens_per_round.value / score.break_even.value)
    kept = (score.break_even.value - 1) / 3
    even = score_lookahead(constant_acceptance(kept), burst, target, 3)
    assert even.speedup.value == pytest.approx(1.0)


def test_what_a_draft_needs_to_match_another() -> None:
    target = target_latency()
    fast = score_lookahead(constant_acceptance(0.5), latency(0.002, 0.004), target, 2)
    slow = score_lookahead(constant_acceptance(0.6), latency(0.004, 0.008), target, 2)
    needed = needed_to_match(slow, fast)
    assert needed.value / slow.round_s.value == pytest.approx(fast.tokens_per_s.value)
    assert needed.value / fast.tokens_per_round.value == pytest.approx(slow.round_s.value / fast.round_s.value)


def test_the_error_bar_of_an_extrapolated_target_reaches_the_speed_up() -> None:
    factors = tuple(0.9 + 0.2 * n / 99 for n in range(100))
    verify = latency(0.010, 0.011)
    spread = replace(
        verify,
        samples_s=tuple(tuple(seconds * factor for factor in factors) for seconds in (0.010, 0.011)),
        evidence=Evidence.EXTRAPOLATED,
    )
    target = replace(target_latency(), verify=spread)
    score = score_lookahead(constant_acceptance(0.5), latency(0.002), target, 1)
    assert score.round_s.low is not None
    assert score.round_s.high is not None
    assert score.round_s.low < 0.0125 < score.round_s.high
    assert score.break_even is not None
    assert score.break_even.low is not None
    assert score.break_even.high is not None
    # Replicates move step and verification together: the ratio is far surer than either.
    assert score.break_even.high / score.break_even.low < score.round_s.high / score.round_s.low
    assert score.speedup.low is not None
    assert score.speedup.low < score.speedup.value
    alone = score_target_alone(target).tokens_per_s
    assert alone.low is not None
    assert alone.low < alone.value


def target_of(*verify_s: float) -> TargetLatency:
    return TargetLatency(latency(*verify_s), 0.0, 0.0)


def test_the_least_seconds_a_token_may_be_those_of_the_target_alone() -> None:
    assert least_s_per_token(target_of(1.0, 2.0, 3.0), kept=0.7, cost=0.1) == pytest.approx(1.0)


def test_the_least_seconds_a_token_are_those_of_the_fastest_lookahead() -> None:
    """k = 1: (1.1 + 0.1) / 1.5 = 0.8; k = 2: (1.2 + 0.2) / 1.75 = 0.8; k = 3: (1.2 + 0.3) / 1.875 = 0.8."""
    assert least_s_per_token(target_of(1.0, 1.1, 1.2, 1.2), kept=0.5, cost=0.1) == pytest.approx(0.8)
    assert least_s_per_token(target_of(1.0, 1.1, 1.2, 1.2), kept=0.5, cost=0.0) == pytest.approx(1.2 / 1.875)


def test_a_fast_step_counts_as_well_as_a_flat_verification() -> None:
    """The second verifies three tokens faster, but a token alone takes it more than three times as long."""
    steep, flat = target_of(0.2, 0.5, 0.8), target_of(0.7, 0.7, 0.7)
    assert least_s_per_token(steep, 0.7, 0.1) < least_s_per_token(flat, 0.7, 0.1)
