"""The estimate against the mathematics of fixed lookaheads, a plain recursion, and real decoding with fakes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.acceptance import expected_rounds
from autotune.adaptive_estimate import Observed, RoundLatencies, adaptive_course, estimate, fixed_course, make_plan
from autotune.adaptive_job import Text, observe
from autotune.runtime.adaptive import AdaptiveDrafter
from autotune.runtime.decode import Decoder, DecodeRequest
from autotune.sampling import SamplingSettings
from autotune.stopping import Pace, StopRule, stop_rule
from tests.support.sessions import PairwiseSession, near_table, random_table
from tests.support.stopping import fixed_rule, plan_of

GREEDY = SamplingSettings()
UNIT = st.floats(0.0, 1.0)
TRACES = st.lists(st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=20), min_size=1, max_size=4)


def observed_of(traces: list[list[tuple[float, float]]]) -> list[Observed]:
    return [Observed(*np.array(trace).T) for trace in traces]


def latencies_of(most: int, *, dearer: float = 0.0) -> RoundLatencies:
    burst = np.arange(1, most + 1) * 0.15
    return RoundLatencies(
        tuple(burst.tolist()), tuple((burst + dearer).tolist()), tuple((1.0 + 0.1 * np.arange(most + 1)).tolist()), 0.01
    )


@given(TRACES, st.integers(1, 6), UNIT)
def test_with_a_constant_confidence_it_is_a_fixed_lookahead(
    traces: list[list[tuple[float, float]]], lookahead: int, confidence: float
) -> None:
    most, latencies = 6, latencies_of(6, dearer=0.02)
    observed = [Observed(each.acceptance, np.full(len(each.acceptance), confidence)) for each in observed_of(traces)]
    course = adaptive_course(observed, latencies, fixed_rule(most, lookahead))
    lengths, rounds = expected_rounds([each.acceptance for each in observed], lookahead)
    assert course.tokens.tolist() == lengths.tolist()
    assert course.rounds == pytest.approx(rounds[:, lookahead])
    assert course.drafted == pytest.approx(rounds[:, lookahead] * lookahead)
    fixed = fixed_course(observed, latencies, lookahead)
    assert course.seconds == pytest.approx(fixed.seconds + 0.02 * fixed.rounds)


@given(st.lists(st.lists(UNIT, min_size=2, max_size=20), min_size=2, max_size=4), UNIT)
def test_a_confidence_that_tells_nothing_gains_nothing(traces: list[list[float]], confidence: float) -> None:
    observed = [Observed(np.array(each), np.full(len(each), confidence)) for each in traces]
    assert estimate(observed, latencies_of(5), GREEDY, resamples=2).gain.value <= 1 + 1e-9


def course_by_recursion(observed: Observed, latencies: RoundLatencies, rule: StopRule) -> tuple[float, float, float]:
    """Rounds, seconds and drafted tokens behind a round's start at each place, from the last place to the first."""
    places = len(observed.acceptance)
    values = np.zeros((places + rule.most + 2, 3))
    for start in range(places - 1, -1, -1):
        pace, drafted, going = Pace(rule), 0, True
        while going:
            going = pace.goes_on(float(observed.confidence[min(start + drafted, places - 1)]))
            drafted += 1
        proposed = rule.proposed(drafted, pace.survival)
        spent_s = latencies.stopping_s[drafted - 1] + latencies.verify_s[proposed] + latencies.overhead_s
        values[start], reach = (1.0, spent_s, drafted), 1.0
        for kept in range(proposed):
            inside = start + kept < places
            accepted = observed.acceptance[start + kept] if inside else 1.0
            values[start] += reach * (1 - accepted) * values[start + kept + 1]
            reach *= accepted
        values[start] += reach * values[start + proposed + 1]
    return tuple(values[0].tolist())


@given(TRACES, st.floats(0.3, 3.0), st.floats(0.1, 3.0))
def test_it_is_what_a_plain_recursion_gives(
    traces: list[list[tuple[float, float]]], tokens_per_s: float, power: float
) -> None:
    rule, latencies = stop_rule(plan_of(5, tokens_per_s=tokens_per_s, power=power)), latencies_of(5)
    observed = observed_of(traces)
    course = adaptive_course(observed, latencies, rule)
    expected = np.array([course_by_recursion(each, latencies, rule) for each in observed])
    assert np.stack([course.rounds, course.seconds, course.drafted], 1) == pytest.approx(expected, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.sampled_from([0.2, 0.7, 2.0]), st.floats(0.3, 3.0), st.floats(0.5, 5.0))
def test_greedy_rounds_are_those_of_real_decoding(seed: int, noise: float, tokens_per_s: float, power: float) -> None:
    """Exactly: how a round goes on behind its first rejected token does not change which tokens it keeps."""
    table, prompt = random_table(seed), [1, 2]
    draft_table = near_table(table, 99, noise)
    plan = plan_of(5, tokens_per_s=tokens_per_s, power=power)
    drafter = AdaptiveDrafter(PairwiseSession(draft_table), plan)
    tokens, statistics = Decoder(PairwiseSession(table), drafter, plan.most).decode(DecodeRequest(prompt, 50))
    text = Text(tuple(prompt), tuple(tokens), (0.0,) * len(tokens))
    observed = observe(PairwiseSession(draft_table), text, GREEDY)
    course = adaptive_course([observed], latencies_of(5), stop_rule(plan))
    assert course.rounds.tolist() == [statistics.rounds]


def mixed(seed: int, traces: int = 40, places: int = 120) -> list[Observed]:
    """Greedy traces whose confidence is the probability of acceptance."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(0.6, 0.4, (traces, places))
    return [Observed((rng.random(places) < row).astype(np.float64), row) for row in confidence]


def test_a_confidence_that_tells_much_gains_and_its_cost_counts() -> None:
    cheap, dear = (estimate(mixed(1), latencies_of(6, dearer=dearer), GREEDY) for dearer in (0.0, 0.5))
    assert cheap.gain.low is not None
    assert cheap.gain.low > 1.05
    assert cheap.gain.low < cheap.gain.value < (cheap.gain.high or 0.0)
    assert cheap.gain.value == pytest.approx(cheap.tokens_per_s.value / cheap.fixed_tokens_per_s.value)
    assert dear.gain.value < 1.0 < cheap.gain.value
    assert dear.lookahead == cheap.lookahead


def test_every_trace_is_judged_by_the_others_plan() -> None:
    observed, latencies = mixed(2, traces=5), latencies_of(6)
    plans = [make_plan(observed[1::2], latencies, GREEDY), make_plan(observed[::2], latencies, GREEDY)]
    seconds = sum(
        adaptive_course([each], latencies, stop_rule(plans[n % 2])).seconds.sum() for n, each in enumerate(observed)
    )
    assert estimate(observed, latencies, GREEDY).tokens_per_s.value == pytest.approx(5 * 120 / seconds)


def test_a_plan_keeps_the_fixed_lookahead_it_is_told() -> None:
    observed, latencies = mixed(3, traces=4), latencies_of(6)
    assert make_plan(observed, latencies, GREEDY, lookahead=5).lookahead == 5
    speeds = [
        course.tokens.sum() / course.seconds.sum()
        for course in (fixed_course(observed, latencies, k) for k in range(1, 7))
    ]
    assert make_plan(observed, latencies, GREEDY).lookahead == int(np.argmax(speeds)) + 1
