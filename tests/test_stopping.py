from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autotune.stopping import CONFIDENCE_BINS, Pace, bins_of, calibrate, stop_rule
from tests.support.stopping import BIN_MIDDLES, plan_of

UNIT = st.floats(0.0, 1.0)


@given(st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=60), arrays(np.float64, CONFIDENCE_BINS, elements=UNIT))
def test_a_calibration_never_falls_and_no_other_that_does_not_is_closer(
    pairs: list[tuple[float, float]], other: np.ndarray
) -> None:
    confidence, acceptance = np.array(pairs).T
    table, rival = calibrate(confidence, acceptance), np.sort(other)
    assert (np.diff(table) >= 0).all()
    assert ((table > 0) & (table <= 1)).all()

    def error(each: np.ndarray) -> float:
        return float(((each[bins_of(confidence)] - acceptance) ** 2).sum())

    assert error(table) <= error(rival) + len(pairs) * 1e-3  # no acceptance is taken for less than 1e-4


def test_a_calibration_keeps_the_overall_rate_and_pools_what_falls() -> None:
    confidence = np.array([0.1, 0.1, 0.5, 0.5, 0.9, 0.9])
    acceptance = np.array([0.0, 0.2, 1.0, 0.8, 0.6, 0.8])
    table = calibrate(confidence, acceptance)
    assert table[bins_of(confidence)] == pytest.approx([0.1, 0.1, 0.8, 0.8, 0.8, 0.8])
    assert table[0] == pytest.approx(0.1)  # below the lowest confidence seen
    assert table[20] == pytest.approx(0.1)  # no token there: as below it
    assert table[-1] == pytest.approx(0.8)


def test_a_calibration_needs_a_token() -> None:
    with pytest.raises(ValueError, match="no token"):
        calibrate(np.empty(0), np.empty(0))


def test_confidences_of_0_and_1_have_a_bin() -> None:
    assert bins_of(np.array([0.0, 1.0])).tolist() == [0, CONFIDENCE_BINS - 1]


@given(
    st.integers(1, 6),
    st.floats(0.1, 0.95),
    st.floats(0.0, 1.0),
    st.floats(0.001, 0.5),
    st.floats(0.2, 3.0),
    st.lists(UNIT, min_size=6, max_size=6),
)
def test_drafting_goes_on_just_while_some_number_of_further_tokens_is_expected_to_pay(
    most: int, onward: float, draft_s: float, verify_s: float, tokens_per_s: float, confidences: list[float]
) -> None:
    plan = plan_of(
        most, onward=onward, draft_s=draft_s, verify_s=verify_s, tokens_per_s=tokens_per_s, lookahead=1, power=0.5
    )
    rule, survival = stop_rule(plan), 1.0
    pace = Pace(rule)
    for drafted, confidence in enumerate(confidences[:most], 1):
        survival *= plan.acceptance[int(bins_of(np.array([confidence]))[0])]
        gains = [
            survival * sum(onward**j for j in range(1, further + 1)) - tokens_per_s * further * (draft_s + verify_s)
            for further in range(1, most - drafted + 1)
        ]
        goes_on = pace.goes_on(confidence)
        assert pace.survival == pytest.approx(np.log(survival), abs=1e-4)
        if gains and abs(max(gains)) > 1e-4:
            assert goes_on == (max(gains) > 0)
        worth = survival - tokens_per_s * verify_s
        if abs(worth) > 1e-4:
            assert rule.proposed(drafted, pace.survival) == (drafted if worth > 0 else drafted - 1)
        if not goes_on:
            break
    else:
        assert not goes_on  # no more than `most`


def test_a_dearer_second_stops_earlier() -> None:
    limits = [stop_rule(plan_of(tokens_per_s=price)).limits[:-1] for price in (0.5, 1.0, 2.0)]
    assert (np.diff(limits, axis=0) > 0).all()


def test_a_verification_that_gets_cheaper_is_always_worth_it() -> None:
    plan = plan_of(3)
    rule = stop_rule(replace(plan, verify_s=(1.0, 1.1, 1.0, 1.2)))
    assert rule.proposed(2, np.log(BIN_MIDDLES[0]) * 2) == 2


@pytest.mark.parametrize("change", [{"acceptance": (0.5,)}, {"draft_s": ()}, {"verify_s": (1.0,)}, {"lookahead": 7}])
def test_impossible_plans_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="adaptive plan"):
        replace(plan_of(6), **change)
