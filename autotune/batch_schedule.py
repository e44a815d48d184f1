"""The batch → k schedule of a run's draft: what `--batch` asks for.

Programs for several sequences are ONNX Runtime's, whatever compiled the pair.  A target whose weights are not here is
taken to verify n positions of each of b sequences in the time in which its slices verify b · n positions of one: the
matrix products have as many rows, and attention reads as much for each row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.batch_results import BatchEntry, BatchMemory
from autotune.batching import BatchRequest, BatchTable, batch_memory, measure_batch, schedule, table_of_one
from autotune.candidate import Build, DraftShape
from autotune.compile.base import CompileSettings
from autotune.compile.build_job import BuildRequest, build_sandboxed
from autotune.devices import device_lock
from autotune.number_formats import Precision
from autotune.progress import Observer
from autotune.results import Acceptance, Built, LatencyTable, Rejected, RunKind, TargetLatency
from autotune.runtime.session import BATCH_BACKEND
from autotune.target_side import sliced_latency
from autotune.weights import ModelWeights
from autotune.weights_io import save_weights
from autotune.workbench import Workbench


@dataclass(frozen=True)
class ScheduledDraft:
    """The draft that a schedule is made for."""

    build: Build
    weights: ModelWeights
    acceptance: Acceptance
    burst: LatencyTable
    """For one sequence."""


@dataclass(frozen=True)
class Schedule:
    """What speculation comes to at every batch size that could be measured, smallest first."""

    entries: tuple[BatchEntry, ...]
    memory: tuple[BatchMemory, ...]
    """Of the same batches, at the run's context."""


def make_schedule(bench: Workbench, draft: ScheduledDraft, work: Path, observer: Observer) -> Schedule:
    """The schedule over the batches of `--batch`; a batch that cannot be measured is told and left out."""
    request = bench.request
    batches = sorted({1, *request.config.batch})
    observer.phase(f"Measuring batches of {', '.join(map(str, batches[1:]))}")
    if {request.target_backend, draft.build.backend} != {BATCH_BACKEND}:
        observer.note(f"batches are measured with {BATCH_BACKEND}: no other compiler decodes several sequences at once")
    tables = [table_of_one(draft.burst, bench.latency)]
    measured = _tables(bench, draft, batches[1:], work, observer)
    for place, (batch, table) in enumerate(zip(batches[1:], measured, strict=True)):
        observer.progress((place + 1) / len(batches[1:]))
        if isinstance(table, Rejected):
            observer.note(f"batch {batch} is left out: {table.reason.value}, {table.detail}")
        else:
            tables.append(table)
    latency = bench.latency
    entries = schedule(
        draft.acceptance,
        tables,
        latency.overhead_s,
        latency.plain_overhead_s,
        lookaheads=request.space.lookahead.values,
        objective=request.objective,
    )
    item_bytes = request.target_precision.other_bytes
    memory = tuple(
        batch_memory(
            request.target.shape,
            draft.build.shape,
            entry.batch,
            request.context_tokens,
            request.space.max_lookahead,
            item_bytes,
        )
        for entry in entries
    )
    return Schedule(entries, memory)


Tables = Sequence[BatchTable | Rejected]


def _tables(bench: Workbench, draft: ScheduledDraft, batches: Sequence[int], work: Path, observer: Observer) -> Tables:
    save_weights(draft.weights, work / "draft")
    if bench.request.kind is RunKind.WHOLE:
        save_weights(bench.request.whole_target.read_weights(), work / "target")
        return [_measured(bench, draft, batch, work) for batch in batches]
    most = max(batches) * (bench.request.space.max_lookahead + 1)
    limits, database = bench.evaluator.limits, bench.evaluator.database
    latency = sliced_latency(bench.request, limits, database, observer, positions=most)
    return [_assumed(bench, draft, batch, work, latency) for batch in batches]


def _measured(bench: Workbench, draft: ScheduledDraft, batch: int, work: Path) -> BatchTable | Rejected:
    """Both sides measured with programs for that batch."""
    target = _program(bench, "target", bench.request.target.shape, bench.request.target_precision, batch, work)
    if isinstance(target, Rejected):
        return target
    own = _draft_program(bench, draft, batch, work)
    return own if isinstance(own, Rejected) else _measure(bench, target, own)


def _assumed(
    bench: Workbench, draft: ScheduledDraft, batch: int, work: Path, latency: TargetLatency
) -> BatchTable | Rejected:
    """The draft measured with a program for that batch, the target taken from its slices."""
    own = _draft_program(bench, draft, batch, work)
    table = own if isinstance(own, Rejected) else _measure(bench, own, own)
    if isinstance(table, Rejected):
        return table
    lengths = range(1, table.verify.largest + 1)
    verify = replace(
        latency.verify, samples_s=tuple(latency.verify.samples_s[batch * n - 1] for n in lengths), timed=None
    )
    return replace(table, verify=verify)


def _measure(bench: Workbench, target: Built, draft: Built) -> BatchTable | Rejected:
    measuring = bench.evaluator.measuring
    request = BatchRequest(target.program, draft.program, bench.request.space.max_lookahead, measuring)
    limits = bench.evaluator.limits.run.for_weights(target.weight_bytes + draft.weight_bytes)
    return measure_batch(request, limits, device_lock(bench.request.device.kind))


def _draft_program(bench: Workbench, draft: ScheduledDraft, batch: int, work: Path) -> Built | Rejected:
    return _program(bench, "draft", draft.build.shape, draft.build.precision, batch, work)


def _program(
    bench: Workbench, name: str, shape: DraftShape, precision: Precision, batch: int, work: Path
) -> Built | Rejected:
    """The program of the weights in `work/name` for that batch, with room for what is measured."""
    evaluator, device = bench.evaluator, bench.request.device.kind
    room = evaluator.measuring.context_tokens + bench.request.space.max_lookahead + 1
    settings = CompileSettings(precision, room, device, batch=batch)
    asked = BuildRequest(str(work / name), BATCH_BACKEND, settings, str(work / f"{name}-{batch}"))
    limits = evaluator.limits.build.for_weights(shape.weight_bytes(precision))
    return build_sandboxed(asked, limits, threads=evaluator.measuring.threads, lock=device_lock(device))
