"""Extrapolation with fake workers: a machine on which a call costs 1 ms, and every parameter its share."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune import slices
from autotune.candidate import DraftShape, Precision
from autotune.compile.build_job import BuildRequest
from autotune.compile.sandbox import Limits
from autotune.database.file import DatabaseFile
from autotune.database.known import TuningDatabase
from autotune.devices import find_device
from autotune.errors import BadRequest
from autotune.extrapolation import Slicing
from autotune.program import Program
from autotune.results import Built, Evidence, MeasureSettings, Rejected, RejectReason, TargetLatency
from autotune.slice_job import GroupRequest, GroupSamples, LoopOverheads, measure_group
from autotune.slices import SliceRequest, choose_slicing, extrapolate_target, slice_memory_bytes
from autotune.tensor_parallel import TensorParallel
from autotune.weights import Numerics
from autotune.weights_io import load_weights
from tests.support.sessions import PairwiseSession, random_table

SHAPE = DraftShape(layers=80, heads=8, kv_heads=8, head_dim=64, hidden=512, ffn=1408, vocab=8000)
NUMERICS = Numerics("llama", 1e-5, 1e4, 2048)
REQUEST = SliceRequest("tvm", Precision.FP32, "cpu", 2, MeasureSettings(128, 1))
LIMITS = Limits(60.0, 8 << 30)


def seconds_of(shape: DraftShape, n: int, context: int) -> float:
    cache = shape.layers * shape.kv_heads * shape.head_dim * context
    return 1e-3 + 1e-10 * (n * shape.decode_parameters + 10 * cache)


class Machine:
    """What the workers were asked, and what they answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.built: list[DraftShape] = []
        self.measured: list[GroupRequest] = []
        self.refused: Rejected | None = None
        monkeypatch.setattr(slices, "build_sandboxed", self.build)
        monkeypatch.setattr(slices, "measure_group_sandboxed", self.measure)
        monkeypatch.setattr(slices, "measure_loop_sandboxed", lambda *_: LoopOverheads(3e-4, 1e-4))

    def build(self, request: BuildRequest, limits: Limits, **_: Any) -> Built | Rejected:
        weights = load_weights(Path(request.weights_folder))
        folder = Path(request.program_folder)
        folder.mkdir(parents=True)
        settings = request.settings
        Program("tvm", "cpu", settings.precision, weights.shape, weights.numerics, settings.capacity_tokens).write(
            folder
        )
        self.built.append(weights.shape)
        return Built(str(folder), 0.1, 1)

    def measure(self, request: GroupRequest, limits: Limits, lock: object) -> GroupSamples | Rejected:
        if self.refused:
            return self.refused
        self.measured.append(request)
        programs = [Program.read(Path(folder)) for folder in request.programs]
        assert all(program.capacity_tokens > max(request.contexts) + request.max_lookahead for program in programs)
        lengths = range(1, request.max_lookahead + 2)
        slower = 2.0 if request.settings.threads == 1 else 1.0
        return GroupSamples(
            tuple(
                tuple(
                    tuple((slower * seconds_of(program.shape, n, context),) * 5 for n in lengths)
                    for context in request.contexts
                )
                for program in programs
            ),
            None,
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    return Machine(monkeypatch)


def extrapolated(request: SliceRequest, database: TuningDatabase | None = None) -> TargetLatency:
    outcome = extrapolate_target(SHAPE, NUMERICS, request, build_limits=LIMITS, run_limits=LIMITS, database=database)
    assert isinstance(outcome, TargetLatency)
    return outcome


@pytest.mark.parametrize("slicing", Slicing)
def test_slices_come_to_the_whole_model(machine: Machine, slicing: Slicing, tmp_path: Path) -> None:
    latency = extrapolated(replace(REQUEST, slicing=slicing, contexts=(1024,), thread_counts=(2,)))
    for table, context in ((latency.verify, 128), (latency.by_context[1024], 1024)):
        assert table.evidence is Evidence.EXTRAPOLATED
        assert table.settings.context_tokens == context
        assert table.device == find_device("cpu").fingerprint
        # The small layer that stands for none has a small cache of its own; hence not to the last digit.
        assert [table.seconds(n) for n in (1, 2, 3)] == pytest.approx(
            [seconds_of(SHAPE, n, context) for n in (1, 2, 3)], rel=1e-6
        )
        low, high = table.error_bar(1) or (0.0, 0.0)
        assert low <= table.seconds(1) <= high
    assert (latency.overhead_s, latency.plain_overhead_s) == (3e-4, 1e-4)
    assert latency.source is not None
    assert "extrapolated to 80 layers" in latency.source
    assert not list((tmp_path / "cache" / "slices").iterdir())


def test_threads_are_taken_where_they_pay(machine: Machine) -> None:
    latency = extrapolated(replace(REQUEST, thread_counts=(1, 2)))
    assert latency.verify.settings.threads == 2
    brief = machine.measured[:4]
    assert [request.settings.threads for request in brief] == [1, 2, 1, 2]
    assert {request.max_lookahead for request in brief} == {0}


def test_small_slices_do_not_live_in_caches(machine: Machine) -> None:
    extrapolated(REQUEST)
    assert all(request.settings.evict_bytes >= 100 << 20 for request in machine.measured)


def test_slices_know_as_many_positions_as_are_measured(machine: Machine, tmp_path: Path) -> None:
    """More than the model has, where a large batch's verification stands for its positions."""
    few = replace(SHAPE, style=replace(SHAPE.style, learned_positions=128))
    request = replace(REQUEST, max_lookahead=40)
    latency = extrapolate_target(few, NUMERICS, request, build_limits=LIMITS, run_limits=LIMITS)
    assert isinstance(latency, TargetLatency)
    assert {shape.style.learned_positions for shape in machine.built if shape.style.learned_positions} == {128 + 41}


def test_a_part_and_its_collectives(machine: Machine) -> None:
    latency = extrapolated(replace(REQUEST, parallel=TensorParallel(4, 5e-5), thread_counts=(2,)))
    part = replace(SHAPE, heads=2, kv_heads=2, ffn=352, draft_vocab=2000)
    assert latency.verify.seconds(1) == pytest.approx(seconds_of(part, 1, 128) + 161 * 5e-5)
    assert latency.source is not None
    assert "one of 4 devices with all-reduces of 50 µs" in latency.source


def test_what_cannot_be_split_is_refused_before_anything_is_built(machine: Machine) -> None:
    with pytest.raises(BadRequest, match="heads cannot be split"):
        extrapolated(replace(REQUEST, parallel=TensorParallel(3, 5e-5)))
    assert not machine.built


def test_a_failed_worker_is_a_result(machine: Machine, tmp_path: Path) -> None:
    machine.refused = Rejected(RejectReason.RUN_TIMEOUT, "killed after 600 s")
    outcome = extrapolate_target(SHAPE, NUMERICS, REQUEST, build_limits=LIMITS, run_limits=LIMITS)
    assert outcome is machine.refused
    assert not list((tmp_path / "cache" / "slices").iterdir())


def test_a_second_run_knows_the_first_ones_result(machine: Machine, tmp_path: Path) -> None:
    database = TuningDatabase(DatabaseFile(tmp_path / "db.sqlite"))
    first = extrapolated(replace(REQUEST, contexts=(1024,)), database)
    built = len(machine.built)
    second = extrapolated(replace(REQUEST, contexts=(1024,)), database)
    assert len(machine.built) == built
    assert second.date is not None
    assert replace(second, date=None) == first
    extrapolated(replace(REQUEST, contexts=(512,)), database)
    assert len(machine.built) > built


def test_the_way_to_slice_depends_on_memory() -> None:
    needs = {slicing: slice_memory_bytes(SHAPE, REQUEST, slicing) for slicing in Slicing}
    assert choose_slicing(SHAPE, REQUEST, 1 << 40) is slices.PREFERRED[0]
    large = replace(SHAPE, hidden=8192, heads=64, kv_heads=64, head_dim=128, ffn=22016)
    assert choose_slicing(large, REQUEST, 1 << 40) is Slicing.SINGLE
    least = min(needs, key=lambda slicing: needs[slicing])
    assert choose_slicing(SHAPE, REQUEST, needs[least]) is least
    assert choose_slicing(SHAPE, replace(REQUEST, slicing=Slicing.PAIR), 1 << 40) is Slicing.PAIR


def test_too_little_memory_is_said_with_the_number_needed() -> None:
    huge = replace(SHAPE, hidden=65536, heads=1024, kv_heads=1024)
    refused = choose_slicing(huge, REQUEST, 1 << 30)
    assert isinstance(refused, Rejected)
    assert refused.reason is RejectReason.OUT_OF_MEMORY
    assert "and 1.0 GiB may be used" in refused.detail


def test_programs_are_measured_in_turn_behind_every_context() -> None:
    class Spy(PairwiseSession):
        def logits(self, tokens: Any, start: int) -> Any:
            order.append((self.number, len(tokens), start))
            return super().logits(tokens, start)

        def __init__(self, number: int) -> None:
            super().__init__(random_table(0))
            self.number = number

    order: list[tuple[int, int, int]] = []
    settings = MeasureSettings(12, 1, min_time_s=0.0, min_samples=3, warmup_runs=0)
    request = GroupRequest(("a", "b"), 2, (12, 30), settings, 1.0, REQUEST.sampling)
    measured = measure_group([Spy(0), Spy(1)], request)
    in_turn = [(program, n, 11) for n in (1, 2, 3) for program in (0, 1)]
    assert order[4:22] == in_turn * 3
    assert {start for _, _, start in order} == {11, 29}
    assert [[len(lengths) for lengths in program] for program in measured.samples_s] == [[3, 3], [3, 3]]
    assert measured.timed is None
