"""The target's latencies: measured once with the threads that suit it, then known; with the real demo, fake clocks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autotune import target_side
from autotune.compile.sandbox import Limits
from autotune.config import TuneConfig
from autotune.database.file import DatabaseFile
from autotune.database.known import TuningDatabase
from autotune.errors import AutotuneError
from autotune.request import Request, resolve
from autotune.results import MeasureSettings, Rejected, RejectReason, TargetLatency
from autotune.target_side import target_latency
from tests.support import figures

MeasureTarget = Callable[..., TargetLatency | Rejected]


def request(**changes: object) -> Request:
    return resolve(TuneConfig.model_validate({"threads": 1, "lookahead": "0:3", **changes}))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[MeasureSettings]:
    """The settings of every measurement that was made; the n-th finds a machine n times as slow."""
    made: list[MeasureSettings] = []

    def measure(request: Request, program: Path, settings: MeasureSettings, limits: Limits) -> TargetLatency:
        made.append(settings)
        verify = figures.latency(*(0.01 * len(made) * (1 + 0.1 * n) for n in range(4)))
        return TargetLatency(replace(verify, settings=settings, device=request.device.fingerprint), 5e-4, 2e-4)

    monkeypatch.setattr(target_side, "measure_target", measure)
    return made


@pytest.fixture
def database(tmp_path: Path) -> TuningDatabase:
    return TuningDatabase(DatabaseFile(tmp_path / "tuning.db"))


def latency_of(asked: Request, database: TuningDatabase | None) -> TargetLatency:
    return target_latency(asked, Path("program"), Limits(1.0), database)


def test_the_target_is_measured_once(measured: list[MeasureSettings], database: TuningDatabase) -> None:
    first = latency_of(request(), database)
    again = latency_of(request(seed=5, max_memory="1GiB", prompts="builtin"), database)
    assert len(measured) == 1
    assert first.date is None
    assert again.date is not None
    assert replace(again, date=None) == first


def test_what_it_depends_on_is_measured_anew(
    measured: list[MeasureSettings], database: TuningDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    latency_of(request(), database)
    others = [request(threads=2), request(temperature=0.5), request(backend="tvm", precision="fp32")]
    others += [request(layers="2:8"), request(lookahead="0:4")]
    for count, other in enumerate(others, start=2):
        assert latency_of(other, database).date is None
        assert len(measured) == count
    monkeypatch.setattr(target_side, "latency_versions", lambda backend: {"onnx": "0.1"})
    assert latency_of(request(), database).date is None


def test_the_choice_of_threads_is_known_too(measured: list[MeasureSettings], database: TuningDatabase) -> None:
    asked = replace(request(threads=None), device=replace(request().device, cores=4))
    first = latency_of(asked, database)
    tried = len(measured)
    assert {settings.threads for settings in measured} == {1, 2, 4}
    assert latency_of(asked, database).verify.settings == first.verify.settings
    assert len(measured) == tried


def test_without_a_database_it_is_measured_each_time(measured: list[MeasureSettings]) -> None:
    assert latency_of(request(), None) != latency_of(request(), None)
    assert len(measured) == 2


def test_a_target_that_cannot_be_measured(monkeypatch: pytest.MonkeyPatch, database: TuningDatabase) -> None:
    failure = Rejected(RejectReason.RUN_TIMEOUT, "killed after 1 s")
    monkeypatch.setattr(target_side, "measure_target", lambda *_: failure)
    for _ in range(2):
        with pytest.raises(AutotuneError, match="cannot be measured: run-timeout, killed after 1 s; see --run-timeout"):
            latency_of(request(), database)


def test_a_run_may_be_resumed_with_or_without_the_database() -> None:
    assert request().identity() == request(database=False).identity()
