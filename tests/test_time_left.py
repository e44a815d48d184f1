from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.time_left import FEWEST_BUILDS, TimeLeft, time_left, time_left_text


def test_nothing_is_known_before_a_few_builds() -> None:
    for finished in range(FEWEST_BUILDS):
        assert time_left([1.0] * finished, 10, 300.0) == TimeLeft(None, 300.0)


def test_builds_that_take_alike_leave_no_doubt() -> None:
    assert time_left([2.0] * 5, 10, 300.0) == TimeLeft(20.0, 20.0)


def test_builds_that_differ_leave_a_range() -> None:
    left = time_left([0.1, 5.0, 0.1, 5.0, 0.1, 5.0], 10, 300.0)
    assert left.low_s is not None
    assert left.low_s < 25.5 < left.high_s
    more = time_left([0.1, 5.0] * 30, 10, 300.0)
    assert more.low_s is not None
    assert more.high_s - more.low_s < left.high_s - left.low_s


def test_the_budget_ends_it_sooner() -> None:
    assert time_left([2.0] * 5, 10, 12.0) == TimeLeft(12.0, 12.0)
    assert time_left([2.0] * 5, 10, -3.0) == TimeLeft(0.0, 0.0)
    assert time_left([], 0, 300.0) == TimeLeft(0.0, 0.0)


@given(
    st.lists(st.floats(0.0, 1e4), max_size=20),
    st.integers(0, 1000),
    st.floats(0.0, 1e6),
)
def test_the_range_is_one(finished_s: list[float], todo: int, budget_s: float) -> None:
    left = time_left(finished_s, todo, budget_s)
    assert 0.0 <= (left.low_s or 0.0) <= left.high_s <= budget_s


@pytest.mark.parametrize(
    ("low_s", "high_s", "text"),
    [
        (None, 590.0, "at most 10 min left"),
        (None, 5400.0, "at most 1 h 30 min left"),
        (0.0, 0.0, "a few seconds left"),
        (2.0, 8.0, "a few seconds left"),
        (33.0, 36.0, "about 40 s left"),
        (3.0, 41.0, "up to 50 s left"),
        (21.0, 48.0, "20 … 50 s left"),
        (42.0, 130.0, "40 s … 3 min left"),
        (125.0, 170.0, "about 3 min left"),
        (125.0, 290.0, "2 … 5 min left"),
        (3000.0, 5000.0, "50 min … 1 h 30 min left"),
        (7200.0, 14400.0, "2 … 4 h left"),
    ],
)
def test_words(low_s: float | None, high_s: float, text: str) -> None:
    assert time_left_text(TimeLeft(low_s, high_s)) == text


def test_words_do_not_flicker() -> None:
    """A clock that runs down for ten minutes, second by second, changes what is said now and then only."""
    said = [time_left_text(TimeLeft(float(left), float(left))) for left in range(600, -1, -1)]
    changes = sum(before != after for before, after in pairwise(said))
    assert changes == len(set(said)) - 1 == 14
