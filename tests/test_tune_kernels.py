"""Kernel tuning with a made-up tuner and measurement, and once for real."""

from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from autotune.candidate import DraftShape, Precision
from autotune.compile.base import CompileSettings, build_program
from autotune.compile.kernel_tuning import Tuned, TuningRequest, tune_sandboxed, write_tuned
from autotune.compile.sandbox import Limits
from autotune.compile.schedule import Schedule
from autotune.paired import Comparison, PairedRequest, compare_sandboxed, speedup
from autotune.results import MeasureSettings, Rejected, RejectReason
from autotune.sampling import SamplingSettings
from autotune.tune_kernels import Steps, describe, judge
from tests.support.models import tiny_weights

REQUEST = TuningRequest("untuned", "tuned", 10.0, 1, 0)
FOUND = Tuned({"head": Schedule(parallel=False)}, 12, 9.5)
SLOW = tuple(1.0 + 0.01 * (n % 5) for n in range(50))
FAST = tuple(seconds / 1.2 for seconds in SLOW)


def outcome(tuned: Tuned | Rejected, compared: Comparison | Rejected) -> tuple[bool, str]:
    tuning = judge(REQUEST, Steps(lambda _: tuned, lambda _, __: compared))
    return tuning.kept, describe(tuning)


def test_a_faster_program_is_kept() -> None:
    tuning = judge(REQUEST, Steps(lambda _: FOUND, lambda _, __: Comparison(0.0, True, SLOW, FAST)))
    assert tuning.kept
    assert tuning.tried == 12
    assert tuning.schedules == {"head": "4 sums, one thread"}
    assert tuning.speedup is not None
    assert tuning.speedup.value == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("compared", "why"),
    [
        (Comparison(0.0, True, FAST, SLOW), "not faster"),
        (Comparison(0.0, True, SLOW, SLOW), "not faster"),
        (Comparison(0.0, True, SLOW, tuple(reversed(SLOW))), "not faster"),
        (Comparison(2e-4, True), "logits differ"),
        (Comparison(0.0, False), "other tokens"),
        (Comparison(float("inf"), True), "logits differ"),
        (Rejected(RejectReason.CRASHED, "died of SIGSEGV"), "SIGSEGV"),
        (Rejected(RejectReason.RUN_TIMEOUT, "killed after 60 s"), "killed"),
    ],
)
def test_anything_else_is_not(compared: Comparison | Rejected, why: str) -> None:
    kept, told = outcome(FOUND, compared)
    assert not kept
    assert why in told


@pytest.mark.parametrize("reason", [RejectReason.CRASHED, RejectReason.BUILD_TIMEOUT, RejectReason.OUT_OF_MEMORY])
def test_a_tuner_that_fails_loses_nothing(reason: RejectReason) -> None:
    kept, told = outcome(Rejected(reason, "it is gone"), Comparison(0.0, True, SLOW, FAST))
    assert not kept
    assert reason.value in told


def test_nothing_is_compared_where_nothing_was_found() -> None:
    def compare(_: str, __: str) -> Comparison:
        raise AssertionError("there is no tuned program")

    tuning = judge(REQUEST, Steps(lambda _: replace(FOUND, schedules={}), compare))
    assert (tuning.kept, tuning.tried) == (False, 12)


def test_the_interval_holds_the_median() -> None:
    figure = speedup(Comparison(0.0, True, SLOW, FAST[::-1]))
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low <= figure.value <= figure.high


SHAPE = DraftShape(layers=2, heads=2, kv_heads=1, head_dim=16, hidden=48, ffn=96, vocab=130)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8, Precision.INT4])
def test_any_schedule_drafts_the_same(tmp_path: Path, precision: Precision) -> None:
    build_program("tvm", tiny_weights(SHAPE), CompileSettings(precision, 64), tmp_path / "untuned")
    schedule = Schedule(single_row_sums=8, unroll=2, prefetch_bytes=512, parallel=False)
    write_tuned(tmp_path / "untuned", dict.fromkeys(("qkv", "o", "gate_up", "down", "head"), schedule), tmp_path / "t")
    compared = compare_sandboxed(_pair(tmp_path / "untuned", tmp_path / "t"), Limits(60), FileLock(tmp_path / "lock"))
    assert isinstance(compared, Comparison), compared
    assert compared.same
    assert len(compared.before_s) == len(compared.after_s) > 0


def test_other_weights_are_found_out(tmp_path: Path) -> None:
    for seed in (0, 1):
        settings = CompileSettings(Precision.FP32, 64)
        build_program("tvm", tiny_weights(SHAPE, seed), settings, tmp_path / str(seed))
    compared = compare_sandboxed(_pair(tmp_path / "0", tmp_path / "1"), Limits(60), FileLock(tmp_path / "lock"))
    assert isinstance(compared, Comparison), compared
    assert not compared.same
    assert not compared.before_s


def test_a_short_tuning_for_real(tmp_path: Path) -> None:
    build_program("tvm", tiny_weights(SHAPE), CompileSettings(Precision.FP32, 64), tmp_path / "untuned")
    request = TuningRequest(str(tmp_path / "untuned"), str(tmp_path / "tuned"), 4.0, 1, 0)
    lock = FileLock(tmp_path / "lock")

    def compare(before: str, after: str) -> Comparison | Rejected:
        return compare_sandboxed(_pair(Path(before), Path(after)), Limits(60), lock)

    tuning = judge(request, Steps(lambda given: tune_sandboxed(given, Limits(60), lock), compare))
    assert tuning.tried > 0, tuning
    assert tuning.seconds > 0
    if tuning.schedules:
        assert tuning.speedup is not None, tuning
        assert (tmp_path / "tuned" / "program.json").exists()


def test_a_tuner_that_hangs_is_killed(tmp_path: Path) -> None:
    build_program("tvm", tiny_weights(SHAPE), CompileSettings(Precision.FP32, 64), tmp_path / "untuned")
    request = TuningRequest(str(tmp_path / "untuned"), str(tmp_path / "tuned"), 600.0, 1, 0)
    tuned = tune_sandboxed(request, Limits(0.5), FileLock(tmp_path / "lock"))
    assert isinstance(tuned, Rejected)
    assert tuned.reason is RejectReason.BUILD_TIMEOUT


def _pair(before: Path, after: Path) -> PairedRequest:
    return PairedRequest(str(before), str(after), 4, MeasureSettings(16, 1), SamplingSettings())
