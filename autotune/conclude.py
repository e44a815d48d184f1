"""How a search ends, by the kind of run: a contest and a pair, a draft that nobody decoded yet, or a plan."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from autotune.artifact import Manifest
from autotune.batch_schedule import Schedule, ScheduledDraft, make_schedule
from autotune.errors import AutotuneError
from autotune.finalists import Finalist, choose_finalists, finish_drafts, make_finalists
from autotune.progress import Observer
from autotune.results import KernelTuning, Measured, RunKind, Score, TrialRecord
from autotune.ship import ship, ship_plan, ship_unvalidated
from autotune.store import RunFolder
from autotune.tune_kernels import tune_winner
from autotune.tuner import SearchResult
from autotune.validate import Validation, validate
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
    schedule: Schedule | None = None
    """What speculation comes to by batch size; None: only single sequences were asked for, or could be measured."""
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
    ways = {RunKind.WHOLE: _decode_and_ship, RunKind.SERVED: _finish_and_ship, RunKind.PLAN: _plan_and_ship}
    try:
        ways[bench.request.kind](conclusion, bench, found, folder, versions, watcher)
    except KeyboardInterrupt:
        conclusion.interrupted = True
    except AutotuneError as error:
        conclusion.failure = error
    if conclusion.manifest is not None:
        for note in conclusion.manifest.notes:
            watcher.note(note)
    return conclusion


def _decode_and_ship(
    conclusion: Conclusion,
    bench: Workbench,
    found: SearchResult,
    folder: RunFolder,
    versions: Mapping[str, str],
    watcher: Observer,
) -> None:
    """The finalists decode; the fastest ships, its kernels tuned if that was asked for."""
    config = bench.request.config
    finalists = choose_finalists(found.front, config.validate_top)
    validation = conclusion.validation = validate(bench, finalists, folder.work, watcher)
    winner = validation.winner
    if winner:
        _schedule(conclusion, bench, partial(_finished, bench, winner[0]), folder, watcher)
    elif max(config.batch) > 1:
        watcher.note("batches are not measured: no draft decoded faster than the target alone")
    if winner and config.tune_kernels and not conclusion.interrupted:
        try:
            finalist, conclusion.tuning = tune_winner(bench, *winner, folder.work / "tuned", watcher)
            winner = finalist, winner[1]
        except KeyboardInterrupt:  # the winner is at hand: it ships as it was validated
            conclusion.interrupted = True
    watcher.phase("Writing the artifact")
    conclusion.manifest = ship(bench, winner, folder.artifact, versions, conclusion.tuning, conclusion.schedule)


def _finish_and_ship(
    conclusion: Conclusion,
    bench: Workbench,
    found: SearchResult,
    folder: RunFolder,
    versions: Mapping[str, str],
    watcher: Observer,
) -> None:
    """The best predictions are finished and predicted anew; the fastest ships unless the target alone is faster."""
    records = choose_finalists(found.front, bench.request.config.validate_top)
    drafts = finish_drafts(bench, records, watcher)
    watcher.phase("Compiling the finished drafts")
    finalists = make_finalists(bench, bench.evaluator, records, drafts, folder.work, watcher)
    best = max(finalists, key=lambda each: each.score.tokens_per_s.value)
    conclusion.ready = best.record, best.score
    _schedule(conclusion, bench, partial(_finished, bench, best), folder, watcher)
    watcher.phase("Writing the artifact")
    pays = best.score.speedup.value > 1.0
    finalist, schedule = (best, conclusion.schedule) if pays else (None, None)
    conclusion.manifest = ship_unvalidated(bench, finalist, folder.artifact, versions, schedule)


def _plan_and_ship(
    conclusion: Conclusion,
    bench: Workbench,
    found: SearchResult,
    folder: RunFolder,
    versions: Mapping[str, str],
    watcher: Observer,
) -> None:
    """The plan of the fastest candidate, even where it would not pay: its TAR is unknown, and the plan says so."""
    record, score = max(found.front, key=lambda point: point[1].tokens_per_s.value)
    _schedule(conclusion, bench, partial(_planned, bench, record), folder, watcher)
    watcher.phase("Writing the plan")
    conclusion.manifest = ship_plan(bench, (record, score), folder.artifact, versions, conclusion.schedule)


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


def _schedule(
    conclusion: Conclusion,
    bench: Workbench,
    draft: Callable[[], ScheduledDraft],
    folder: RunFolder,
    watcher: Observer,
) -> None:
    """Make the draft's schedule, if more than one sequence at once was asked for; the draft ships without one too."""
    if max(bench.request.config.batch) == 1:
        return
    try:
        conclusion.schedule = make_schedule(bench, draft(), folder.work / "batches", watcher)
    except KeyboardInterrupt:
        conclusion.interrupted = True
    except AutotuneError as error:
        watcher.note(f"no lookahead is scheduled by batch size: {error}")
