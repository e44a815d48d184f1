import numpy as np
import pytest

from autotune.contest import Tally
from autotune.objective import WORST, only, weighted
from autotune.results import Evidence
from autotune.runtime.decode import Statistics
from autotune.tallies import speed, speedup, tokens_per_round


def tally(*prompts: tuple[int, int, float]) -> Tally:
    """A tally of (tokens, rounds, decoding seconds) per prompt."""
    return Tally(tuple(Statistics(tokens=tokens, rounds=rounds, decode_s=s) for tokens, rounds, s in prompts))


def test_ratios_are_pooled_over_prompts() -> None:
    pair = tally((90, 30, 1.0), (10, 10, 1.0))
    assert tokens_per_round(pair).value == pytest.approx(100 / 40)
    assert speed(pair).value == pytest.approx(50.0)
    assert speedup(pair, tally((90, 90, 3.0), (10, 10, 1.0))).value == pytest.approx(50 / 25)


def test_figures_follow_the_objective() -> None:
    """Categories at 4 and 2 tokens a round and at 40 and 20 tokens/s, beside 20 and 25 of the target alone."""
    pair, alone = tally((80, 20, 2.0), (20, 10, 1.0)), tally((80, 80, 4.0), (20, 20, 0.8))
    halves, categories = weighted({"code": 1, "chat": 1}), ("code", "chat")
    assert tokens_per_round(pair, WORST, categories).value == pytest.approx(2.0)
    assert tokens_per_round(pair, halves, categories).value == pytest.approx(8 / 3)
    assert speed(pair, WORST, categories).value == pytest.approx(20.0)
    assert speed(pair, halves, categories).value == pytest.approx(80 / 3)
    assert speedup(pair, alone, WORST, categories).value == pytest.approx(0.8)
    assert speedup(pair, alone, halves, categories).value == pytest.approx((80 / 3) / (200 / 9))
    assert speedup(pair, alone, only("code"), categories).value == pytest.approx(2.0)
    assert speedup(pair, alone).value == pytest.approx(1.6)


def test_intervals_hold_the_value_and_are_measured() -> None:
    rng = np.random.default_rng(0)
    pair = tally(*((int(rng.integers(20, 60)), 20, float(rng.uniform(0.5, 1.5))) for _ in range(30)))
    alone = tally(*((int(rng.integers(20, 60)), 40, 1.0) for _ in range(30)))
    for figure in (speed(pair), tokens_per_round(pair), speedup(pair, alone)):
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low < figure.value < figure.high
        assert figure.evidence is Evidence.MEASURED


def test_one_prompt_has_no_spread() -> None:
    figure = speed(tally((10, 5, 2.0)))
    assert figure.low == figure.value == figure.high == 5.0


def test_prompts_that_are_slow_for_both_do_not_widen_the_speedup() -> None:
    seconds = np.linspace(0.1, 10.0, 20)
    pair = tally(*((40, 10, float(s)) for s in seconds))
    alone = tally(*((40, 40, 2 * float(s)) for s in seconds))
    figure = speedup(pair, alone)
    assert (figure.low, figure.value, figure.high) == pytest.approx((2.0, 2.0, 2.0))
    wide = speed(pair)
    assert wide.high - wide.low > 0.2 * wide.value


def test_figures_repeat_themselves() -> None:
    pair = tally((30, 10, 1.0), (20, 10, 1.5), (25, 9, 1.1))
    assert speed(pair) == speed(pair)
