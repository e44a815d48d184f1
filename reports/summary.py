"""What a report says, as data: `RunFacts` in, `RunSummary` out; `summary.json` is a RunSummary as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from autotune.batch_results import BatchEntry, BatchMemory
from autotune.candidate import Drafting, DraftShape, Precision
from autotune.results import (
    Figure,
    KernelTuning,
    MeasureSettings,
    RunKind,
    Score,
    TargetLatency,
    TrialRecord,
    Validated,
)

SCHEMA_VERSION = 1
"""Raised when a key changes its meaning or vanishes; new keys do not raise it."""


@dataclass(frozen=True)
class RunFacts:
    """Everything a report is made from, as the tuner knows it at the end (or the interruption) of a run."""

    target: str
    source: str
    device: str
    """Fingerprint of the device everything was measured on."""
    latency: TargetLatency
    baseline: Figure
    """Tokens/s of the target alone: measured by the validation, or 1 / step time where nothing was validated."""
    records: Sequence[TrialRecord]
    front: Sequence[tuple[TrialRecord, Score]]
    """Candidates that no other beats in both round time and tokens per round; k = 0 is not among them."""
    validated: Sequence[Validated]
    chosen: Validated | None
    """The validated draft that ships; None if the target alone is at least as fast, or nothing was validated."""
    wall_s: float
    seed: int
    command: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    looping_share: float | None = None
    """Share of the estimation split's continuations that loop; loops are easy to draft and inflate acceptance."""
    interrupted: bool = False
    target_precision: Precision = Precision.FP32
    """What the target was compiled in."""
    kernel_tuning: KernelTuning | None = None
    """What tuning the winner's kernels came to; None where it was not asked for or the winner is not TVM's."""
    kind: RunKind = RunKind.WHOLE
    banner: Sequence[str] = ()
    """What must be said before any figure, a sentence each; empty for a whole run."""
    ready: tuple[TrialRecord, Score] | None = None
    """The finished draft of a run that cannot decode, with its prediction made anew."""
    target_shape: DraftShape | None = None
    context_tokens: int | None = None
    """Positions of every cache."""
    latency_source: str | None = None
    """Where the target's latency comes from, in words."""
    measuring: MeasureSettings | None = None
    """How drafts were measured; beside a table of the user's, not as the target was."""
    stand_in: Mapping[str, str] = field(default_factory=dict)
    """By the name of a shape on the front: the shape whose acceptance stands in for its own."""
    published: Sequence["PublishedTar"] = ()
    """What others published, to be shown beside stand-ins."""
    batches: Sequence[tuple[BatchEntry, BatchMemory]] = ()
    """What speculation comes to at each batch size, where more than one was asked for."""


@dataclass(frozen=True)
class PublishedTar:
    """Tokens per round that others published of a draft."""

    target: str
    draft: str
    shape: str
    tokens_per_round: float
    origin: str
    """Where it was published, and how well it is known."""


class Verdict(StrEnum):
    """What the run advises."""

    SPECULATE = "speculate"
    DO_NOT_SPECULATE = "do-not-speculate"
    NOT_VALIDATED = "not-validated"
    NOTHING_FEASIBLE = "nothing-feasible"


@dataclass(frozen=True)
class ShapeSummary:
    """A draft's architecture (it reads the target's whole vocabulary)."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    ffn: int
    draft_vocab: int | None = None
    """Tokens it can propose, if its head is trimmed; null: all of the vocabulary."""


@dataclass(frozen=True)
class FigureSummary:
    """A number, how it was got, and its interval `[low, high]` if it has one."""

    value: float | None
    evidence: str
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class TarSummary:
    """Tokens per round, by the proxy and by decoding; null where unknown."""

    estimated: float | None
    measured: float | None
    estimated_interval: tuple[float, float] | None = None
    measured_interval: tuple[float, float] | None = None
    estimated_evidence: str = "estimated"


@dataclass(frozen=True)
class SpeedSummary:
    """A speed, before and after it was really decoded; null where unknown."""

    predicted: float | None
    measured: float | None
    predicted_interval: tuple[float, float] | None = None
    measured_interval: tuple[float, float] | None = None
    predicted_evidence: str = "estimated"


@dataclass(frozen=True)
class BaselineSummary:
    """The target alone (k = 0)."""

    tokens_per_s: float | None
    evidence: str
    interval: tuple[float, float] | None
    step_s: float
    """Median seconds of one plain decode step."""
    step_evidence: str = "measured"
    step_interval: tuple[float, float] | None = None
    source: str | None = None
    """Where the target's latencies come from, in words."""


@dataclass(frozen=True)
class RoundSummary:
    """Where a round's time goes: measured mean seconds, and the share outside both models."""

    rounds: int
    burst_s: float
    verify_s: float
    overhead_s: float
    overhead_share: float

    @property
    def round_s(self) -> float:
        """Mean seconds of one round."""
        return self.burst_s + self.verify_s + self.overhead_s


@dataclass(frozen=True)
class DraftSummary:
    """A draft with its lookahead, or the target alone: lookahead 0 and no shape."""

    name: str
    shape: ShapeSummary | None
    lookahead: int
    backend: str | None
    precision: str | None
    parameters: int
    tar: TarSummary
    tokens_per_s: SpeedSummary
    speedup: SpeedSummary
    round: RoundSummary | None = None
    drafting: Drafting | None = None
    """Whether its bursts are one program or a call for every token."""
    divergences: int | None = None
    """Prompts whose greedy output first differs from the target's own where its best two logits were level."""
    mismatches: int | None = None
    """Prompts whose greedy output differs anywhere else: such a draft never ships."""
    break_even: FigureSummary | None = None
    """Tokens per round at which it is just as fast as the target alone, as predicted."""


@dataclass(frozen=True)
class FrontSummary:
    """A point of the Pareto front, as predicted before validation."""

    name: str
    trial: int
    shape: ShapeSummary
    lookahead: int
    backend: str
    precision: str
    parameters: int
    tar: FigureSummary
    round_s: FigureSummary
    tokens_per_s: FigureSummary
    speedup: FigureSummary
    drafting: Drafting | None = None
    """Whether its bursts are one program or a call for every token."""
    break_even: FigureSummary | None = None
    """Tokens per round at which it is just as fast as the target alone."""
    to_match_best: FigureSummary | None = None
    """Tokens per round at which it is just as fast as the best draft of another shape."""
    stand_in: str | None = None
    """The shape of another family whose tokens per round are given, where its own are not known."""
    kv_bytes: int | None = None
    """Bytes of its cache at the run's context."""


@dataclass(frozen=True)
class FailureSummary:
    """A build that could not be scored, and why."""

    trial: int
    name: str
    reason: str
    detail: str
    stderr: str
    """The last lines the worker wrote."""


@dataclass(frozen=True)
class ForecastSummary:
    """What a screened build was predicted to come to at a lookahead; the interval's low end is the optimistic one."""

    lookahead: int
    tar: FigureSummary
    burst_s: FigureSummary
    round_s: FigureSummary
    rival_trial: int | None
    """Trial of the front's richest round that is no longer; null: over the limit of latency."""
    rival_lookahead: int | None


@dataclass(frozen=True)
class ScreenedSummary:
    """A build that was not compiled, since the cost model's optimistic latencies would not have moved the front."""

    trial: int
    name: str
    backend: str
    precision: str
    parameters: int
    margin: float
    """Share of the predicted burst seconds that the optimistic ones are below them."""
    builds: int
    """Measured builds of the same backend and precision that the prediction rests on."""
    gain: float
    """Share of the front's hypervolume that it could have added at most."""
    best_speedup: FigureSummary
    """Predicted at its fastest lookahead; the interval's high end is the optimistic one."""
    best_lookahead: int
    forecasts: tuple[ForecastSummary, ...]


@dataclass(frozen=True)
class TuningSummary:
    """What tuning the winner's kernels came to; its other figures are those of the untuned program."""

    kept: bool
    detail: str
    tried: int
    seconds: float
    speedup: FigureSummary | None
    """Burst latency of the untuned program over that of the tuned one; null if it was not measured."""
    schedules: Mapping[str, str]


@dataclass(frozen=True)
class BatchSummary:
    """What speculation comes to when several sequences are decoded at once."""

    batch: int
    lookahead: int
    """The k with the most tokens/s; 0: the target alone is fastest."""
    largest_lookahead: int
    """The largest k that is still faster than the target alone."""
    tokens_per_s: FigureSummary
    """Of all sequences together."""
    speedup: FigureSummary
    target_kv_bytes: int
    draft_kv_bytes: int
    logits_bytes: int


@dataclass(frozen=True)
class RunSummary:
    """The content of a report; the field names are the keys of `summary.json`."""

    schema_version: int
    target: str
    target_precision: str
    source: str
    device: str
    verdict: Verdict
    sentence: str
    baseline: BaselineSummary
    best: DraftSummary
    front: tuple[FrontSummary, ...]
    validated: tuple[DraftSummary, ...]
    failures: tuple[FailureSummary, ...]
    screened_builds: tuple[ScreenedSummary, ...]
    shapes_evaluated: int
    """Distinct shapes with a score, whatever the backend and precision; trimmed heads make other shapes."""
    trials: int
    """Builds evaluated; each that was measured gives a score for every lookahead."""
    screened: int
    """Builds not compiled, since by the cost model none of their lookaheads would have moved the front."""
    failed: int
    ruled_out: int
    """Builds that a limit of the user's left without a score; not counted as failed."""
    known: int
    """Builds whose latencies an earlier run had measured, as the tuning database knew."""
    known_since: str | None
    """When the oldest of these latencies, the target's included, was measured (ISO 8601)."""
    wall_s: float
    overhead_s: float
    """Seconds per round outside both models that the predictions assumed."""
    looping_share: float | None
    interrupted: bool
    seed: int
    command: tuple[str, ...]
    versions: Mapping[str, str]
    kernel_tuning: TuningSummary | None = None
    kind: RunKind = RunKind.WHOLE
    banner: tuple[str, ...] = ()
    """What must be said before any figure; empty for a whole run."""
    context_tokens: int | None = None
    target_kv_bytes: int | None = None
    """Bytes of the target's cache at that context."""
    threads: int | None = None
    """Of every program that was measured here."""
    measured_context_tokens: int | None = None
    """Cached positions behind which drafts were measured."""
    published: tuple[PublishedTar, ...] = ()
    """Others' figures, second-hand: beside ours, never among them."""
    batches: tuple[BatchSummary, ...] = ()
    """Smallest batch first; empty where only one sequence at a time was asked for."""

    def to_json(self) -> str:
        """The text of `summary.json`; numbers that are not finite or not known are null."""
        return json.dumps(_finite(asdict(self)), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
