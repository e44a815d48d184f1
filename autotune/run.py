"""The main job: `tune(config)` searches, validates, ships and reports."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from autotune.config import TuneConfig
from autotune.errors import AutotuneError, Interrupted
from autotune.prepare import Request, Workbench, prepare, resolve
from autotune.progress import LoggingObserver, Observer
from autotune.provenance import command_words, package_versions
from autotune.reports.report import write_report
from autotune.reports.summarise import summarise
from autotune.reports.summary import RunFacts, RunSummary
from autotune.results import KernelTuning
from autotune.score import score_target_alone
from autotune.screening import Screener
from autotune.ship import ship
from autotune.store import RunFolder
from autotune.tune_kernels import tune_winner
from autotune.tuner import Budget, Search, SearchResult
from autotune.validate import Validation, choose_finalists, validate


@dataclass(frozen=True)
class TuneResult:
    """What a run left behind."""

    summary: RunSummary
    folder: Path
    report: Path
    artifact: Path | None
    """None if the run was interrupted or nothing was feasible."""
    feasible: bool
    """Whether at least one draft could be scored within the constraints."""


def tune(config: TuneConfig, observer: Observer | None = None) -> TuneResult:
    """Run the search that `config` describes; blocks until it is done or its budget is spent.

    Raises BadRequest before anything is written if the request is impossible, and Interrupted, after the report was
    written (unless there is nothing to report yet), if the user stopped it (KeyboardInterrupt).
    """
    began_s = time.monotonic()
    watcher = observer or LoggingObserver()
    request = resolve(config)
    with RunFolder.open(config.out, request.identity(), resume=config.resume) as folder:
        try:
            bench = prepare(request, folder, watcher)
        except KeyboardInterrupt:
            raise Interrupted("stopped before the first trial; --resume continues the run") from None
        watcher.phase(f"Searching {request.space.size} drafts")
        screener = Screener(bench.latency, bench.evaluator.constraints) if config.screen else None
        search = Search(request.space, bench.evaluator, folder, watcher, config.seed, screener)
        found = search.run(Budget(config.trials, config.time_budget))
        validation, failure = None, None
        interrupted = found.interrupted
        if found.front and not interrupted:
            try:
                finalists = choose_finalists(found.front, config.validate_top)
                validation = validate(bench, finalists, folder.work, watcher)
            except KeyboardInterrupt:
                interrupted = True
            except AutotuneError as error:  # what was searched is reported all the same
                failure = error
        winner, tuning = validation.winner if validation else None, None
        if winner and config.tune_kernels:
            try:
                finalist, tuning = tune_winner(bench, *winner, folder.work / "tuned", watcher)
                winner = finalist, winner[1]
            except KeyboardInterrupt:  # the winner is at hand: it ships as it was validated
                interrupted = True
        if validation:
            watcher.phase("Writing the artifact")
            for note in ship(bench, winner, folder.artifact, package_versions(), tuning).notes:
                watcher.note(note)
        wall_s = time.monotonic() - began_s
        facts = _facts(request, bench, found, validation, tuning, wall_s, interrupted=interrupted)
        watcher.phase("Writing the report")
        write_report(facts, folder.report)
        shutil.rmtree(folder.work, ignore_errors=True)
    if failure:
        raise failure
    if interrupted:
        raise Interrupted(f"stopped; the report is in {folder.report}, and --resume continues the run")
    return TuneResult(
        summary=summarise(facts),
        folder=folder.path,
        report=folder.report,
        artifact=folder.artifact if validation else None,
        feasible=bool(found.front),
    )


def _facts(
    request: Request,
    bench: Workbench,
    found: SearchResult,
    validation: Validation | None,
    tuning: KernelTuning | None,
    wall_s: float,
    *,
    interrupted: bool,
) -> RunFacts:
    winner = validation.winner if validation else None
    return RunFacts(
        target=request.target.id,
        source=request.source.id,
        device=request.device.fingerprint,
        latency=bench.latency,
        baseline=validation.baseline if validation else score_target_alone(bench.latency).tokens_per_s,
        records=found.records,
        front=found.front,
        validated=[entry for _, entry in validation.entries] if validation else [],
        chosen=winner[1] if winner else None,
        wall_s=wall_s,
        seed=request.config.seed,
        command=command_words(),
        versions=package_versions(),
        looping_share=bench.traces.estimate.looping_share,
        interrupted=interrupted,
        target_precision=request.target_precision,
        kernel_tuning=tuning,
    )
