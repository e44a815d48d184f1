import math

import pytest

from autotune.demo.plan import DEFAULTS, plan_from, settings_of
from autotune.errors import BadRequest


def test_defaults_make_the_demos_shape() -> None:
    plan = plan_from({})

    assert plan.shape.parameters == 2_132_096
    assert plan.steps == DEFAULTS["tokens"] // DEFAULTS["batch_tokens"]
    assert plan_from(settings_of(plan)) == plan


def test_rate_is_a_trapezoid() -> None:
    plan = plan_from({"tokens": 1024 * 4000})
    rates = [plan.rate(step) for step in range(plan.steps)]

    assert rates[0] == pytest.approx(plan.learning_rate / plan.warmup_steps)
    assert max(rates) == rates[200] == plan.learning_rate
    assert rates[1599] == plan.learning_rate > rates[1700]
    assert 0.0 < rates[-1] < 0.001 * plan.learning_rate
    assert all(math.isfinite(rate) for rate in rates)


def test_last_fifth_sees_the_whole_context() -> None:
    plan = plan_from({"tokens": 1024 * 100})

    assert plan.rows(0) == plan.rows(79) == (4, 256)
    assert plan.rows(80) == plan.rows(99) == (2, 512)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 1000}, "too small for one step of 1024 tokens"),
        ({"batch_tokens": 100}, "does not hold one row of the context"),
        ({"vocab": 256}, "the bytes and the end token are 257"),
        ({"heads": 4, "kv_heads": 3}, "cannot be shared evenly"),
        ({"layers": 0}, "--layers must be positive"),
        ({"learning_rate": float("nan")}, "--learning-rate must be positive"),
        ({"seed": -1}, "--seed must be positive"),
    ],
)
def test_impossible_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        plan_from(settings)
