"""One build's evaluation with the real proxy, compiler and sandbox on a tiny model, and every way it can fail."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune import evaluate
from autotune.acceptance_source import ScoredOnTraces
from autotune.candidate import Build, DraftShape, Precision
from autotune.compile.base import load_backend
from autotune.compile.sandbox import Limits
from autotune.database.file import DatabaseFile
from autotune.database.known import Known, TuningDatabase
from autotune.devices import find_device
from autotune.evaluate import Evaluator, RandomDrafts, WorkerLimits
from autotune.objective import WORST, only
from autotune.results import Acceptance, Built, Evidence, Measured, MeasureSettings, Rejected, RejectReason
from autotune.sampling import SamplingSettings
from autotune.search_space.constraints import Constraints
from autotune.traces import Trace, Traces
from autotune.weights import ModelWeights
from tests.support.figures import SHAPE, acceptance_by_category, constant_acceptance, latency, screened, target_latency
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
        drafts=FixedEstimator(),
        acceptances=ScoredOnTraces(traces(), max_lookahead=4, threads=1),
        sampling=SamplingSettings(),
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


def test_scores_are_by_the_objective_and_know_the_categories(evaluator: Evaluator) -> None:
    acceptance = acceptance_by_category(code=0.8, chat=0.2)
    burst = latency(0.001, 0.002, 0.003, 0.004)
    for objective, kept in ((WORST, 0.2), (only("code"), 0.8)):
        scores = replace(evaluator, objective=objective).scores(acceptance, burst, [1, 2])
        assert [score.tokens_per_round.value for score in scores] == pytest.approx([1 + kept, 1 + 2 * kept])
    pooled = evaluator.scores(acceptance, burst, [1])[0].tokens_per_round.value
    assert pooled == pytest.approx(acceptance.tokens_per_round(1))


def rejected(evaluator: Evaluator, build: Build = FP32) -> Rejected:
    outcome = evaluator.evaluate(build)
    assert isinstance(outcome, Rejected)
    assert not evaluator.work.exists() or not list(evaluator.work.iterdir())
    return outcome


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_logits_that_are_no_numbers_reject_the_build(evaluator: Evaluator, poison: float) -> None:
    outcome = rejected(replace(evaluator, drafts=FixedEstimator(poison)))
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


def test_a_program_that_would_not_fit_into_a_worker_is_not_built(evaluator: Evaluator) -> None:
    limits = replace(evaluator.constraints, worker_bytes=1000, memory_per_weight={"onnxruntime": 2.1})
    outcome = rejected(replace(evaluator, constraints=limits, limits=WorkerLimits(Limits(0.0), Limits(0.0))))
    assert outcome.reason is RejectReason.CONSTRAINT
    assert outcome.detail.startswith("over the limit of a worker's memory: its program needs about ")
    needed = 2.1 * SHAPE.weight_bytes(Precision.FP32) + SHAPE.kv_bytes_per_token * NUMERICS.context_tokens
    assert limits.program_bytes(FP32) == int(needed)


def test_random_drafts_are_measured_and_scored_by_whatever_says_how_often_they_are_accepted(
    evaluator: Evaluator,
) -> None:
    assumed = replace(constant_acceptance(0.5), evidence=Evidence.STAND_IN)

    class Assumed:
        def acceptance(self, build: Build, weights: ModelWeights) -> Known[Acceptance]:
            return Known(assumed, None)

    outcome = replace(evaluator, drafts=RandomDrafts(NUMERICS), acceptances=Assumed()).evaluate(FP32)
    assert isinstance(outcome, Measured), outcome
    assert outcome.burst.evidence is Evidence.MEASURED
    for score in outcome.scores:
        assert score.speedup.evidence is score.tokens_per_round.evidence is Evidence.STAND_IN
        assert score.round_s.evidence is Evidence.ESTIMATED
        assert score.break_even is not None
        assert score.break_even.evidence is Evidence.ESTIMATED


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


def test_what_is_known_is_not_screened_and_what_is_screened_is_not_kept(remembering: Evaluator) -> None:
    assert remembering.evaluate(FP32, lambda *about: screened()) == screened()
    assert isinstance(remembering.evaluate(FP32), Measured)
    known = replace(remembering, limits=DIE).evaluate(FP32, lambda *about: screened())
    assert isinstance(known, Measured)
    assert known.latency_date is not None


def test_a_build_that_is_not_screened_is_compiled(evaluator: Evaluator) -> None:
    assert isinstance(evaluator.evaluate(FP32, lambda *about: None), Measured)


DIE = WorkerLimits(Limits(0.0), Limits(0.0))
"""Limits that nothing can be compiled or measured under."""


@pytest.fixture
def remembering(evaluator: Evaluator, tmp_path: Path) -> Evaluator:
    database = TuningDatabase(DatabaseFile(tmp_path / "tuning.db"))
    scored = ScoredOnTraces(traces(), max_lookahead=4, threads=1, database=database)
    return replace(evaluator, acceptances=scored, database=database)


def scored_on(evaluator: Evaluator, other: Traces) -> Evaluator:
    """The evaluator with another text to score drafts on."""
    assert isinstance(evaluator.acceptances, ScoredOnTraces)
    return replace(evaluator, acceptances=replace(evaluator.acceptances, traces=other))


@pytest.fixture
def first(remembering: Evaluator) -> Measured:
    """What a first evaluation of `FP32`, which the database keeps, came to."""
    outcome = remembering.evaluate(FP32)
    assert isinstance(outcome, Measured), outcome
    assert (outcome.acceptance_date, outcome.latency_date) == (None, None)
    assert outcome.acceptance_s > 0
    assert 0 < outcome.build_s < outcome.latency_s
    return outcome


def test_a_second_evaluation_compiles_and_measures_nothing(remembering: Evaluator, first: Measured) -> None:
    outcome = replace(remembering, limits=DIE).evaluate(FP32)
    assert isinstance(outcome, Measured), outcome
    assert outcome.acceptance == first.acceptance
    assert outcome.burst == first.burst
    assert outcome.burst.evidence is Evidence.MEASURED
    assert outcome.scores == first.scores
    assert outcome.build_s == first.build_s
    assert outcome.acceptance_date is not None
    assert outcome.latency_date is not None


def test_another_workload_and_other_weights_find_the_latencies(remembering: Evaluator, first: Measured) -> None:
    items = traces().items
    another = replace(traces(), items=tuple(replace(item, continuation=item.prompt) for item in items))
    other_weights = FixedEstimator(poison=2.0)
    for evaluator in (scored_on(remembering, another), replace(remembering, drafts=other_weights)):
        outcome = replace(evaluator, limits=DIE).evaluate(FP32)
        assert isinstance(outcome, Measured), outcome
        assert outcome.burst == first.burst
        assert outcome.acceptance_date is None
        assert outcome.latency_date is not None


def test_other_limits_find_everything(remembering: Evaluator, first: Measured) -> None:
    limited = replace(remembering, constraints=replace(remembering.constraints, max_round_s=0.0129), limits=DIE)
    outcome = limited.evaluate(FP32)
    assert isinstance(outcome, Measured)
    assert [score.lookahead for score in outcome.scores] == [1, 2]


def compiles(evaluator: Evaluator, build: Build = FP32) -> bool:
    """Whether the build is not known: compiling it is begun, and breaks off at once."""
    outcome = replace(evaluator, limits=DIE).evaluate(build)
    if isinstance(outcome, Measured):
        return False
    assert outcome.reason is RejectReason.BUILD_TIMEOUT
    return True


def test_what_latency_depends_on_is_not_mixed_up(
    remembering: Evaluator, first: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring, constraints = remembering.measuring, remembering.constraints
    assert not compiles(remembering)
    assert compiles(remembering, replace(FP32, precision=Precision.INT8))
    assert compiles(remembering, replace(FP32, backend="tvm"))
    assert compiles(remembering, replace(FP32, shape=replace(SHAPE, layers=1)))
    assert compiles(replace(remembering, measuring=replace(measuring, evict_bytes=8192)))
    assert compiles(replace(remembering, measuring=replace(measuring, threads=2)))
    assert compiles(replace(remembering, constraints=replace(constraints, context_tokens=64)))
    assert compiles(replace(remembering, lookaheads=(1, 2, 3)))
    assert compiles(replace(remembering, sampling=SamplingSettings(temperature=0.8)))
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "latency_versions", lambda backend: {"onnx": "0.1"})
        assert compiles(replace(remembering))
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "find_device", lambda kind: replace(find_device(kind), name="Another"))
        assert compiles(replace(remembering))
    assert not compiles(remembering)


def test_finalists_are_compiled_and_measured_whatever_is_known(remembering: Evaluator, first: Measured) -> None:
    weights = remembering.drafts.weights(SHAPE)
    folder = remembering.work / "finalist"
    killed = replace(remembering, limits=DIE).compile(FP32, weights, folder)
    assert isinstance(killed, Rejected)
    built = remembering.compile(FP32, weights, folder)
    assert isinstance(built, Built)
    assert isinstance(replace(remembering, limits=DIE).measure(built), Rejected)


def test_failures_are_tried_again(remembering: Evaluator) -> None:
    for _ in range(2):
        assert compiles(remembering)
    poisoned = replace(remembering, drafts=FixedEstimator(np.nan))
    assert rejected(poisoned).reason is RejectReason.NOT_A_NUMBER
    assert isinstance(remembering.evaluate(FP32), Measured)


def test_a_damaged_database_does_not_stop_the_search(
    remembering: Evaluator, first: Measured, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tuning.db").write_bytes(b"rubbish" * 1000)
    assert isinstance(remembering.evaluate(FP32), Measured)
    assert not compiles(remembering)
    (message,) = caplog.messages
    assert "is damaged" in message
