"""Evaluate one build: prune, estimate acceptance, compile and measure; a failure is a result like any other."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.acceptance import count_acceptance
from autotune.candidate import Build, Candidate
from autotune.compile.base import CompileSettings
from autotune.compile.build_job import BuildRequest, build_sandboxed
from autotune.compile.sandbox import Limits
from autotune.devices import device_lock
from autotune.measure import BurstRequest, measure_bursts_sandboxed
from autotune.proxy.base import Estimator
from autotune.proxy.score_traces import NotANumber, acceptance_of
from autotune.quantization import dequantised
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
from autotune.score import score_lookahead
from autotune.search_space.constraints import Constraints, violated
from autotune.traces import Traces
from autotune.weights import ModelWeights
from autotune.weights_io import save_weights

Screen = Callable[[Build, Acceptance, Sequence[int]], Screened | None]
"""Says of a build, from its acceptance at these lookaheads, why it need not be compiled; None: compile it."""


@dataclass(frozen=True)
class WorkerLimits:
    """What a build and a measurement may take before they are killed."""

    build: Limits
    run: Limits


@dataclass(frozen=True)
class Evaluator:
    """Scores builds; everything they have in common is prepared once and held here."""

    estimator: Estimator
    traces: Traces
    """The estimation split."""
    target: TargetLatency
    constraints: Constraints
    lookaheads: tuple[int, ...]
    measuring: MeasureSettings
    limits: WorkerLimits
    device: str
    work: Path
    """A scratch folder; emptied after every build."""

    def evaluate(self, build: Build, screen: Screen | None = None) -> Outcome:
        """The build's scores for every lookahead within the constraints, or why there are none.

        `screen` is asked after the build's acceptance is known and before it is compiled.
        """
        allowed = [k for k in self.lookaheads if not self._violated_before(build, k)]
        if not allowed:
            broken = self._violated_before(build, self.lookaheads[0])
            return Rejected(RejectReason.CONSTRAINT, f"over the limit of {' and '.join(broken)}")
        folder = self.work / build.key()
        try:
            return self._evaluate(build, self.estimator.weights(build.shape), allowed, folder, screen)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def acceptance(self, build: Build, weights: ModelWeights) -> Acceptance | Rejected:
        """Estimated acceptance of a draft's weights, as its precision stores them, for every lookahead."""
        try:
            ratios = acceptance_of(dequantised(weights, build.precision), self.traces, threads=self.measuring.threads)
        except NotANumber as error:
            return Rejected(RejectReason.NOT_A_NUMBER, str(error))
        return count_acceptance(ratios, max(self.lookaheads))

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
            request, self.limits.build, threads=self.measuring.threads, lock=device_lock(self.device)
        )

    def measure(self, built: Built) -> LatencyTable | Rejected:
        """Burst latencies of a compiled program, measured by a sandboxed worker."""
        request = BurstRequest(built.program, max(self.lookaheads), self.measuring, self.traces.settings)
        return measure_bursts_sandboxed(request, self.limits.run, device_lock(self.device))

    def scores(self, acceptance: Acceptance, burst: LatencyTable, lookaheads: list[int]) -> list[Score]:
        """Scores of the lookaheads whose rounds keep the latency limit."""
        scores = [score_lookahead(acceptance, burst, self.target, k) for k in lookaheads]
        return [score for score in scores if not violated(self.constraints.after_measuring(score.round_s.value))]

    def _evaluate(
        self, build: Build, weights: ModelWeights, allowed: list[int], folder: Path, screen: Screen | None
    ) -> Outcome:
        acceptance = self.acceptance(build, weights)
        if isinstance(acceptance, Rejected):
            return acceptance
        # Where the build's latencies are known already, they belong here: no prediction is better than a measurement.
        screened = screen(build, acceptance, allowed) if screen else None
        if screened is not None:
            return screened
        built = self.compile(build, weights, folder)
        if isinstance(built, Rejected):
            return built
        burst = self.measure(built)
        if isinstance(burst, Rejected):
            return burst
        scores = self.scores(acceptance, burst, allowed)
        if not scores:
            return Rejected(RejectReason.CONSTRAINT, "over the limit of round latency at every lookahead")
        return Measured(acceptance, burst, built.build_s, tuple(scores))

    def _violated_before(self, build: Build, lookahead: int) -> list[str]:
        return violated(self.constraints.before_build(Candidate(build, lookahead)))


def timed(evaluator: Evaluator, build: Build, screen: Screen | None = None) -> tuple[Outcome, float]:
    """The outcome of an evaluation and the wall seconds it took."""
    began = time.perf_counter()
    outcome = evaluator.evaluate(build, screen)
    return outcome, time.perf_counter() - began
