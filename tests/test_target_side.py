"""The target's latencies: measured once with the threads that suit it, then known; with the real demo, fake clocks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autotune import target_side
from autotune.candidate import Precision
from autotune.compile.sandbox import Limits
from autotune.config import TuneConfig
from autotune.database.file import DatabaseFile
from autotune.database.known import TuningDatabase
from autotune.errors import AutotuneError, BadRequest
from autotune.evaluate import WorkerLimits
from autotune.progress import LoggingObserver
from autotune.request import Request, resolve
from autotune.results import MeasureSettings, Rejected, RejectReason, RunKind, TargetLatency
from autotune.store import RunFolder
from autotune.target_side import draft_measuring, prepare_target, target_latency, target_measuring
from tests.support import figures

LIMITS = WorkerLimits(Limits(1.0), Limits(1.0))
MeasureTarget = Callable[..., TargetLatency | Rejected]


class Notes(LoggingObserver):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def note(self, text: str) -> None:
        self.all.append(text)


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


def test_beside_a_users_table_drafts_are_measured_as_on_this_machine() -> None:
    """Threads and context of the table are another machine's."""
    asked = request(threads=None)
    elsewhere = figures.target_latency()
    measuring = draft_measuring(asked, elsewhere)
    assert measuring.context_tokens == elsewhere.verify.settings.context_tokens
    away = replace(asked, cast=replace(asked.cast, kind=RunKind.SERVED))
    table = replace(away, config=away.config.model_copy(update={"target_latency": Path("table.json")}))
    measuring = draft_measuring(table, elsewhere)
    assert (measuring.context_tokens, measuring.threads) == (target_measuring(table).context_tokens, 1)


def test_with_a_context_latencies_are_measured_at_its_end() -> None:
    assert target_measuring(request()).context_tokens == 128
    assert target_measuring(request(context=300)).context_tokens == 300 - 3 - 1


def sides(monkeypatch: pytest.MonkeyPatch, step_s: dict[str, float], failing: str = "") -> None:
    """Targets whose compilers are as fast as told, and one that fails."""

    def compiled(target: object, backend: str, *_: object, **__: object) -> Path:
        if backend == failing:
            raise AutotuneError("no such operator")
        return Path(backend)

    def measured(asked: Request, program: Path, *_: object) -> TargetLatency:
        step = step_s[str(program)]
        verify = figures.latency(*(step * (1 + 0.1 * n) for n in range(4)))
        return TargetLatency(verify, 0.0, 0.0, backend=asked.target_backend)

    monkeypatch.setattr(target_side, "compile_target", compiled)
    monkeypatch.setattr(target_side, "target_latency", measured)


@pytest.mark.parametrize(("faster", "slower"), [("tvm", "onnxruntime"), ("onnxruntime", "tvm")])
def test_the_targets_compiler_is_the_one_with_which_a_token_takes_least(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, faster: str, slower: str
) -> None:
    sides(monkeypatch, {faster: 0.01, slower: 0.02})
    asked, notes = request(), Notes()
    with RunFolder.open(tmp_path / "run", asked.identity(), resume=False) as folder:
        side = prepare_target(asked, folder, LIMITS, None, notes)
        assert (side.backend, side.program, side.latency.backend) == (faster, Path(faster), faster)
        assert any(f"{faster} compiles the target: with {slower} a token would take 2.00 times" in n for n in notes.all)
        # A resumed run goes on with it, however fast the other one is by then.
        sides(monkeypatch, {faster: 0.03, slower: 0.02})
        assert prepare_target(asked, folder, LIMITS, None, notes) == side


def test_a_compiler_that_fails_drops_out_and_another_takes_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sides(monkeypatch, {"tvm": 0.01, "onnxruntime": 0.02}, failing="tvm")
    notes = Notes()
    with RunFolder.open(tmp_path / "run", request().identity(), resume=False) as folder:
        assert prepare_target(request(), folder, LIMITS, None, notes).backend == "onnxruntime"
    assert "tvm drops out as the target's compiler: no such operator" in notes.all
    with (
        RunFolder.open(tmp_path / "other", request().identity(), resume=False) as folder,
        pytest.raises(AutotuneError, match="no such operator"),
    ):
        prepare_target(request(target_backend="tvm"), folder, LIMITS, None, notes)


def test_what_was_asked_for_is_not_compared() -> None:
    assert request(target_backend="tvm").target_backends == ("tvm",)
    assert set(request().target_backends) == {"onnxruntime", "tvm"}
    with pytest.raises(BadRequest, match="gcc"):
        request(target_backend="gcc")


def test_a_quantised_target_is_the_compilers_that_does_it_exactly() -> None:
    asked = request(target_precision="int8")
    assert (asked.target_precision, asked.target_backends) == (Precision.INT8, ("tvm",))
    with pytest.raises(BadRequest, match="--target-precision int4: backend onnxruntime has no int4 target on cpu"):
        request(target_precision="int4", target_backend="onnxruntime")
    with pytest.raises(BadRequest, match="at once by onnxruntime, which has no int4 target on cpu"):
        request(target_precision="int4", batch="1,4")
