"""Evaluate one build: prune, estimate acceptance, compile and measure; a failure is a result like any other.

What the tuning database knows is neither estimated nor measured again.  Failures are not kept in it: most depend on the
moment (a timeout, a lack of memory), and the rest are cheap to find again and may be mended by what no key can name.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from autotune.acceptance_source import AcceptanceSource
from autotune.candidate import Build, Candidate, DraftShape
from autotune.compile.base import CompileSettings
from autotune.compile.build_job import BuildRequest, build_sandboxed
from autotune.compile.sandbox import Limits
from autotune.database.entries import KnownBurst
from autotune.database.known import Known, TuningDatabase, fresh
from autotune.database.subjects import BurstSubject, latency_versions
from autotune.devices import device_lock, find_device
from autotune.measure import BurstRequest, measure_bursts_sandboxed
from autotune.objective import MEAN, Objective
from autotune.results import (
    Acceptance,
    Built,
    LatencyTable,
    Measured,
    MeasureSettings,
    Outcome,
    Rejected,
    RejectReason,
    Score,
    Screened,
    TargetLatency,
)
from autotune.sampling import SamplingSettings
from autotune.score import score_lookahead
from autotune.search_space.constraints import WORKER_MEMORY, Constraints, violated
from autotune.weights import ModelWeights, Numerics, random_weights
from autotune.weights_io import save_weights

Screen = Callable[[Build, Acceptance, Sequence[int]], Screened | None]
"""Says of a build, from its acceptance at these lookaheads, why it need not be compiled; None: compile it."""


class DraftWeights(Protocol):
    """Gives weights to any draft shape of the search."""

    def weights(self, shape: DraftShape) -> ModelWeights:
        """The weights of a draft of this shape, its head trimmed as the shape says."""


@dataclass(frozen=True)
class RandomDrafts:
    """Random weights: enough to measure with, where there are none to prune."""

    numerics: Numerics

    def weights(self, shape: DraftShape) -> ModelWeights:
        """Random weights of the shape; they take next to no memory."""
        return random_weights(shape, self.numerics)


@dataclass(frozen=True)
class WorkerLimits:
    """What a build and a measurement may take before they are killed."""

    build: Limits
    run: Limits


@dataclass(frozen=True)
class Evaluator:
    """Scores builds; everything they have in common is prepared once and held here."""

    drafts: DraftWeights
    """What is compiled and measured."""
    acceptances: AcceptanceSource
    target: TargetLatency
    constraints: Constraints
    lookaheads: tuple[int, ...]
    measuring: MeasureSettings
    sampling: SamplingSettings
    """The workload's."""
    limits: WorkerLimits
    device: str
    work: Path
    """A scratch folder; emptied after every build."""
    database: TuningDatabase | None = None
    """What earlier runs found out; None: everything is estimated and measured anew, and nothing is kept."""
    objective: Objective = MEAN
    """By which the workload's categories count in scores."""

    def evaluate(self, build: Build, screen: Screen | None = None) -> Outcome:
        """The build's scores for every lookahead within the constraints, or why there are none.

        `screen` is asked after the build's acceptance is known and before it is compiled.
        """
        allowed = [k for k in self.lookaheads if not self._violated_before(build, k)]
        if not allowed:
            return Rejected(RejectReason.CONSTRAINT, self._why_violated(build))
        folder = self.work / build.key()
        try:
            return self._evaluate(build, self.drafts.weights(build.shape), allowed, folder, screen)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def acceptance(self, build: Build, weights: ModelWeights) -> Acceptance | Rejected:
        """Estimated acceptance of a draft's weights, as its precision stores them, for every lookahead."""
        known = self.acceptances.acceptance(build, weights)
        return known if isinstance(known, Rejected) else known.value

    def compile(self, build: Build, weights: ModelWeights, folder: Path) -> Built | Rejected:
        """The program of these weights, compiled into `folder/program` by a sandboxed worker."""
        save_weights(weights, folder / "weights")
        request = BuildRequest(
            weights_folder=str(folder / "weights"),
            backend=build.backend,
            settings=CompileSettings(
                precision=build.precision,
                capacity_tokens=self.constraints.context_tokens,
                device=self.device,
                longest_burst=max(self.lookaheads),
            ),
            program_folder=str(folder / "program"),
        )
        return build_sandboxed(
            request,
            self.limits.build.for_weights(build.shape.weight_bytes(build.precision)),
            threads=self.measuring.threads,
            lock=device_lock(self.device),
        )

    def measure(self, built: Built) -> LatencyTable | Rejected:
        """Burst latencies of a compiled program, measured by a sandboxed worker."""
        request = BurstRequest(built.program, max(self.lookaheads), self.measuring, self.sampling)
        limits = self.limits.run.for_weights(built.weight_bytes)
        return measure_bursts_sandboxed(request, limits, device_lock(self.device))

    def scores(self, acceptance: Acceptance, burst: LatencyTable, lookaheads: list[int]) -> list[Score]:
        """Scores of the lookaheads whose rounds keep the latency limit."""
        scores = [score_lookahead(acceptance, burst, self.target, k, self.objective) for k in lookaheads]
        return [score for score in scores if not violated(self.constraints.after_measuring(score.round_s.value))]

    def _evaluate(
        self, build: Build, weights: ModelWeights, allowed: list[int], folder: Path, screen: Screen | None
    ) -> Outcome:
        began_s = time.perf_counter()
        acceptance = self.acceptances.acceptance(build, weights)
        if isinstance(acceptance, Rejected):
            return acceptance
        estimated_s = time.perf_counter()

        def screened() -> Screened | None:
            return screen(build, acceptance.value, allowed) if screen else None

        latency = self._latency(build, weights, folder, screened)
        if isinstance(latency, Rejected | Screened):
            return latency
        measured_s = time.perf_counter()
        built, burst = latency.value.built, latency.value.burst
        scores = self.scores(acceptance.value, burst, allowed)
        if not scores:
            return Rejected(RejectReason.CONSTRAINT, "over the limit of round latency at every lookahead")
        return Measured(
            acceptance=acceptance.value,
            burst=burst,
            build_s=built.build_s,
            scores=tuple(scores),
            acceptance_s=estimated_s - began_s,
            latency_s=measured_s - estimated_s,
            acceptance_date=acceptance.date,
            latency_date=latency.date,
        )

    def _latency(
        self, build: Build, weights: ModelWeights, folder: Path, screened: Callable[[], Screened | None]
    ) -> Known[KnownBurst] | Rejected | Screened:
        """The build's latencies from the database, or compiled and measured now, unless it is screened out.

        What is known is never screened: no prediction is better than a measurement.
        """

        def compile_and_measure() -> KnownBurst | Rejected | Screened:
            verdict = screened()
            if verdict is not None:
                return verdict
            built = self.compile(build, weights, folder)
            if isinstance(built, Rejected):
                return built
            burst = self.measure(built)
            if isinstance(burst, Rejected):
                return burst
            return KnownBurst(replace(built, program=""), burst)

        if self.database is None:
            return fresh(compile_and_measure())
        subject = BurstSubject(
            shape=weights.shape,
            numerics=weights.numerics,
            backend=build.backend,
            precision=build.precision,
            device=self._fingerprint,
            capacity_tokens=self.constraints.context_tokens,
            max_lookahead=max(self.lookaheads),
            measuring=self.measuring,
            sampling=self.sampling,
            versions=latency_versions(build.backend),
        )
        return self.database.recall(subject, KnownBurst, compile_and_measure)

    @cached_property
    def _fingerprint(self) -> str:
        return find_device(self.device).fingerprint

    def _violated_before(self, build: Build, lookahead: int) -> list[str]:
        return violated(self.constraints.before_build(Candidate(build, lookahead)))

    def _why_violated(self, build: Build) -> str:
        """The limits that the build breaks even at its shortest lookahead, in words."""
        broken = self._violated_before(build, self.lookaheads[0])
        words = f"over the limit of {' and '.join(broken)}"
        if WORKER_MEMORY in broken and self.constraints.worker_bytes is not None:
            needed, given = self.constraints.program_bytes(build) / 2**30, self.constraints.worker_bytes / 2**30
            words += f": its program needs about {needed:.1f} GiB and may take {given:.1f} GiB (see --worker-memory)"
        return words


def timed(evaluator: Evaluator, build: Build, screen: Screen | None = None) -> tuple[Outcome, float]:
    """The outcome of an evaluation and the wall seconds it took."""
    began = time.perf_counter()
    outcome = evaluator.evaluate(build, screen)
    return outcome, time.perf_counter() - began
