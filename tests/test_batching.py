from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from autotune.batching import (
    BatchRequest,
    BatchTable,
    batch_memory,
    lookahead_schedule,
    measure_batch,
    measure_batch_sessions,
    schedule,
    table_of_one,
)
from autotune.candidate import DraftShape, Precision
from autotune.compile.base import CompileSettings, build_program
from autotune.compile.sandbox import CandidateRejected, Limits
from autotune.objective import WORST, only
from autotune.program import Program
from autotune.results import Acceptance, Evidence, LatencyTable, MeasureSettings, Rejected, TargetLatency
from tests.support.figures import acceptance_by_category
from tests.support.models import NUMERICS, tiny_weights

SETTINGS = MeasureSettings(context_tokens=70, threads=1, min_time_s=0.0, min_samples=3, warmup_runs=1)
SHAPE = DraftShape(layers=1, heads=2, kv_heads=1, head_dim=16, hidden=32, ffn=48, vocab=80)
LOOKAHEADS = 4


def latencies(seconds: Sequence[float], evidence: Evidence = Evidence.MEASURED) -> LatencyTable:
    return LatencyTable(tuple((each,) for each in seconds), SETTINGS, "cpu", evidence)


def counted(rates: Sequence[float]) -> Acceptance:
    """Acceptance with these tokens per round at k = 0, 1, …"""
    return Acceptance((1000,), (tuple(1000 / rate for rate in rates),), (1.0,), (1.0,))


RISING = counted([1.0, 1.8, 2.4, 2.8, 3.0])

seconds = st.floats(1e-4, 1e-1)
tables = st.lists(
    st.tuples(st.integers(1, 64), st.lists(seconds, min_size=4, max_size=4), st.lists(seconds, min_size=5, max_size=5)),
    min_size=1,
    max_size=5,
    unique_by=lambda each: each[0],
).map(lambda rows: [BatchTable(batch, latencies(burst), latencies(verify)) for batch, burst, verify in rows])


@given(tables, seconds, seconds)
def test_the_best_lookahead_is_that_with_most_tokens_per_second(
    measured: list[BatchTable], overhead_s: float, plain_overhead_s: float
) -> None:
    entries = schedule(RISING, measured, overhead_s, plain_overhead_s)
    assert [entry.batch for entry in entries] == sorted(table.batch for table in measured)
    by_batch = {table.batch: table for table in measured}
    for entry in entries:
        table, batch = by_batch[entry.batch], entry.batch
        alone = batch / (table.verify.seconds(1) + batch * plain_overhead_s)
        speeds = [alone] + [
            batch
            * RISING.tokens_per_round(k)
            / (table.burst.seconds(k) + table.verify.seconds(k + 1) + batch * overhead_s)
            for k in range(1, LOOKAHEADS + 1)
        ]
        assert entry.tokens_per_s.value == pytest.approx(max(speeds))
        assert speeds[entry.lookahead] == pytest.approx(max(speeds))
        assert entry.speedup.value == pytest.approx(max(speeds) / alone)
        assert entry.speedup.value >= 1 - 1e-9
        assert entry.lookahead <= entry.largest_lookahead
        assert all(speed <= alone for speed in speeds[entry.largest_lookahead + 1 :])
        assert (entry.largest_lookahead == 0) == (entry.lookahead == 0)


def test_the_objective_chooses_the_lookahead() -> None:
    """Code is drafted well and chat hardly at all, so that what pays on average does not pay in the worst case."""
    acceptance = acceptance_by_category(code=1.0, chat=0.01)
    table = BatchTable(2, latencies([0.002 * k for k in (1, 2, 3, 4)]), latencies([0.010] * 5))
    assert [schedule(acceptance, [table], objective=each)[0].lookahead for each in (only("code"), WORST)] == [4, 0]


@given(tables)
def test_ranges_cover_every_batch_once_up_to_the_largest_measured(measured: list[BatchTable]) -> None:
    entries = schedule(RISING, measured)
    ranges = lookahead_schedule(entries)
    assert ranges[0][0] == 1
    assert ranges[-1][1] == max(table.batch for table in measured)
    assert all(before[1] + 1 == after[0] for before, after in pairwise(ranges))
    assert {(high, k) for _, high, k in ranges} == {(entry.batch, entry.lookahead) for entry in entries}


def test_larger_batches_whose_verification_costs_more_take_shorter_bursts() -> None:
    free = latencies([1e-4 * k for k in range(1, 5)])
    cheap = BatchTable(1, free, latencies([0.01] * 5))
    dear = BatchTable(16, free, latencies([0.01 * positions for positions in range(1, 6)]))
    assert [entry.lookahead for entry in schedule(RISING, [dear, cheap])] == [4, 0]
    assert lookahead_schedule(schedule(RISING, [dear, cheap])) == ((1, 1, 4), (2, 16, 0))


def test_figures_carry_the_weakest_evidence_and_an_interval() -> None:
    stand_in = replace(RISING, evidence=Evidence.STAND_IN)
    table = BatchTable(2, latencies([1e-4] * 4), latencies([0.01] * 5, Evidence.EXTRAPOLATED))
    (entry,) = schedule(stand_in, [table])
    assert entry.speedup.evidence is entry.tokens_per_s.evidence is Evidence.STAND_IN
    assert entry.speedup.low is not None
    assert entry.speedup.high is not None
    assert entry.speedup.low <= entry.speedup.value * (1 + 1e-9)
    slow = BatchTable(2, latencies([1.0] * 4), latencies([0.01] * 5, Evidence.EXTRAPOLATED))
    (entry,) = schedule(stand_in, [slow])
    assert (entry.lookahead, entry.speedup.evidence) == (0, Evidence.EXTRAPOLATED)


def test_the_error_bars_of_an_extrapolated_target_reach_the_figures() -> None:
    bursts, scattered = latencies([1e-4] * 4), (tuple(np.linspace(0.008, 0.012, 41)),) * 5
    verify = LatencyTable(scattered, SETTINGS, "cpu", Evidence.EXTRAPOLATED)
    (sure,) = schedule(RISING, [BatchTable(4, bursts, latencies([0.01] * 5))])
    (entry,) = schedule(RISING, [BatchTable(4, bursts, verify)])
    assert entry.tokens_per_s.value == pytest.approx(sure.tokens_per_s.value)
    assert sure.tokens_per_s.low is not None
    assert entry.tokens_per_s.low is not None
    assert entry.tokens_per_s.low < 0.95 * sure.tokens_per_s.low


def test_lookaheads_that_were_not_measured_are_not_chosen() -> None:
    short = BatchTable(1, latencies([1e-4] * 2), latencies([0.01] * 3))
    (entry,) = schedule(RISING, [short])
    assert (entry.lookahead, entry.largest_lookahead) == (2, 2)


def test_only_lookaheads_that_were_asked_for_are_chosen() -> None:
    free = BatchTable(1, latencies([1e-4] * 4), latencies([0.01] * 5))
    (entry,) = schedule(RISING, [free], lookaheads=(1, 3))
    assert (entry.lookahead, entry.largest_lookahead) == (3, 3)
    dear = BatchTable(2, latencies([1.0] * 4), latencies([0.01] * 5))
    (entry,) = schedule(RISING, [dear], lookaheads=(1, 3))
    assert (entry.lookahead, entry.largest_lookahead) == (0, 0)


def test_a_single_sequence_needs_no_measuring_of_its_own() -> None:
    burst, verify = latencies([1e-3] * 4), latencies([1e-2] * 5)
    assert table_of_one(burst, TargetLatency(verify, 0.0, 0.0)) == BatchTable(1, burst, verify)


def test_memory_grows_with_the_batch_and_halves_with_the_cache() -> None:
    target = replace(SHAPE, layers=4)
    memory = batch_memory(target, SHAPE, batch=3, context_tokens=100, lookahead=5)
    assert memory.target_kv_bytes == 3 * 106 * target.kv_bytes_per_token
    assert memory.draft_kv_bytes == 3 * 106 * SHAPE.kv_bytes_per_token
    assert memory.logits_bytes == 3 * 7 * 80 * 4
    assert memory.total_bytes == memory.target_kv_bytes + memory.draft_kv_bytes + memory.logits_bytes
    halves = batch_memory(target, SHAPE, batch=3, context_tokens=100, lookahead=5, cache_item_bytes=2)
    assert halves.target_kv_bytes * 2 == memory.target_kv_bytes


class FakeBatch:
    """Notes what it is asked; its arg-max token is the one after the given."""

    def __init__(self, batch: int, nan: bool = False):
        self.program = Program("onnxruntime", "cpu", Precision.FP32, SHAPE, NUMERICS, 128, batch=batch)
        self.cached = 0
        self.calls: list[tuple[NDArray[np.int64], list[int]]] = []
        self._nan = nan

    def logits(self, tokens: NDArray[np.int64], starts: Sequence[int]) -> NDArray[np.float32]:
        assert list(starts) == [self.cached] * len(tokens)
        self.cached += tokens.shape[1]
        return np.full((*tokens.shape, SHAPE.vocab), np.nan if self._nan else 0, np.float32)

    def greedy(self, tokens: NDArray[np.int64], starts: Sequence[int]) -> NDArray[np.int64]:
        self.calls.append((tokens.copy(), list(starts)))
        return (tokens + 1) % SHAPE.vocab

    def close(self) -> None:
        pass


def request(max_lookahead: int = 3) -> BatchRequest:
    return BatchRequest("target", "draft", max_lookahead, SETTINGS)


def test_bursts_feed_back_what_they_draft_and_verifications_are_one_call() -> None:
    target, draft = FakeBatch(4), FakeBatch(4)
    table = measure_batch_sessions(target, draft, request())
    assert target.cached == draft.cached == 70
    assert (table.batch, table.burst.largest, table.verify.largest, table.max_lookahead) == (4, 3, 4, 3)
    last = draft.calls[-3:]
    assert [starts for _, starts in last] == [[68] * 4, [70] * 4, [71] * 4]
    assert [tokens.shape for tokens, _ in last] == [(4, 2), (4, 1), (4, 1)]
    assert (last[2][0] == (last[0][0][:, 1:] + 2) % SHAPE.vocab).all()
    assert {tokens.shape for tokens, _ in target.calls} == {(4, width) for width in range(1, 5)}
    assert {tuple(starts) for _, starts in target.calls} == {(69,) * 4}


def test_each_model_is_measured_behind_the_other_as_in_a_round() -> None:
    target, draft = FakeBatch(2), FakeBatch(2)
    draft.calls = target.calls
    measure_batch_sessions(target, draft, request(1))
    drafted = (2, 68)
    calls = [(tokens.shape[1], starts[0]) for tokens, starts in target.calls]
    sample = [(2, 69), drafted, (1, 69), (1, 69), drafted, (2, 69)]  # burst, step and verification, each behind its own
    assert calls == [drafted, (1, 69), (2, 69), *sample * SETTINGS.min_samples]
    target, alike = FakeBatch(2), FakeBatch(2)
    measure_batch_sessions(target, alike, replace(request(1), draft="target"))
    assert len(target.calls) == 2 * (1 + SETTINGS.min_samples)


def test_pairs_of_different_batches_and_programs_that_yield_nan_are_refused() -> None:
    with pytest.raises(ValueError, match="4 sequences at once, the draft 2"):
        measure_batch_sessions(FakeBatch(4), FakeBatch(2), request())
    with pytest.raises(CandidateRejected):
        measure_batch_sessions(FakeBatch(2), FakeBatch(2, nan=True), request())


def test_compiled_programs_are_measured_in_a_worker(tmp_path: Path) -> None:
    for name, batch in (("pair", 2), ("single", 1)):
        settings = CompileSettings(Precision.FP32, 80, batch=batch)
        build_program("onnxruntime", tiny_weights(SHAPE), settings, tmp_path / name)
    limits, lock = Limits(time_s=60), FileLock(tmp_path / "lock")
    pair = BatchRequest(str(tmp_path / "pair"), str(tmp_path / "pair"), 2, SETTINGS)
    table = measure_batch(pair, limits, lock)
    assert isinstance(table, BatchTable)
    assert (table.batch, table.burst.largest, table.verify.largest) == (2, 2, 3)
    assert all(second > 0 for samples in table.burst.samples_s for second in samples)
    outcome = measure_batch(replace(pair, draft=str(tmp_path / "single")), limits, lock)
    assert isinstance(outcome, Rejected)
    assert "one sequence" in outcome.detail
