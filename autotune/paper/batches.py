"""Experiment (g): what is left of the speed-up, and of the best lookahead, as the batch grows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.batch_results import BatchEntry
from autotune.batching import BatchRequest, BatchTable, measure_batch, schedule, table_of_one
from autotune.candidate import Precision
from autotune.compile.build_job import BuildRequest, build_sandboxed
from autotune.devices import device_lock
from autotune.measure import BurstRequest, TargetRequest, measure_bursts_sandboxed, measure_target_sandboxed
from autotune.paper.published import UNKNOWN
from autotune.paper.timing import Timing
from autotune.reports.experiments import Chart, Experiment, Series, Table
from autotune.results import Acceptance, Built, LatencyTable, Rejected, TargetLatency
from autotune.sampling import SamplingSettings
from autotune.weights import ModelWeights
from autotune.weights_io import save_weights

BATCHES = (1, 2, 4, 8, 16, 32)
MOST_LOOKAHEAD = 8


@dataclass(frozen=True)
class BatchPair:
    """A target and a draft to decode with in batches, and how often the draft is accepted."""

    target: ModelWeights
    draft: ModelWeights
    target_precision: Precision
    acceptance: Acceptance


def time_batches(
    pair: BatchPair, batches: Sequence[int], timing: Timing, work: Path, on_progress: Callable[[float], None]
) -> tuple[list[BatchEntry], dict[int, str]]:
    """What speculation comes to at each batch size, and why not at the others."""
    save_weights(pair.target, work / "target")
    save_weights(pair.draft, work / "draft")
    tables, failures = [], {}
    overheads_s = (0.0, 0.0)
    for place, batch in enumerate(batches):
        programs = _programs(pair, batch, timing, work)
        table: BatchTable | Rejected
        if isinstance(programs, Rejected):
            table = programs
        elif batch == 1:
            single = _single(programs, timing)
            table = single if isinstance(single, Rejected) else table_of_one(*single)
            if not isinstance(single, Rejected):
                overheads_s = single[1].overhead_s, single[1].plain_overhead_s
        else:
            request = BatchRequest(*programs, MOST_LOOKAHEAD, timing.measuring)
            table = measure_batch(request, timing.limits, device_lock(timing.device))
        if isinstance(table, Rejected):
            failures[batch] = str(table)
        else:
            tables.append(table)
        on_progress((place + 1) / len(batches))
    return list(schedule(pair.acceptance, tables, *overheads_s)), failures


def by_batch(entries: Sequence[BatchEntry], failures: dict[int, str], pair: str, device: str) -> Experiment:
    """(g): best lookahead and speed-up against the batch."""
    rows = tuple(
        (entry.batch, entry.lookahead, entry.largest_lookahead, entry.tokens_per_s.value, entry.speedup.value, "")
        for entry in entries
    ) + tuple((batch, None, None, None, None, reason) for batch, reason in failures.items())
    columns = ("batch", "best k", "largest k that pays", "tokens/s of all", "speed-up", "not measured because")
    formats = {"tokens/s of all": ",.0f", "speed-up": ".2f"}
    batches = tuple(float(entry.batch) for entry in entries)
    return Experiment(
        key="g",
        title="Batch size",
        claim="The paper varies the batch size; its tables are not known here.",
        claim_source=UNKNOWN,
        finding=_finding(entries, device),
        evidence=tuple(dict.fromkeys(entry.speedup.evidence for entry in entries)),
        tables=(Table(columns, rows, formats).without_empty_columns(),),
        charts=(
            Chart(
                "Speculation in batches",
                "batch",
                "speed-up; best k",
                (
                    Series("speed-up at the best k", batches, tuple(entry.speedup.value for entry in entries)),
                    Series("best k", batches, tuple(float(entry.lookahead) for entry in entries)),
                ),
            ),
        ),
        notes=(
            f"{pair}. Verifying b · (k + 1) positions costs more the larger the batch: from some size on it pays to "
            "draft less.",
        ),
    )


def _finding(entries: Sequence[BatchEntry], device: str) -> str:
    if not entries:
        return "No batch could be measured."
    first, last = entries[0], entries[-1]
    if first is last:
        return (
            f"On {device}, only batch {first.batch} could be measured: its best k is {first.lookahead}, its speed-up "
            f"{first.speedup.value:.2f}."
        )
    return (
        f"On {device}, the best k goes from {first.lookahead} at batch {first.batch} to {last.lookahead} at batch "
        f"{last.batch}, the speed-up from {first.speedup.value:.2f} to {last.speedup.value:.2f}."
    )


def _programs(pair: BatchPair, batch: int, timing: Timing, work: Path) -> tuple[str, str] | Rejected:
    """The folders of the target's and the draft's programs for a batch."""
    folders = []
    for name, precision in (("target", pair.target_precision), ("draft", timing.precision)):
        settings = replace(timing.compiling(), precision=precision, batch=batch)
        request = BuildRequest(str(work / name), timing.backend, settings, str(work / f"{name}-{batch}"))
        lock = device_lock(timing.device)
        built = build_sandboxed(request, timing.limits, threads=timing.measuring.threads, lock=lock)
        if not isinstance(built, Built):
            return built
        folders.append(built.program)
    return folders[0], folders[1]


def _single(programs: tuple[str, str], timing: Timing) -> tuple[LatencyTable, TargetLatency] | Rejected:
    """The draft's bursts and the target's side of a round, for one sequence."""
    target, draft = programs
    lock = device_lock(timing.device)
    bursts = BurstRequest(draft, MOST_LOOKAHEAD, timing.measuring, SamplingSettings())
    burst = measure_bursts_sandboxed(bursts, timing.limits, lock)
    if isinstance(burst, Rejected):
        return burst
    verifications = TargetRequest(target, draft, MOST_LOOKAHEAD, timing.measuring, SamplingSettings())
    latency = measure_target_sandboxed(verifications, timing.limits, lock)
    return latency if isinstance(latency, Rejected) else (burst, latency)
