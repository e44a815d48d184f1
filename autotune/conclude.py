"""How a search ends, by the kind of run: a contest and a pair, a draft that nobody decoded yet, or a plan."""

from collections.abc import Mapping
from dataclasses import dataclass

from autotune.artifact import Manifest
from autotune.errors import AutotuneError
from autotune.finalists import choose_finalists, finish_drafts, make_finalists
from autotune.progress import Observer
from autotune.results import KernelTuning, RunKind, Score, TrialRecord
from autotune.ship import Schedule, ship, ship_plan, ship_unvalidated
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
    """(smallest batch, largest batch, k) by batch size; None: only single sequences were decoded or measured."""
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
    if winner and config.tune_kernels:
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
    watcher.phase("Writing the artifact")
    pays = best.score.speedup.value > 1.0
    conclusion.manifest = ship_unvalidated(bench, best if pays else None, folder.artifact, versions)


def _plan_and_ship(
    conclusion: Conclusion,
    bench: Workbench,
    found: SearchResult,
    folder: RunFolder,
    versions: Mapping[str, str],
    watcher: Observer,
) -> None:
    """The plan of the fastest candidate, even where it would not pay: its TAR is unknown, and the plan says so."""
    chosen = max(found.front, key=lambda point: point[1].tokens_per_s.value)
    watcher.phase("Writing the plan")
    conclusion.manifest = ship_plan(bench, chosen, folder.artifact, versions)
