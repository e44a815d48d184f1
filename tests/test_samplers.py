import itertools
from pathlib import Path
from typing import get_args

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune import samplers
from autotune.candidate import Build
from autotune.config import make_config
from autotune.errors import BadRequest
from autotune.results import Rejected, RejectReason
from autotune.samplers import OncePerBuild, SamplerName, best_fronts, check_sampler, make_sampler, neighbours
from autotune.tuner import Budget
from tests.support.evaluators import outcome_of, tiny_space
from tests.support.searches import Bench
from tests.support.spaces import all_builds

ALL: list[SamplerName] = list(get_args(SamplerName))
TINY = {"layers": "1:3", "ffn": "16:96:16"}


@pytest.fixture(params=ALL)
def name(request: pytest.FixtureRequest) -> SamplerName:
    if request.param == "gp":
        pytest.importorskip("scipy", reason="the Gaussian process needs SciPy")
    return request.param


@pytest.fixture
def bench(tmp_path: Path, name: SamplerName) -> Bench:
    return Bench(tmp_path / "run", tiny_space(**TINY), optuna.storages.InMemoryStorage(), name)


def keys(builds: list[Build]) -> list[str]:
    return [build.key() for build in builds]


def test_every_sampler_searches_without_repeats(bench: Bench) -> None:
    result = bench.search(Budget(18, 60.0))
    assert len(result.records) == len(set(keys(bench.evaluated))) == 18


def test_every_sampler_is_seeded(tmp_path: Path, name: SamplerName) -> None:
    first, again = (
        Bench(tmp_path / folder, tiny_space(**TINY), optuna.storages.InMemoryStorage(), name)
        for folder in ("first", "again")
    )
    for each in (first, again):
        each.search(Budget(14, 60.0), seed=3)
    assert keys(first.evaluated) == keys(again.evaluated)


def test_a_search_is_resumed_by_any_sampler(bench: Bench) -> None:
    def stop(n: int, build: Build) -> None:
        if n == 12:
            raise KeyboardInterrupt

    stopped = bench.search(before=stop)
    assert stopped.interrupted
    bench.evaluated.pop()
    bench.sampler = "random"
    bench.search(Budget(13, 60.0))
    assert len(set(keys(bench.evaluated))) == len(bench.evaluated) == 13


def test_a_limit_is_kept_and_the_search_goes_on(bench: Bench) -> None:
    def shallow(n: int, build: Build) -> Rejected | None:
        return Rejected(RejectReason.CONSTRAINT, "over the limit of parameters") if build.shape.layers > 2 else None

    result = bench.search(Budget(16, 60.0), shallow)
    assert result.front
    assert all(record.build.shape.layers <= 2 for record, _ in result.scored)
    broken = [trial for trial in bench.trials if trial.params.get("layers", 0) > 2 and trial.state.is_finished()]
    assert {trial.state for trial in broken} <= {TrialState.PRUNED}


def test_failures_are_survived(bench: Bench) -> None:
    result = bench.search(Budget(20, 60.0), lambda n, build: Rejected(RejectReason.BUILD_ERROR, "no"))
    assert len(result.records) == 20
    assert result.front == []


def test_the_default_finds_the_optimum_of_a_toy_space_in_a_quarter_of_it(tmp_path: Path) -> None:
    space = tiny_space(layers="1:3", ffn="4:96:4")
    bench = Bench(tmp_path / "run", space, optuna.storages.InMemoryStorage())
    found = bench.search(Budget(space.size // 4, 60.0))
    best = max(score.tokens_per_s.value for build in all_builds(space) for score in outcome_of(build).scores)
    assert max(score.tokens_per_s.value for _, score in found.scored) == pytest.approx(best)


def test_an_unknown_sampler_is_refused_in_one_line() -> None:
    with pytest.raises(BadRequest, match=r"--sampler simplex: choose from: auto, tpe") as caught:
        make_config({"sampler": "simplex"})
    assert "\n" not in str(caught.value)


def test_a_gaussian_process_without_scipy_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "find_spec", lambda module: None)
    check_sampler("tpe")
    with pytest.raises(BadRequest, match=r"--sampler gp needs SciPy: run pip install .*\[gp\]"):
        make_sampler("gp", 0, 8)


def point(round_s: float, tokens: float, **params: int) -> FrozenTrial:
    distributions = {each: IntDistribution(1, 9) for each in params}
    return create_trial(values=[round_s, tokens], params=params, distributions=distributions)


def test_the_best_fronts_come_first_and_the_last_one_is_thinned_evenly() -> None:
    first = [point(1.0, 1.0), point(2.0, 2.0)]
    second = [point(1.5 + n, 0.5 + 0.1 * n) for n in range(5)]
    behind = [point(9.0, 0.1)]
    assert best_fronts([*behind, *second, *first], 5) == [*first, second[0], second[2], second[4]]
    assert best_fronts(first, 5) == first
    assert best_fronts([], 5) == []


def test_neighbours_of_an_axis() -> None:
    assert neighbours(IntDistribution(2, 10, step=4), 6) == [2, 10]
    assert neighbours(IntDistribution(2, 10, step=4), 2) == [6]
    assert neighbours(CategoricalDistribution(("1", "4", "9")), "9") == ["4"]
    assert neighbours(CategoricalDistribution(("fp32", "int8", "int4")), "int8") == ["fp32", "int4"]


class Stubborn(optuna.samplers.RandomSampler):
    """Proposes the same whatever it is shown, and remembers what that was."""

    seen: list[FrozenTrial]

    def infer_relative_search_space(self, study, trial):  # type: ignore[no-untyped-def]
        self.seen = study.get_trials(states=[TrialState.COMPLETE])
        return {}

    def sample_independent(self, study, trial, param_name, param_distribution):  # type: ignore[no-untyped-def]
        return param_distribution.low


def test_builds_are_seen_once_at_one_lookahead_and_never_proposed_again() -> None:
    inner = Stubborn()
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=OncePerBuild(inner, seed=0))
    for layers, lookahead in itertools.product((1, 3), (1, 2)):
        study.add_trial(point(layers + lookahead, 1.0 * lookahead, layers=layers, lookahead=lookahead))
    study.add_trial(point(9.0, 1.0, layers=3, lookahead=1))  # asked for again: the same build
    shown = set()
    for _ in range(20):
        proposed = study.ask({"layers": IntDistribution(1, 9), "lookahead": IntDistribution(1, 9)})
        assert proposed.params["layers"] not in (1, 3)
        assert [trial.params for trial in inner.seen] == [{"layers": 1}, {"layers": 3}]
        (lookahead,) = {trial.values[1] for trial in inner.seen}
        shown.add(lookahead)
    assert shown == {1.0, 2.0}


def test_a_space_that_is_spent_is_proposed_as_it_is() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=OncePerBuild(Stubborn(), seed=0))
    axes = {name: IntDistribution(1, 2) for name in ("layers", "heads", "lookahead")}
    for layers, heads in itertools.product((1, 2), (1, 2)):
        params = {"layers": layers, "heads": heads, "lookahead": 1}
        study.add_trial(create_trial(values=[1.0, 1.0], params=params, distributions=axes))
    proposed = study.ask(axes).params
    assert (proposed["layers"], proposed["heads"]) == (1, 1)
