"""What a run needs before the first trial: the target's side of a round, drafts, and where acceptance comes from."""

from dataclasses import dataclass, replace
from pathlib import Path

from autotune.acceptance_source import AcceptanceSource, ScoredOnTraces, StandInAcceptance
from autotune.compile.sandbox import Limits
from autotune.config import TuneConfig
from autotune.database.known import TuningDatabase
from autotune.evaluate import DraftWeights, Evaluator, RandomDrafts, WorkerLimits
from autotune.memory import worker_bytes
from autotune.objective_request import category_notes
from autotune.progress import Observer
from autotune.request import Request
from autotune.results import RunKind, TargetLatency
from autotune.search_space.constraints import Constraints
from autotune.slices import MEMORY_PER_WEIGHT
from autotune.stand_in import prepare_stand_in, stand_in_family
from autotune.store import RunFolder
from autotune.target_side import TargetSide, draft_measuring, prepare_target
from autotune.text import Text, prepare_text
from autotune.trace_levels import ScoringLevels, scoring_levels


@dataclass(frozen=True)
class Workbench:
    """A request with everything measured and trained that its trials have in common."""

    request: Request
    side: TargetSide
    evaluator: Evaluator
    """Scores on all estimation traces."""
    text: Text | None
    """None of a plan."""
    stand_in: StandInAcceptance | None = None
    """Of a plan alone."""
    levels: ScoringLevels | None = None
    """Parts of the estimation traces that builds are scored on in turn; None: the search scores on all of them."""

    @property
    def searching(self) -> Evaluator:
        """What the search evaluates builds with: it scores on the first level."""
        if self.levels is None:
            return self.evaluator
        return replace(self.evaluator, acceptances=self.levels.part(0, self.levels.sizes[0]))

    @property
    def latency(self) -> TargetLatency:
        """The target's side of a round."""
        return self.side.latency

    @property
    def program(self) -> Path:
        """The target's compiled program, in a whole run."""
        assert self.side.program is not None
        return self.side.program

    @property
    def own_text(self) -> Text:
        """The target's text, in a run that has it."""
        assert self.text is not None
        return self.text

    @property
    def threads(self) -> int:
        """Threads of every program of this run."""
        return self.evaluator.measuring.threads


def prepare(request: Request, folder: RunFolder, observer: Observer) -> Workbench:
    """The workbench of a request; a resumed run goes on with the target's latencies it began with."""
    limits = worker_limits(request.config)
    database = TuningDatabase() if request.config.database else None
    family = stand_in_family(request.config) if request.kind is RunKind.PLAN else None  # refused before it takes time
    side = prepare_target(request, folder, limits, database, observer)
    request = replace(request, target_backends=(side.backend,))
    measuring = draft_measuring(request, side.latency)
    text, stand_in, levels = None, None, None
    drafts: DraftWeights
    acceptances: AcceptanceSource
    if family is not None:
        acceptances = stand_in = prepare_stand_in(request, family, database, observer)
        drafts = RandomDrafts(request.source.numerics)
    else:
        text = prepare_text(request, side.program, measuring.threads, observer)
        for line in category_notes(request.objective, text.traces):
            observer.note(line)
        scored = ScoredOnTraces(text.traces.estimate, request.space.max_lookahead, measuring.threads, database)
        acceptances, levels = scored, scoring_levels(scored, request.config.seed) if request.config.refine else None
        drafts = text.estimator
    evaluator = Evaluator(
        drafts=drafts,
        acceptances=acceptances,
        target=side.latency,
        constraints=_constraints(request, limits),
        lookaheads=request.space.lookahead.values,
        measuring=measuring,
        sampling=request.config.sampling,
        limits=limits,
        device=request.device.kind,
        work=folder.work,
        database=database,
        objective=request.objective,
    )
    return Workbench(request, side, evaluator, text, stand_in, levels)


def worker_limits(config: TuneConfig) -> WorkerLimits:
    """Limits of sandboxed builds and measurements."""
    memory = config.worker_memory or worker_bytes()
    return WorkerLimits(Limits(config.build_timeout, memory), Limits(config.run_timeout, memory))


def _constraints(request: Request, limits: WorkerLimits) -> Constraints:
    config = request.config
    return Constraints(
        context_tokens=request.context_tokens,
        max_memory_bytes=config.max_memory,
        max_parameters=config.max_parameters,
        max_round_s=config.max_latency,
        worker_bytes=limits.run.memory_bytes if request.device.kind == "cpu" else request.device.memory_bytes,
        memory_per_weight=MEMORY_PER_WEIGHT if request.device.kind == "cpu" else {},
    )
