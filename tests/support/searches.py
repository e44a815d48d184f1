"""Searches that follow one another in a run's folder, over fakes."""

from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.trial import TrialState

from autotune.candidate import Build
from autotune.samplers import AUTO, SamplerName
from autotune.screening import Screener
from autotune.search_space.constraints import Constraints
from autotune.search_space.space import SearchSpace
from autotune.store import RunFolder
from autotune.tuner import Budget, Search, SearchResult
from tests.support.evaluators import LOOKAHEADS, FakeEvaluator, Outcome, SilentObserver, tiny_space
from tests.support.figures import target_latency

PLENTY = Budget(trials=1000, time_s=60.0)


class Bench:
    """A run's folder in which searches follow one another; their study is `storage`, by default the folder's own."""

    def __init__(
        self,
        path: Path,
        space: SearchSpace | None = None,
        storage: optuna.storages.BaseStorage | None = None,
        sampler: SamplerName = AUTO,
    ) -> None:
        self.path = path
        self.space = space or tiny_space()
        self.in_memory = storage
        self.storage = storage or f"sqlite:///{path / 'study.db'}"
        self.sampler = sampler
        self.observer = SilentObserver()
        self.evaluated: list[Build] = []

    def search(
        self,
        budget: Budget = PLENTY,
        before: Callable[[int, Build], Outcome | None] = lambda n, build: None,
        seed: int = 0,
        screen: bool = False,
    ) -> SearchResult:
        evaluator = FakeEvaluator(before)
        screener = Screener(target_latency(LOOKAHEADS), Constraints(context_tokens=64)) if screen else None
        try:
            with RunFolder.open(self.path, {}, resume=True) as folder:
                search = Search(
                    self.space, evaluator, folder, self.observer, seed, screener, self.sampler, self.in_memory
                )
                result = search.run(budget)
                assert folder.records() == result.records
        finally:
            self.evaluated += evaluator.builds
        return result

    @property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return optuna.load_study(study_name="autotune", storage=self.storage).trials

    def told(self) -> set[tuple[str, int]]:
        """(build key, lookahead) of every completed trial."""
        return {
            (trial.user_attrs["build"], trial.params["lookahead"])
            for trial in self.trials
            if trial.state == TrialState.COMPLETE
        }
