"""The study: Optuna proposes (build, lookahead), each build is evaluated once, and all its lookaheads are told.

`trials.jsonl` is the truth; the study beside it is what the sampler learns from, and is brought up to date with the
records whenever a run resumes.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import DatabaseError

from autotune.candidate import Candidate
from autotune.errors import BadRequest
from autotune.evaluate import Evaluator, timed
from autotune.pareto import pareto_front
from autotune.progress import Observer, SearchStatus
from autotune.results import Measured, Score, Screened, TrialRecord
from autotune.results import TrialState as Ending
from autotune.samplers import AUTO, SamplerName, make_sampler
from autotune.screening import Screener
from autotune.search_space.space import LOOKAHEAD, Params, SearchSpace
from autotune.store import RunFolder
from autotune.time_left import time_left

_STUDY = "autotune"
_BUILD = "build"
"""The trials' attribute that holds the key of their build."""
_RULED_OUT_PER_TRIAL = 10
_MOST_REPEATS = 8
"""Proposals of known builds in a row after which an unknown one is drawn at random."""


@dataclass(frozen=True)
class Budget:
    """When a search ends, whichever comes first."""

    trials: int
    """Builds to evaluate: those measured, failed or screened; of those a limit rules out, ten count as one."""
    time_s: float


@dataclass(frozen=True)
class SearchResult:
    """Every record of the run's folder, and whether the user stopped the search."""

    records: list[TrialRecord]
    interrupted: bool

    @property
    def scored(self) -> list[tuple[TrialRecord, Score]]:
        """Every scored (build, lookahead)."""
        return [(record, score) for record in self.records for score in record.scores]

    @property
    def front(self) -> list[tuple[TrialRecord, Score]]:
        """The Pareto front of round latency and tokens per round."""
        return pareto_front(self.scored, lambda item: item[1])


class Search:
    """One search over a space, resumable at any point."""

    def __init__(
        self,
        space: SearchSpace,
        evaluator: Evaluator,
        folder: RunFolder,
        observer: Observer,
        seed: int,
        screener: Screener | None = None,
        sampler: SamplerName = AUTO,
        storage: BaseStorage | None = None,
    ) -> None:
        """A search of `space` in `folder`; `sampler` is a name of `autotune.samplers`.

        The study is kept in `storage`; in a file of the folder if None.
        """
        self._space = space
        self._evaluator = evaluator
        self._screener = screener
        self._folder = folder
        self._observer = observer
        self._records = folder.records()
        self._known = {record.build.key(): record for record in self._records}
        if screener is not None:
            screener.learn(self._records)
        self._random = Random(seed + len(self._records))
        chosen = make_sampler(sampler, seed + len(self._records), len(space.lookahead.values))
        self._study = _open_study(folder, chosen, storage)

    def run(self, budget: Budget) -> SearchResult:
        """Evaluate builds until the budget or the space is spent, or the user interrupts."""
        try:
            self._catch_up()
            self._search(budget, time.monotonic())
        except KeyboardInterrupt:
            return SearchResult(self._records, interrupted=True)
        except optuna.exceptions.StorageInternalError as error:
            raise _unusable(self._folder, error.__cause__ or error) from error
        return SearchResult(self._records, interrupted=False)

    def _search(self, budget: Budget, began_s: float) -> None:
        repeats = 0
        already = len(self._records)
        while self._trials_spent() < budget.trials and len(self._records) < self._space.size:
            if time.monotonic() - began_s > budget.time_s:
                self._observer.note("the time budget is spent")
                return
            if repeats >= _MOST_REPEATS:
                self._queue(self._unknown_candidate())
                repeats = 0
            trial = self._study.ask()
            candidate = self._space.suggest(trial)
            known = self._known.get(candidate.build.key())
            if known is not None:
                repeats += 1
                self._tell(trial, known, candidate.lookahead)
                continue
            repeats = 0
            record = self._evaluate(candidate)
            self._tell(trial, record, candidate.lookahead)
            self._add_siblings(record, except_lookahead=candidate.lookahead)
            self._observer.trial(record, self._status(budget, began_s, already))

    def _trials_spent(self) -> int:
        """Builds that count against the budget: what a limit rules out costs next to nothing, so ten count as one."""
        ruled_out = sum(record.ruled_out for record in self._records)
        return len(self._records) - ruled_out + ruled_out // _RULED_OUT_PER_TRIAL

    def _evaluate(self, candidate: Candidate) -> TrialRecord:
        outcome, wall_s = timed(self._evaluator, candidate.build, self._screener)
        params = {name: value for name, value in self._space.params(candidate).items() if name != LOOKAHEAD}
        number, parameters = len(self._records), candidate.shape.parameters
        record = TrialRecord(number, candidate.build, parameters, wall_s, outcome, params)
        self._folder.append(record)
        self._records.append(record)
        self._known[candidate.build.key()] = record
        if self._screener is not None:
            self._screener.learn([record])
        return record

    def _catch_up(self) -> None:
        """Bring the study up to date with the records; queue what a kill cut short, and the seeds not tried yet."""
        trials = self._study.trials
        cut_short = [trial for trial in trials if trial.state == TrialState.RUNNING]
        told = {(trial.user_attrs.get(_BUILD), trial.params.get(LOOKAHEAD), trial.state) for trial in trials}
        for record in self._records:
            for lookahead in self._space.lookahead.values:
                state, *_ = _study_outcome(record, lookahead)
                if (record.build.key(), self._space.lookahead.param(lookahead), state) not in told:
                    self._add(record, lookahead)
        waiting = {trial.user_attrs.get(_BUILD) for trial in trials if trial.state == TrialState.WAITING}
        for candidate in [*self._proposals(cut_short), *self._space.seeds()]:
            if candidate.build.key() not in self._known.keys() | waiting:
                self._queue(candidate)
                waiting.add(candidate.build.key())
        for trial in cut_short:
            self._study.tell(trial.number, state=TrialState.FAIL)

    def _proposals(self, trials: Iterable[FrozenTrial]) -> Iterator[Candidate]:
        """The candidates of trials that were proposed in full."""
        names = self._space.params(self._space.seeds()[0]).keys()
        return (self._space.suggest(FixedTrial(trial.params)) for trial in trials if trial.params.keys() == names)

    def _queue(self, candidate: Candidate) -> None:
        """Have the study propose this candidate next, behind what is queued already."""
        self._study.enqueue_trial(self._space.params(candidate), user_attrs={_BUILD: candidate.build.key()})

    def _tell(self, trial: optuna.Trial, record: TrialRecord, lookahead: int) -> None:
        """Tell the asked trial what its build is worth at its lookahead."""
        trial.set_user_attr(_BUILD, record.build.key())
        state, values, constraints = _study_outcome(record, lookahead)
        for name, excess in constraints.items():
            trial.set_constraint(name, excess)
        self._study.tell(trial, values, state=state)

    def _add_siblings(self, record: TrialRecord, except_lookahead: int) -> None:
        for lookahead in self._space.lookahead.values:
            if lookahead != except_lookahead:
                self._add(record, lookahead)

    def _add(self, record: TrialRecord, lookahead: int) -> None:
        """Add a trial for a lookahead nobody asked for: one evaluation scores them all."""
        params: Params = {**record.params, LOOKAHEAD: self._space.lookahead.param(lookahead)}
        state, values, constraints = _study_outcome(record, lookahead)
        self._study.add_trial(
            create_trial(
                state=state,
                values=values,
                params=params,
                distributions=self._distributions(params),
                user_attrs={_BUILD: record.build.key()},
                constraints=constraints,
            )
        )

    def _distributions(self, params: Params) -> dict[str, BaseDistribution]:
        recorder = FixedTrial(params)
        self._space.suggest(recorder)
        return recorder.distributions

    def _unknown_candidate(self) -> Candidate:
        """A candidate whose build was not evaluated yet, drawn at random; there must be one."""
        while True:  # a space that is nearly spent is small, and a large one is never nearly spent
            candidate = self._space.draw(self._random)
            if candidate.build.key() not in self._known:
                return candidate

    def _status(self, budget: Budget, began_s: float, already: int) -> SearchStatus:
        result = SearchResult(self._records, interrupted=False)
        evaluated, planned = self._trials_spent(), min(budget.trials, self._space.size)
        finished_s = [record.wall_s for record in self._records[already:] if not record.ruled_out]
        return SearchStatus(
            evaluated=evaluated,
            planned=planned,
            rejected=sum(record.state is Ending.REJECTED for record in self._records),
            screened=sum(record.state is Ending.SCREENED for record in self._records),
            front_size=len(result.front),
            best=max(result.scored, key=lambda item: item[1].tokens_per_s.value, default=None),
            left=time_left(finished_s, planned - evaluated, began_s + budget.time_s - time.monotonic()),
        )


def _open_study(folder: RunFolder, sampler: BaseSampler, storage: BaseStorage | None) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    try:
        return optuna.create_study(
            study_name=_STUDY,
            storage=storage or f"sqlite:///{folder.study_file}",
            sampler=sampler,
            directions=["minimize", "maximize"],
            load_if_exists=True,
        )
    except (DatabaseError, optuna.exceptions.StorageInternalError) as error:
        raise _unusable(folder, error.__cause__ or error) from error


def _unusable(folder: RunFolder, cause: BaseException) -> BadRequest:
    """What to tell the user when the study's database cannot be used."""
    return BadRequest(
        f"cannot use {folder.study_file} ({cause}): if it is damaged, delete it, and --resume makes it anew"
    )


def _study_outcome(
    record: TrialRecord, lookahead: int
) -> tuple[TrialState, tuple[float, float] | None, dict[str, float]]:
    """State, (round seconds, tokens per round) and constraint excesses of a build at a lookahead.

    What breaks a limit is pruned and marked infeasible; what could not be built or run has failed.  What was screened
    is complete with its predicted values, which are about as good as measured ones: the sampler learns from them to
    look elsewhere, where a pruned or failed trial would only be missing.  The run's own front is made from measured
    scores alone.
    """
    score = next((score for score in record.scores if score.lookahead == lookahead), None)
    if score is not None:
        return TrialState.COMPLETE, (score.round_s.value, score.tokens_per_round.value), {"limits": 0.0}
    if isinstance(record.outcome, Screened):
        return _screened_outcome(record.outcome, lookahead)
    if isinstance(record.outcome, Measured) or record.ruled_out:
        return TrialState.PRUNED, None, {"limits": 1.0}
    return TrialState.FAIL, None, {}


def _screened_outcome(
    screened: Screened, lookahead: int
) -> tuple[TrialState, tuple[float, float] | None, dict[str, float]]:
    """What the study is told of a screened build; lookaheads over a limit are infeasible, as if they were measured."""
    for forecast in screened.forecasts:
        if forecast.lookahead == lookahead and forecast.rival is not None:
            values = forecast.round_s.value, forecast.tokens_per_round.value
            return TrialState.COMPLETE, values, {"limits": 0.0}
    return TrialState.PRUNED, None, {"limits": 1.0}
