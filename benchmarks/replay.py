"""Searches played over measurements that were made once, so that they differ in nothing but how they search."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.storages import InMemoryStorage

from autotune.candidate import Build
from autotune.evaluate import Evaluator, Screen
from autotune.pareto import hypervolume, pareto_front
from autotune.progress import LoggingObserver, Observer
from autotune.results import Acceptance, Measured, Outcome, Rejected, Score, Screened, TrialRecord
from autotune.samplers import AUTO, SamplerName
from autotune.screening import Screener
from autotune.search_space.space import SearchSpace
from autotune.store import RunFolder
from autotune.tuner import Budget, Search, SearchResult
from benchmarks.truth import Truth

NO_TIME_LIMIT_S = 1e9


@dataclass(frozen=True)
class Known:
    """A build's outcome, and the seconds its acceptance and the rest of it took."""

    outcome: Measured | Rejected
    acceptance_s: float
    latency_s: float


class Replay:
    """An evaluator that evaluates every build once and remembers."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._known: dict[str, Known] = {}
        self._acceptances: dict[str, tuple[Acceptance | Rejected, float]] = {}

    def evaluate(self, build: Build, screen: Screen | None = None) -> Outcome:
        """As `Evaluator.evaluate` with no constraints: acceptance, screening, then the rest."""
        acceptance, _ = self.acceptance(build)
        if isinstance(acceptance, Rejected):
            return acceptance
        screened = screen(build, acceptance, self._evaluator.lookaheads) if screen else None
        return screened or self.known(build).outcome

    def acceptance(self, build: Build) -> tuple[Acceptance | Rejected, float]:
        """The build's acceptance and the seconds it took."""
        if build.key() not in self._acceptances:
            began = time.perf_counter()
            acceptance = self._evaluator.acceptance(build, self._evaluator.drafts.weights(build.shape))
            self._acceptances[build.key()] = acceptance, time.perf_counter() - began
        return self._acceptances[build.key()]

    def known(self, build: Build) -> Known:
        """What the build comes to; evaluated now if it never was."""
        if build.key() not in self._known:
            acceptance_s = self.acceptance(build)[1]
            began = time.perf_counter()
            outcome = self._evaluator.evaluate(build)
            assert not isinstance(outcome, Screened)
            self._known[build.key()] = Known(outcome, acceptance_s, time.perf_counter() - began - acceptance_s)
        return self._known[build.key()]

    def truth(self, build: Build) -> Measured | None:
        """What was measured of the build; None if it was not."""
        known = self._known.get(build.key())
        return known.outcome if known is not None and isinstance(known.outcome, Measured) else None


def front_of(records: Sequence[TrialRecord]) -> list[Score]:
    return pareto_front([score for record in records for score in record.scores], lambda score: score)


def area(front: Sequence[Score], longest_s: float) -> float:
    return hypervolume([(score.round_s.value, score.tokens_per_round.value) for score in front], longest_s)


def fastest(front: Sequence[Score]) -> float:
    return max(score.tokens_per_s.value for score in front)


class Recorded:
    """An evaluator that looks every build up in a truth."""

    def __init__(self, truth: Truth, lookaheads: Sequence[int]) -> None:
        self._truth = truth
        self._lookaheads = lookaheads

    def evaluate(self, build: Build, screen: Screen | None = None) -> Outcome:
        """As `Evaluator.evaluate` with no constraints."""
        outcome = self._truth.outcomes[build.key()]
        if screen is None or isinstance(outcome, Rejected):
            return outcome
        return screen(build, outcome.acceptance, self._lookaheads) or outcome


def play(
    space: SearchSpace,
    evaluator: Replay | Recorded,
    seed: int,
    trials: int,
    screener: Screener | None = None,
    sampler: SamplerName = AUTO,
    observer: Observer | None = None,
) -> SearchResult:
    """A search of the space over remembered measurements, its study in memory."""
    watcher = observer or LoggingObserver()
    with tempfile.TemporaryDirectory() as scratch, RunFolder.open(Path(scratch), {}, resume=False) as folder:
        search = Search(space, evaluator, folder, watcher, seed, screener, sampler, InMemoryStorage())  # type: ignore[arg-type]
        return search.run(Budget(trials, NO_TIME_LIMIT_S))
