"""The main job: `tune(config)` searches, validates, ships and reports."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from autotune.banner import banner_lines
from autotune.conclude import Conclusion, conclude
from autotune.config import TuneConfig
from autotune.errors import Interrupted
from autotune.progress import LoggingObserver, Observer
from autotune.provenance import command_words, package_versions
from autotune.published import PUBLISHED
from autotune.refine import account, refine
from autotune.reports.facts import RunFacts
from autotune.reports.report import write_report
from autotune.reports.summarise import summarise
from autotune.reports.summary import RunSummary
from autotune.request import resolve
from autotune.results import RunKind
from autotune.saved_run import save_facts
from autotune.score import score_target_alone
from autotune.screening import Screener
from autotune.store import RunFolder
from autotune.tuner import Budget, Search, SearchResult
from autotune.workbench import Workbench, prepare

_KIND_WORDS = {
    RunKind.WHOLE: "Whole run, decoding included",
    RunKind.SERVED: "Run without decoding",
    RunKind.PLAN: "Plan",
}


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
        watcher.phase(f"{_KIND_WORDS[request.kind]}: {request.cast.why}")
        for line in banner_lines(request):
            watcher.note(line)
        try:
            bench = prepare(request, folder, watcher)
        except KeyboardInterrupt:
            raise Interrupted("stopped before the first trial; --resume continues the run") from None
        if not folder.facts_file.exists():  # of a run that ended they stay until it has ended again
            save_facts(folder, _facts(bench, SearchResult([], interrupted=True), Conclusion(interrupted=True), 0.0))
        watcher.phase(f"Searching {request.space.size} drafts")
        screener = _screener(bench) if config.screen else None
        search = Search(request.space, bench.searching, folder, watcher, config.seed, screener, config.sampler)
        found = search.run(Budget(config.trials, config.time_budget))
        if bench.levels:
            found = refine(found, bench.evaluator, bench.levels, config.validate_top, folder, watcher)
        conclusion = conclude(bench, found, folder, package_versions(), watcher)
        facts = _facts(bench, found, conclusion, time.monotonic() - began_s)
        watcher.phase("Writing the report")
        save_facts(folder, facts)
        write_report(facts, folder.report)
        shutil.rmtree(folder.work, ignore_errors=True)
    if conclusion.failure:
        raise conclusion.failure
    if conclusion.interrupted:
        raise Interrupted(f"stopped; the report is in {folder.report}, and --resume continues the run")
    return TuneResult(
        summary=summarise(facts),
        folder=folder.path,
        report=folder.report,
        artifact=folder.artifact if conclusion.manifest else None,
        feasible=bool(found.front),
    )


def _facts(bench: Workbench, found: SearchResult, conclusion: Conclusion, wall_s: float) -> RunFacts:
    request, validation = bench.request, conclusion.validation
    winner = validation.shipping if validation else None
    return RunFacts(
        target=request.target.id,
        source=request.source.id,
        device=request.device.fingerprint,
        planned_trials=request.config.trials,
        latency=bench.latency,
        baseline=validation.baseline if validation else score_target_alone(bench.latency).tokens_per_s,
        records=found.records,
        front=found.front,
        validated=[entry for _, entry in validation.entries] if validation else [],
        chosen=winner[1] if winner else None,
        lookups=conclusion.lookups,
        chosen_lookup=conclusion.lookup,
        lookup_first=validation.lookup_first if validation else None,
        chosen_first=conclusion.first,
        wall_s=wall_s,
        seed=request.config.seed,
        command=command_words(),
        versions=package_versions(),
        looping_share=bench.text.traces.estimate.looping_share if bench.text else None,
        interrupted=conclusion.interrupted,
        target_precision=request.target_precision,
        kernel_tuning=conclusion.tuning,
        adaptive=conclusion.adaptive,
        kind=request.kind,
        banner=[*banner_lines(request), *(bench.text.cautions if bench.text else ())],
        ready=conclusion.ready,
        target_shape=request.target.shape,
        context_tokens=request.context_tokens,
        latency_source=bench.latency.source or "measured on this device with the target's own program",
        measuring=bench.evaluator.measuring,
        stand_in=_stand_in_shapes(bench, found),
        batches=list(zip(conclusion.schedule.entries, conclusion.schedule.memory, strict=True))
        if conclusion.schedule
        else (),
        published=PUBLISHED if request.kind is RunKind.PLAN else (),
        objective=request.objective,
        by_category=conclusion.by_category,
        refinement=account(found.records, bench.levels) if bench.levels else None,
    )


def _screener(bench: Workbench) -> Screener:
    """What judges builds before they are compiled."""
    return Screener(bench.latency, bench.evaluator.constraints, bench.request.objective)


def _stand_in_shapes(bench: Workbench, found: SearchResult) -> dict[str, str]:
    """Of every shape on the front, the shape whose acceptance stands in for its own."""
    if bench.stand_in is None:
        return {}
    return {str(record.build.shape): str(bench.stand_in.shape(record.build.shape)) for record, _ in found.front}
