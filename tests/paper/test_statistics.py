import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.paper.statistics import fit_line, pearson, spearman

values = st.lists(st.integers(-100, 100), min_size=3, max_size=12, unique=True)


@given(st.integers(-5, 5), st.integers(-5, 5))
def test_points_of_a_line_give_the_line(slope: int, intercept: int) -> None:
    line = fit_line([1, 2, 4, 7], [slope * x + intercept for x in (1, 2, 4, 7)])
    assert (line.slope, line.intercept) == (pytest.approx(slope, abs=1e-9), pytest.approx(intercept, abs=1e-9))
    assert line.r_squared == pytest.approx(1.0, abs=1e-6)


def test_a_line_explains_nothing_of_a_symmetric_hill() -> None:
    assert fit_line([-1, 0, 1], [0, 1, 0]).r_squared == pytest.approx(0.0, abs=1e-9)


@given(values)
def test_rank_correlation_sees_only_the_order(x: list[int]) -> None:
    assert spearman(x, [each**3 for each in x]) == pytest.approx(1.0)
    assert spearman(x, [-each for each in x]) == pytest.approx(-1.0)


def test_known_correlations() -> None:
    assert pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert pearson([1, 2, 3], [5, 5, 5]) == 0.0
    assert spearman([1, 2, 2, 3], [1, 2, 2, 4]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(0.6)
