import pytest

from autotune.errors import BadRequest
from autotune.proxy.base import ESTIMATORS, Axes, Training
from autotune.proxy.budgets import check_proxy_budget, proxy_tokens
from autotune.proxy.parts import budget_tokens, mean_parameters
from tests.proxy.conftest import SOURCE_SHAPE


def test_each_estimator_spends_its_own_budget(axes: Axes) -> None:
    tokens = {name: proxy_tokens(name, 0.5, 7000, SOURCE_SHAPE, axes) for name in ESTIMATORS}
    shared = budget_tokens(0.5, mean_parameters(SOURCE_SHAPE, axes))
    assert tokens == {"pruned": 0, "recovered": 7000, "elastic": shared, "learned-mask": 7000}


def test_budgets_below_a_step_are_refused_by_the_flag_that_gives_them(axes: Axes) -> None:
    flags = {Training.SHARED: "--elastic-budget", Training.EACH: "--recover-tokens"}
    for name, entry in ESTIMATORS.items():
        check_proxy_budget(name, 1.0, 512, SOURCE_SHAPE, axes)
        if entry.training is Training.NONE:
            check_proxy_budget(name, 0.0, 0, SOURCE_SHAPE, axes)
            continue
        with pytest.raises(BadRequest, match=f"{flags[entry.training]}.* less than one training step: give at least"):
            check_proxy_budget(name, 1e-9, 511, SOURCE_SHAPE, axes)
