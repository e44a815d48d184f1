"""How a search ends, by the kind of run: a contest and a pair, a draft that nobody decoded yet, or a plan."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from autotune.adapt import adapt_winner
from autotune.adaptive_results import AdaptiveOutcome
from autotune.artifact import Manifest
from autotune.batch_schedule import Schedule, ScheduledDraft, make_schedule
from autotune.by_category import predicted_by_category
from autotune.category_results import CategoryOutcome
from autotune.errors import AutotuneError
from autotune.finalists import Finalist, choose_finalists, finish_drafts, make_finalists
from autotune.lookup_results import LookupFirstOutcome, LookupOutcome
from autotune.progress import Observer
from autotune.results import KernelTuning, Measured, RunKind, Score, TrialRecord
from autotune.ship import ship, ship_plan, ship_unvalidated
from autotune.stopping import AdaptivePlan
from autotune.store import RunFolder
from autotune.tune_kernels import tune_winner
from autotune.tuner import SearchResult
from autotune.validate import Validation, estimate_lookups, validate
from autotune.workbench import Workbench


@dataclass
class Conclusion:
    """What became of a search's best candidates; filled as far as the run came."""

    interrupted: bool
    validation: Validation | None = None
    """What the contest found, in a whole run."""
    tuning: KernelTuning | None = None
    ready: tuple[TrialRecord, Score] | None = None
    """The finished draft of a served run, with its prediction made anew."""
    adaptive: AdaptiveOutcome | None = None
    """What choosing the lookahead round by round came to; None where it was not asked for, or there is no pair."""
    schedule: Schedule | None = None
    """What speculation comes to by batch size; None: only single sequences were asked for, or could be measured."""
    by_category: Mapping[str, tuple[CategoryOutcome, ...]] = field(default_factory=dict)
    """By the key of a finished build: its figures in every category, where there are several."""
    lookups: Sequence[LookupOutcome] = ()
    """Drafters without a model, the fastest by prediction first."""
    lookup: LookupOutcome | None = None
    """The one that ships, as no draft model is worth its memory beside it."""
    first: LookupFirstOutcome | None = None
    """The lookup that ships before the draft."""
    manifest: Manifest | None = None
    """Of the artifact; None if nothing shipped."""
    failure: AutotuneError | None = None
    """Why the best could not be made; what was searched is reported all the same."""


def conclude(
    bench: Workbench, found: SearchResult, folder: RunFolder, versions: Mapping[str, str], watcher: Observer
) -> Conclusion:
    """Make the best of what was found, as far as the models that are here allow, and ship it."""
    conclusion = Conclusion(interrupted=found.interrupted)
    if not found.front or found.interrupted:
        return conclusion
    ending = _Ending(conclusion, bench, found, folder, versions, watcher)
    ways = {
        RunKind.WHOLE: ending.decode_and_ship,
        RunKind.SERVED: ending.finish_and_ship,
        RunKind.PLAN: ending.plan_and_ship,
    }
    try:
        ways[bench.request.kind]()
    except KeyboardInterrupt:
        conclusion.interrupted = True
    except AutotuneError as error:
        conclusion.failure = error
    if conclusion.manifest is not None:
        for note in conclusion.manifest.notes:
            watcher.note(note)
    return conclusion


@dataclass(frozen=True)
class _Ending:
    """The three ways to end; each fills the conclusion as far as it comes."""

    conclusion: Conclusion
    bench: Workbench
    found: SearchResult
    folder: RunFolder
    versions: Mapping[str, str]
    watcher: Observer

    def decode_and_ship(self) -> None:
        """The finalists decode; the fastest ships, its kernels tuned if that was asked for."""
        conclusion, config = self.conclusion, self.bench.request.config
        finalists = choose_finalists(self.found.front, config.validate_top)
        validation = conclusion.validation = validate(self.bench, finalists, self.folder.work, self.watcher)
        conclusion.by_category = validation.by_category
        choice = validation.choice
        conclusion.lookups, conclusion.lookup, conclusion.first = validation.lookups, choice.lookup, choice.first
        winner = validation.shipping
        if winner:
            self._schedule(partial(_finished, self.bench, winner[0]))
        elif max(config.batch) > 1:
            self.watcher.note("batches are not measured: no draft decoded faster than the target alone")
        if winner and config.tune_kernels and not conclusion.interrupted:
            try:
                finalist, conclusion.tuning = tune_winner(self.bench, *winner, self.folder.work / "tuned", self.watcher)
                winner = finalist, winner[1]
            except KeyboardInterrupt:  # the winner is at hand: it ships as it was validated
                conclusion.interrupted = True
        fixed = winner and config.adaptive_k and not conclusion.interrupted
        if fixed and conclusion.first:
            self.watcher.note("adaptive k is not tried: a lookup ships before the draft, with lookaheads of their own")
        plan = self._adapt(winner[0]) if winner and fixed and not conclusion.first else None
        self.watcher.phase("Writing the artifact")
        outcomes = conclusion.by_category.get(winner[1].build.key(), ()) if winner else ()
        conclusion.manifest = ship(
            self.bench,
            winner,
            self.folder.artifact,
            self.versions,
            conclusion.tuning,
            conclusion.schedule,
            outcomes,
            adaptive=plan,
            lookup=conclusion.lookup or conclusion.first,
        )

    def finish_and_ship(self) -> None:
        """The best predictions are finished and predicted anew; the fastest ships unless the target alone is faster."""
        bench, conclusion = self.bench, self.conclusion
        records = choose_finalists(self.found.front, bench.request.config.validate_top)
        drafts = finish_drafts(bench, records, self.watcher)
        self.watcher.phase("Compiling the finished drafts")
        finalists = make_finalists(bench, bench.evaluator, records, drafts, self.folder.work, self.watcher)
        best = max(finalists, key=lambda each: each.score.tokens_per_s.value)
        conclusion.lookups = estimate_lookups(bench, bench.latency)
        conclusion.ready = best.record, best.score
        outcomes = predicted_by_category(bench.evaluator, best)
        conclusion.by_category = {best.record.build.key(): outcomes}
        self._schedule(partial(_finished, bench, best))
        self.watcher.phase("Writing the artifact")
        pays = best.score.speedup.value > 1.0
        finalist, schedule = (best, conclusion.schedule) if pays else (None, None)
        conclusion.manifest = ship_unvalidated(
            bench, finalist, self.folder.artifact, self.versions, schedule, outcomes if pays else ()
        )

    def plan_and_ship(self) -> None:
        """The plan of the fastest candidate, even where it would not pay: its TAR is unknown, and the plan says so."""
        record, score = max(self.found.front, key=lambda point: point[1].tokens_per_s.value)
        self._schedule(partial(_planned, self.bench, record))
        self.watcher.phase("Writing the plan")
        self.conclusion.manifest = ship_plan(
            self.bench, (record, score), self.folder.artifact, self.versions, self.conclusion.schedule
        )

    def _adapt(self, finalist: Finalist) -> AdaptivePlan | None:
        """The plan of an adaptive lookahead, if it pays; the draft ships without one too."""
        try:
            plan, self.conclusion.adaptive = adapt_winner(self.bench, finalist, self.watcher)
        except KeyboardInterrupt:
            self.conclusion.interrupted = True
            return None
        return plan

    def _schedule(self, draft: Callable[[], ScheduledDraft]) -> None:
        """Make the draft's schedule, if more than one sequence was asked for; the draft ships without one too."""
        if max(self.bench.request.config.batch) == 1:
            return
        try:
            self.conclusion.schedule = make_schedule(self.bench, draft(), self.folder.work / "batches", self.watcher)
        except KeyboardInterrupt:
            self.conclusion.interrupted = True
        except AutotuneError as error:
            self.watcher.note(f"no lookahead is scheduled by batch size: {error}")


def _finished(bench: Workbench, finalist: Finalist) -> ScheduledDraft:
    """A finalist as it is compiled."""
    build = finalist.record.build
    weights = bench.own_text.estimator.vocabulary.trim(finalist.whole, build.shape)
    return ScheduledDraft(build, weights, finalist.acceptance, finalist.burst)


def _planned(bench: Workbench, record: TrialRecord) -> ScheduledDraft:
    """The draft of a plan, with the random weights that it was measured with."""
    outcome = record.outcome
    assert isinstance(outcome, Measured)  # as everything on the front
    return ScheduledDraft(
        record.build, bench.evaluator.drafts.weights(record.build.shape), outcome.acceptance, outcome.burst
    )
