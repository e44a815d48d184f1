import random

from hypothesis import given
from hypothesis import strategies as st

from autotune.pareto import best_by_speed, hypervolume, pareto_front
from autotune.results import Evidence, Figure, Score

Point = tuple[float, float]
points = st.lists(st.tuples(st.integers(1, 9).map(float), st.integers(1, 9).map(float)), max_size=30)


def score(point: Point) -> Score:
    seconds, tokens = point
    figures = (tokens, seconds, tokens / seconds, tokens / seconds)
    return Score(3, *(Figure(value, Evidence.ESTIMATED) for value in figures))


def dominates(one: Point, other: Point) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other


@given(points)
def test_nothing_on_the_front_is_dominated_and_everything_off_it_is(items: list[Point]) -> None:
    front = pareto_front(items, score)
    assert not any(dominates(other, kept) for kept in front for other in items)
    assert all(any(dominates(kept, item) for kept in front) for item in set(items) - set(front))
    assert len(front) == len(set(front))
    assert front == sorted(front)


@given(points, st.randoms(use_true_random=False))
def test_the_front_does_not_depend_on_the_order(items: list[Point], shuffler: random.Random) -> None:
    shuffled = list(items)
    shuffler.shuffle(shuffled)
    assert pareto_front(items, score) == pareto_front(shuffled, score)


def test_of_equal_points_the_first_is_kept() -> None:
    items = [("a", (2.0, 2.0)), ("b", (1.0, 1.0)), ("c", (2.0, 2.0)), ("d", (1.0, 1.0))]
    assert [name for name, _ in pareto_front(items, lambda item: score(item[1]))] == ["b", "a"]


@given(points)
def test_the_fastest_is_on_the_front(items: list[Point]) -> None:
    fastest = best_by_speed(items, score)
    assert sorted(fastest) == sorted(items)
    speeds = [score(item).tokens_per_s.value for item in fastest]
    assert speeds == sorted(speeds, reverse=True)
    front = pareto_front(items, score)
    assert max(speeds, default=0.0) == max((score(item).tokens_per_s.value for item in front), default=0.0)


@given(points)
def test_the_hypervolume_is_the_area_that_is_dominated(items: list[Point]) -> None:
    cells = {
        (second, token)
        for second in range(1, 10)
        for token in range(1, 9)
        if any(seconds <= second and tokens >= token + 1 for seconds, tokens in items)
    }
    assert hypervolume(items, 10.0) == len(cells)


@given(points, points)
def test_the_hypervolume_never_shrinks_and_only_the_front_counts(items: list[Point], more: list[Point]) -> None:
    assert hypervolume(items, 7.5, 2.0) <= hypervolume(items + more, 7.5, 2.0)
    front = pareto_front(items + more, score)
    assert hypervolume(front, 7.5, 2.0) == hypervolume(items + more, 7.5, 2.0)


def test_a_hypervolume_by_hand() -> None:
    items = [(1.0, 2.0), (3.0, 4.0), (3.5, 3.0), (9.0, 9.0)]
    assert hypervolume(items, 5.0) == (5 - 1) * (2 - 1) + (5 - 3) * (4 - 2)
    assert hypervolume([], 5.0) == hypervolume(items, 1.0) == 0.0
