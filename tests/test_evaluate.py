"""One build's evaluation with the real proxy, compiler and sandbox on a tiny model, and every way it can fail."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.candidate import Build, DraftShape, Precision
from autotune.compile.base import load_backend
from autotune.compile.sandbox import Limits
from autotune.evaluate import Evaluator, WorkerLimits
from autotune.results import Acceptance, Measured, MeasureSettings, Rejected, RejectReason
from autotune.sampling import SamplingSettings
from autotune.search_space.constraints import Constraints
from autotune.traces import Trace, Traces
from autotune.weights import ModelWeights
from tests.support.figures import SHAPE, screened, target_latency
from tests.support.models import NUMERICS, tiny_weights

FP32 = Build(SHAPE, "onnxruntime", Precision.FP32)
MEGABYTE = 1 << 20


class FixedEstimator:
    name = "fixed"

    def __init__(self, poison: float | None = None) -> None:
        self._poison = poison

    def weights(self, shape: DraftShape) -> ModelWeights:
        weights = tiny_weights(shape)
        if self._poison is None:
            return weights
        head = weights.arrays["head"].copy()
        head[3, 5] = self._poison
        return replace(weights, arrays={**weights.arrays, "head": head})


def traces() -> Traces:
    rng = np.random.default_rng(0)

    def tokens(count: int) -> np.ndarray:
        return rng.integers(SHAPE.vocab, size=count).astype(np.int32)

    items = [
        Trace(
            tokens(6), tokens(10), np.zeros(10, np.float32), np.concatenate([[-1], tokens(15)]).astype(np.int32), "text"
        )
        for _ in range(3)
    ]
    return Traces(tuple(items), SamplingSettings(), "target", "tokenizer", 0)


@pytest.fixture
def evaluator(tmp_path: Path) -> Evaluator:
    return Evaluator(
        estimator=FixedEstimator(),
        traces=traces(),
        target=target_latency(),
        constraints=Constraints(context_tokens=NUMERICS.context_tokens),
        lookaheads=(1, 2, 4),
        measuring=MeasureSettings(context_tokens=32, threads=1, min_time_s=0.02, min_samples=3, evict_bytes=4096),
        limits=WorkerLimits(Limits(60.0), Limits(60.0)),
        device="cpu",
        work=tmp_path / "work",
    )


@pytest.mark.parametrize("precision", sorted(load_backend("onnxruntime").precisions("cpu")))
def test_a_build_is_scored_for_every_lookahead_and_leaves_nothing_behind(
    evaluator: Evaluator, precision: Precision
) -> None:
    outcome = evaluator.evaluate(replace(FP32, precision=precision))
    assert isinstance(outcome, Measured), outcome
    assert [score.lookahead for score in outcome.scores] == [1, 2, 4]
    assert outcome.burst.largest == 4
    assert 0 < outcome.burst.seconds(1) < outcome.burst.seconds(4)
    assert outcome.acceptance.tokens == (10, 10, 10)
    assert not list(evaluator.work.iterdir())


def rejected(evaluator: Evaluator, build: Build = FP32) -> Rejected:
    outcome = evaluator.evaluate(build)
    assert isinstance(outcome, Rejected)
    assert not evaluator.work.exists() or not list(evaluator.work.iterdir())
    return outcome


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_logits_that_are_no_numbers_reject_the_build(evaluator: Evaluator, poison: float) -> None:
    outcome = rejected(replace(evaluator, estimator=FixedEstimator(poison)))
    assert outcome.reason is RejectReason.NOT_A_NUMBER


def test_a_compiler_that_takes_too_long_is_killed(evaluator: Evaluator) -> None:
    outcome = rejected(replace(evaluator, limits=WorkerLimits(Limits(0.01), Limits(60.0))))
    assert outcome.reason is RejectReason.BUILD_TIMEOUT


def test_a_program_that_runs_too_long_is_killed(evaluator: Evaluator) -> None:
    outcome = rejected(replace(evaluator, limits=WorkerLimits(Limits(60.0), Limits(0.01))))
    assert outcome.reason is RejectReason.RUN_TIMEOUT


def test_a_program_that_takes_too_much_memory_is_killed(evaluator: Evaluator) -> None:
    slow = replace(evaluator.measuring, min_time_s=30.0)
    limits = WorkerLimits(Limits(60.0), Limits(60.0, memory_bytes=20 * MEGABYTE))
    outcome = rejected(replace(evaluator, measuring=slow, limits=limits))
    assert outcome.reason is RejectReason.OUT_OF_MEMORY


def test_a_compile_error_is_kept_with_its_traceback(evaluator: Evaluator) -> None:
    outcome = rejected(evaluator, replace(FP32, backend="missing"))
    assert outcome.reason is RejectReason.BUILD_ERROR
    assert "unknown backend 'missing'" in outcome.detail
    assert "Traceback" in outcome.stderr


def test_limits_are_checked_before_anything_is_built(evaluator: Evaluator) -> None:
    limits = replace(evaluator.constraints, max_parameters=10, max_memory_bytes=10)
    outcome = rejected(replace(evaluator, constraints=limits, limits=WorkerLimits(Limits(0.0), Limits(0.0))))
    assert outcome == Rejected(RejectReason.CONSTRAINT, "over the limit of memory and parameters")


def test_lookaheads_over_the_latency_limit_have_no_score(evaluator: Evaluator) -> None:
    limited = replace(evaluator, constraints=replace(evaluator.constraints, max_round_s=0.0129))
    outcome = limited.evaluate(FP32)
    assert isinstance(outcome, Measured)
    assert [score.lookahead for score in outcome.scores] == [1, 2]
    limited = replace(evaluator, constraints=replace(evaluator.constraints, max_round_s=0.001))
    assert rejected(limited).reason is RejectReason.CONSTRAINT


def test_a_screened_build_is_not_compiled(evaluator: Evaluator) -> None:
    asked: list[tuple[Build, Acceptance, list[int]]] = []
    unable = replace(evaluator, limits=WorkerLimits(Limits(0.0), Limits(0.0)))
    outcome = unable.evaluate(FP32, lambda *about: asked.append(about) or screened())  # type: ignore[func-returns-value]
    assert outcome == screened()
    ((build, acceptance, lookaheads),) = asked
    assert (build, lookaheads) == (FP32, [1, 2, 4])
    assert acceptance.tokens == (10, 10, 10)


def test_a_build_that_is_not_screened_is_compiled(evaluator: Evaluator) -> None:
    assert isinstance(evaluator.evaluate(FP32, lambda *about: None), Measured)
