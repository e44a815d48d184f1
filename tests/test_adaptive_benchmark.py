import numpy as np
import pytest

from autotune.contest import Tally
from autotune.runtime.decode import Statistics
from benchmarks.adaptive import ALL, Workload, figures


def tally(seconds: list[float]) -> Tally:
    """Ten tokens a prompt in these seconds."""
    return Tally(tuple(Statistics(tokens=10, rounds=4, drafted=12, decode_s=each) for each in seconds))


def test_ratios_are_of_each_run_over_the_lookahead_that_is_fastest_in_all_of_them() -> None:
    workload = Workload(((1,), (2,), (3,)), ((ALL, "looping"), (ALL, "looping"), (ALL, "not looping")), (), ())
    runs = [
        [tally([2.0, 2.0, 2.0]), tally([1.0, 1.0, 1.0]), tally([0.6, 0.6, 2.5]), tally([0.5, 0.5, 1.0 * slow])]
        for slow in (1.0, 1.1, 1.2)
    ]
    everything, hard = figures(runs, workload, ALL), figures(runs, workload, "not looping")
    assert (everything["prompts"], hard["prompts"]) == (3, 1)
    assert everything["best_fixed"] == 1
    assert everything["adaptive_over_best_fixed"]["median"] == pytest.approx(3.0 / 2.1)
    assert everything["adaptive_over_best_fixed"]["max"] == pytest.approx(3.0 / 2.0)
    assert hard["adaptive_over_best_fixed"]["min"] == pytest.approx(1 / 1.2)
    easy = figures(runs, workload, "looping")
    assert (easy["best_fixed"], easy["best_fixed_of_these"]) == (1, 2)
    assert easy["adaptive_over_best_fixed"]["median"] == pytest.approx(2.0)
    assert easy["adaptive_over_best_fixed_of_these"]["median"] == pytest.approx(1.2)
    assert everything["drafted_per_round"] == pytest.approx(3.0)
    assert np.isclose(everything["tokens_per_s"]["0"]["median"], 5.0)
