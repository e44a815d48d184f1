from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.candidate import Build, DraftShape, Precision
from autotune.cost_model import FEWEST_BUILDS
from autotune.objective import MEAN, WORST
from autotune.pareto import hypervolume, pareto_front
from autotune.results import Evidence, Measured, Rejected, RejectReason, Screened, TrialRecord
from autotune.screening import LEAST_GAIN, REFERENCE, Screener
from autotune.search_space.constraints import Constraints
from tests.support.figures import acceptance_by_category, constant_acceptance, measured, screened, target_latency

LOOKAHEADS = [1, 2, 3, 4]
FREE = Constraints(context_tokens=64)


def build(layers: int, ffn: int = 48) -> Build:
    return Build(DraftShape(layers, 4, 4, 8, 32, ffn, 100), "onnxruntime", Precision.FP32)


def record(number: int, layers: int, kept: float, ffn: int = 48) -> TrialRecord:
    """A draft that costs a millisecond a layer and token."""
    each = build(layers, ffn)
    return TrialRecord(number, each, each.shape.parameters, 1.0, measured(kept, 0.001 * layers), {})


RECORDS = [record(n, 1 + n % 4, 0.5 + 0.05 * (n % 4)) for n in range(8)]


def screener(records: list[TrialRecord] = RECORDS, constraints: Constraints = FREE) -> Screener:
    made = Screener(target_latency(), constraints)
    made.learn(records)
    return made


def test_nothing_is_screened_before_the_model_knows_enough() -> None:
    poor = constant_acceptance(0.01)
    for count in range(FEWEST_BUILDS):
        assert screener(RECORDS[:count])(build(4), poor, LOOKAHEADS) is None
    assert isinstance(screener(RECORDS[:FEWEST_BUILDS])(build(4), poor, LOOKAHEADS), Screened)


def test_the_objective_decides_what_is_screened() -> None:
    """A build that is rich on average and poor in one category: worth compiling for the one, not for the other."""
    uneven = acceptance_by_category(code=3.0, chat=0.5)
    for objective, rules_out in ((MEAN, False), (WORST, True)):
        judge = Screener(target_latency(), FREE, objective)
        judge.learn(RECORDS)
        verdict = judge(build(4), uneven, LOOKAHEADS)
        assert (verdict is not None) is rules_out
    assert verdict is not None
    assert [each.tokens_per_round.value for each in verdict.forecasts] == pytest.approx([1.5, 2.0, 2.5, 3.0])


def test_a_poor_build_is_screened_with_what_it_was_compared_with() -> None:
    outcome = screener()(build(4), constant_acceptance(0.3), LOOKAHEADS)
    assert isinstance(outcome, Screened)
    assert [forecast.lookahead for forecast in outcome.forecasts] == LOOKAHEADS
    assert outcome.builds == len(RECORDS)
    assert 0 <= outcome.gain < LEAST_GAIN
    for forecast in outcome.forecasts:
        k = forecast.lookahead
        assert forecast.burst_s.value == pytest.approx(0.004 * k, rel=0.02)
        assert forecast.burst_s.low == pytest.approx(forecast.burst_s.value * (1 - outcome.margin))
        assert forecast.round_s.value == pytest.approx(target_latency().round_s(forecast.burst_s.value, k))
        assert forecast.tokens_per_round.value == pytest.approx(1 + 0.3 * k)
        assert forecast.round_s.evidence is forecast.burst_s.evidence is Evidence.ESTIMATED
        rival = forecast.rival
        assert rival is not None
        assert rival.round_s <= forecast.shortest_round_s
        (score,) = [each for each in RECORDS[rival.trial].scores if each.lookahead == rival.lookahead]
        assert (score.round_s.value, score.tokens_per_round.value) == (rival.round_s, rival.tokens_per_round)


def test_rounds_of_an_extrapolated_target_are_extrapolated() -> None:
    target = target_latency()
    made = Screener(replace(target, verify=replace(target.verify, evidence=Evidence.EXTRAPOLATED)), FREE)
    made.learn(RECORDS)
    outcome = made(build(4), constant_acceptance(0.3), LOOKAHEADS)
    assert isinstance(outcome, Screened)
    assert {each.round_s.evidence for each in outcome.forecasts} == {Evidence.EXTRAPOLATED}
    assert {each.burst_s.evidence for each in outcome.forecasts} == {Evidence.ESTIMATED}


@pytest.mark.parametrize("kept", [0.7, 0.9])
def test_a_build_richer_than_the_front_is_compiled(kept: float) -> None:
    assert screener()(build(4), constant_acceptance(kept), LOOKAHEADS) is None


def test_a_build_shorter_than_the_front_is_compiled() -> None:
    deep = [record(n, 2 + n % 3, 0.5, 48 + 16 * n) for n in range(8)]
    assert screener(deep)(build(1), constant_acceptance(0.5), LOOKAHEADS) is None


@given(st.integers(1, 5), st.floats(0.0, 0.9))
def test_what_is_screened_could_not_have_added_much_to_the_front(layers: int, kept: float) -> None:
    about = build(layers), constant_acceptance(kept), LOOKAHEADS
    outcome = screener()(*about)
    if outcome is None:
        return
    scores = pareto_front([score for each in RECORDS for score in each.scores], lambda score: score)
    front = [(score.round_s.value, score.tokens_per_round.value) for score in scores]
    forecasts = [(each.shortest_round_s, each.tokens_per_round.value) for each in outcome.forecasts]
    longest_s = REFERENCE * max(round_s for round_s, _ in front + forecasts)
    assert hypervolume(front + forecasts, longest_s) <= (1 + LEAST_GAIN) * hypervolume(front, longest_s)


def test_one_lookahead_that_may_gain_is_enough() -> None:
    poor = constant_acceptance(0.3)
    rich_at_4 = tuple((*row[:4], row[4] / 2) for row in poor.rounds)
    assert screener()(build(4), replace(poor, rounds=rich_at_4), LOOKAHEADS) is None
    assert screener()(build(4), replace(poor, rounds=rich_at_4), LOOKAHEADS[:3]) is not None


def test_what_could_be_the_fastest_is_compiled_though_the_front_is_near() -> None:
    fastest = record(0, 1, 0.5)
    records = [fastest, *(record(n, 1 + n % 4, 0.1) for n in range(1, 8))]
    better = 0.53
    assert screener(records)(build(1), constant_acceptance(better), LOOKAHEADS) is None
    assert isinstance(screener(records)(build(1), constant_acceptance(0.3), LOOKAHEADS), Screened)


def test_lookaheads_over_the_limit_need_no_rival() -> None:
    limited = Constraints(context_tokens=64, max_round_s=0.013)
    outcome = screener(constraints=limited)(build(4), constant_acceptance(0.9), LOOKAHEADS)
    assert isinstance(outcome, Screened)
    assert all(forecast.rival is None for forecast in outcome.forecasts)


def test_only_measured_records_teach() -> None:
    others = [replace(RECORDS[0], outcome=outcome) for outcome in (Rejected(RejectReason.CRASHED, "died"), screened())]
    taught = screener([*others * 8, *RECORDS[: FEWEST_BUILDS - 1]])
    assert taught.predict(build(2), 4) is None
    taught.learn([RECORDS[-1]])
    assert taught.predict(build(2), 4) is not None


def test_learning_one_by_one_is_learning_at_once() -> None:
    one_by_one = screener([])
    for each in RECORDS:
        assert isinstance(each.outcome, Measured)
        one_by_one.learn([each])
        one_by_one.predict(each.build, 4)
    for layers in range(1, 6):
        for kept in (0.1, 0.5, 0.6):
            about = build(layers), constant_acceptance(kept), LOOKAHEADS
            assert one_by_one(*about) == screener()(*about)
