"""Which lookahead pays when several sequences are decoded at once: measuring batches, and the schedule that follows.

A batch of b sequences drafts in lockstep (a call of `[b, 2]` tokens, since after a round some of the sequences have
kept all that was drafted, and k - 1 of `[b, 1]`) and is verified by one call of `[b, k + 1]`:

    throughput_b(k) = b · TAR(k) / (burst_b(k) + verify_b(k + 1) + b · overhead)

where the loop's own work is done for one sequence after the other.  Drafting is greedy when it is measured, and behind
a verification, as each verification is behind a burst: what one model leaves in the processor's caches decides much of
what the other takes.  The target's step, which plain decoding repeats, is measured behind another.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import TypeAdapter

from autotune.batch_results import BatchEntry, BatchMemory
from autotune.compile.sandbox import CandidateRejected, Limits, Phase, run_sandboxed
from autotune.devices import find_device
from autotune.measure import sample_seconds
from autotune.objective import MEAN, Objective
from autotune.results import (
    Acceptance,
    Figure,
    LatencyTable,
    MeasureSettings,
    Rejected,
    RejectReason,
    TargetLatency,
)
from autotune.runtime.session import BatchSession, open_batch_session
from autotune.score import score_lookahead, score_target_alone
from autotune.shape import DraftShape

_PREFILL_TOKENS = 64
_LOGIT_BYTES = 4


@dataclass(frozen=True)
class BatchRequest:
    """Measure two program folders that were compiled for the same batch of at least two sequences."""

    target: str
    draft: str
    max_lookahead: int
    settings: MeasureSettings
    seed: int = 0


@dataclass(frozen=True)
class BatchTable:
    """Seconds of a batch's calls: bursts of 1 … K draft steps, and verifications of 1 … K + 1 positions."""

    batch: int
    burst: LatencyTable
    verify: LatencyTable

    @property
    def max_lookahead(self) -> int:
        """The largest lookahead that both tables cover."""
        return min(self.burst.largest, self.verify.largest - 1)


def table_of_one(burst: LatencyTable, target: TargetLatency) -> BatchTable:
    """The table of a single sequence, of what a run has measured anyway."""
    return BatchTable(1, burst, target.verify)


def schedule(
    acceptance: Acceptance,
    tables: Sequence[BatchTable],
    overhead_s: float = 0.0,
    plain_overhead_s: float = 0.0,
    *,
    lookaheads: Collection[int] | None = None,
    objective: Objective = MEAN,
) -> tuple[BatchEntry, ...]:
    """The best lookahead of every measured batch, smallest batch first (pure).

    overhead_s, plain_overhead_s: of one sequence's round, and of its step with the target alone (`TargetLatency`).
    lookaheads: those to choose from, beside 0; all that were measured if None.  objective: whose TAR decides.
    """
    return tuple(
        _entry(acceptance, table, overhead_s, plain_overhead_s, lookaheads, objective)
        for table in sorted(tables, key=lambda each: each.batch)
    )


def lookahead_schedule(entries: Sequence[BatchEntry]) -> tuple[tuple[int, int, int], ...]:
    """`(smallest batch, largest batch, k)` for a manifest, without gaps from 1 to the largest batch measured.

    A batch between two measured ones takes the lookahead of the larger, which is the cautious one.
    """
    ranges, first = [], 1
    for entry in sorted(entries, key=lambda each: each.batch):
        ranges.append((first, entry.batch, entry.lookahead))
        first = entry.batch + 1
    return tuple(ranges)


def batch_memory(
    target: DraftShape, draft: DraftShape, batch: int, context_tokens: int, lookahead: int, cache_item_bytes: int = 4
) -> BatchMemory:
    """What `batch` sequences of `context_tokens` and a round of that lookahead take.

    cache_item_bytes: of one number in the cache; 2 where floats are halves.
    """
    positions = context_tokens + lookahead + 1

    def cache_bytes(shape: DraftShape) -> int:
        return batch * positions * shape.kv_bytes_per_token * cache_item_bytes // 4

    logits = batch * ((lookahead + 1) * target.head_rows + draft.head_rows) * _LOGIT_BYTES
    return BatchMemory(batch, cache_bytes(target), cache_bytes(draft), logits)


def _entry(
    acceptance: Acceptance,
    table: BatchTable,
    overhead_s: float,
    plain_overhead_s: float,
    lookaheads: Collection[int] | None,
    objective: Objective,
) -> BatchEntry:
    batch = table.batch
    target = TargetLatency(table.verify, batch * overhead_s, batch * plain_overhead_s)
    scores = {0: score_target_alone(target)} | {
        k: score_lookahead(acceptance, table.burst, target, k, objective)
        for k in range(1, min(acceptance.max_lookahead, table.max_lookahead) + 1)
        if lookaheads is None or k in lookaheads
    }
    alone = scores[0].tokens_per_s.value
    best = max(scores, key=lambda k: scores[k].tokens_per_s.value)  # of equals the smallest
    largest = max(k for k in scores if k == 0 or scores[k].tokens_per_s.value > alone)
    return BatchEntry(batch, best, largest, _of_all(scores[best].tokens_per_s, batch), scores[best].speedup)


def _of_all(figure: Figure, batch: int) -> Figure:
    """The tokens/s of all sequences together, of those of one."""
    low, high = (None if end is None else batch * end for end in (figure.low, figure.high))
    return Figure(batch * figure.value, figure.evidence, low, high)


def measure_batch(request: BatchRequest, limits: Limits, lock: FileLock) -> BatchTable | Rejected:
    """The latencies of a pair of batch programs, measured in a worker that may hang or crash."""
    threads = request.settings.threads
    outcome = run_sandboxed(
        f"{__name__}:{batch_job.__name__}", asdict(request), Phase.RUN, limits, threads=threads, lock=lock
    )
    return outcome if isinstance(outcome, Rejected) else TypeAdapter(BatchTable).validate_python(outcome)


def batch_job(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sandbox entry: a `BatchRequest` as JSON to a `BatchTable` as JSON; rejects programs that yield NaN."""
    request = TypeAdapter(BatchRequest).validate_python(fields)
    target, draft = (
        open_batch_session(Path(folder), request.settings.threads) for folder in (request.target, request.draft)
    )
    dumped: Mapping[str, Any] = TypeAdapter(BatchTable).dump_python(
        measure_batch_sessions(target, draft, request), mode="json"
    )
    return dumped


def measure_batch_sessions(target: BatchSession, draft: BatchSession, request: BatchRequest) -> BatchTable:
    """Latency of bursts and verifications behind `context_tokens` cached positions of every sequence, interleaved.

    Where the draft stands for a target that is not here, a read of foreign memory stands for its calls as well.
    """
    batch = target.program.batch
    if draft.program.batch != batch:
        raise ValueError(f"the target decodes {batch} sequences at once, the draft {draft.program.batch}")
    count = max(request.settings.context_tokens, 2)
    vocab = min(target.program.shape.vocab, draft.program.shape.vocab)
    tokens = np.random.default_rng(request.seed).integers(vocab, size=(batch, count + request.max_lookahead))
    for session in (target, draft):
        _fill(session, tokens[:, :count])
    starts = np.full(batch, count - 1)

    def burst(steps: int) -> Callable[[], object]:
        def run() -> None:
            drafted = draft.greedy(tokens[:, count - 2 : count], (starts - 1).tolist())[:, -1:]
            for step in range(1, steps):
                drafted = draft.greedy(drafted, (starts + step).tolist())

        return run

    def verify(positions: int) -> Callable[[], object]:
        given = tokens[:, count - 1 : count - 1 + positions]
        return lambda: target.greedy(given, starts.tolist())

    bursts = [burst(steps) for steps in range(1, request.max_lookahead + 1)]
    verifications = [verify(positions) for positions in range(1, request.max_lookahead + 2)]
    device = target.program.device
    before = [*verifications[1:], verifications[0], *bursts] if request.draft != request.target else None
    samples_s = sample_seconds([*bursts, *verifications], request.settings, device, before)
    fingerprint = find_device(device).fingerprint
    return BatchTable(
        batch,
        LatencyTable(samples_s[: len(bursts)], request.settings, fingerprint, drafting=draft.program.drafting),
        LatencyTable(samples_s[len(bursts) :], request.settings, fingerprint),
    )


def _fill(session: BatchSession, tokens: NDArray[np.int64]) -> None:
    """Cache all tokens `[batch, n]` of the sequences; CandidateRejected if a logit is not a number."""
    for start in range(0, tokens.shape[1], _PREFILL_TOKENS):
        logits = session.logits(tokens[:, start : start + _PREFILL_TOKENS], [start] * len(tokens))
        if not np.isfinite(logits).all():
            raise CandidateRejected(RejectReason.NOT_A_NUMBER, "a batch program's logits are not all finite")
