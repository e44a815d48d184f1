"""The search over schedules, raced by arithmetic."""

from itertools import count, islice

from autotune.compile.schedule import Schedule
from autotune.compile.schedule_search import CHOICES, neighbours, search

BEST = Schedule(single_row_sums=8, unroll=2, prefetch_bytes=512, parallel=False)


def cost(schedule: Schedule) -> float:
    """Each property of the best schedule saves a fifth."""
    return float(0.8 ** sum(getattr(schedule, name) == getattr(BEST, name) for name in CHOICES))


def race(champion: Schedule, challenger: Schedule) -> float:
    return cost(champion) / cost(challenger)


def test_it_finds_the_best_and_ends_when_everything_was_tried() -> None:
    found = search(Schedule(), race, lambda: True, seed=0)
    assert found.schedule == BEST
    assert found.tried == 4 * 3 * 4 * 2


def test_the_way_there_is_short() -> None:
    left = iter(range(30))
    assert search(Schedule(), race, lambda: next(left, None) is not None, seed=0).schedule == BEST


def test_no_time_means_the_start() -> None:
    found = search(Schedule(), race, lambda: False, seed=0)
    assert (found.schedule, found.tried) == (Schedule(), 0)


def test_what_cannot_be_built_and_noise_do_not_win() -> None:
    turns = count()
    found = search(Schedule(), lambda _, __: None if next(turns) % 2 else 1.005, lambda: True, seed=1)
    assert found.schedule == Schedule()


def test_neighbours_differ_in_one_property() -> None:
    for near in islice(neighbours(BEST), 20):
        assert sum(getattr(near, name) != getattr(BEST, name) for name in CHOICES) == 1
