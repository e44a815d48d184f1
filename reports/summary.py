"""What a report says, as data: `RunFacts` in, `RunSummary` out; `summary.json` is a RunSummary as JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from autotune.candidate import Drafting
from autotune.reports.facts import PublishedTar
from autotune.reports.figure_summaries import FigureSummary, SpeedSummary, TarSummary
from autotune.results import RunKind

SCHEMA_VERSION = 1
"""Raised when a key changes its meaning or vanishes; new keys do not raise it."""


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
class LookupSummary:
    """A drafter without a model, which proposes what followed when the end of the text last occurred."""

    name: str
    lookahead: int
    tar: TarSummary
    tokens_per_s: SpeedSummary
    speedup: SpeedSummary
    tar_by_lookahead: tuple[float, ...]
    """Estimated tokens per round for k = 1 … K."""
    divergences: int = 0
    mismatches: int = 0


@dataclass(frozen=True)
class LookupFirstSummary:
    """A draft that is asked only where looking the text up finds nothing."""

    name: str
    lookup: str
    lookup_lookahead: int
    shape: str
    lookahead: int
    """The draft's."""
    tar: TarSummary
    tokens_per_s: SpeedSummary
    speedup: SpeedSummary
    divergences: int = 0
    mismatches: int = 0


@dataclass(frozen=True)
class CategorySummary:
    """A draft on the text of one category of the workload, at its lookahead."""

    category: str
    traces: int
    """Texts that the estimate rests on."""
    prompts: int
    """Prompts that were decoded."""
    tar: TarSummary
    tokens_per_s: FigureSummary | None
    """Measured; null if nothing of it was decoded."""
    speedup: SpeedSummary
    best_lookahead: int | None
    """The k that is predicted to be fastest here; 0: the target alone."""
    best_speedup: FigureSummary | None
    """Predicted with that k."""


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
    categories: tuple[CategorySummary, ...] = ()
    """Where the workload has several, of a draft that was finished."""
    lookup_first: str | None = None
    """The lookup that is asked before it; TAR, tokens/s and speed-up are then those of both together."""


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
class AdaptiveSummary:
    """What choosing the winner's lookahead round by round came to; its other figures are those of the fixed one."""

    kept: bool
    detail: str
    estimated_gain: FigureSummary | None
    """Over the best fixed lookahead of the estimation traces; null if it could not be estimated."""
    estimated_lookahead: int | None
    """That fixed lookahead."""
    tokens_per_round: float | None
    drafted_per_round: float | None
    lookahead: int | None
    """The winner's, against which it was decoded."""
    measured_gain: FigureSummary | None
    """Null where it was not decoded."""
    fixed_tokens_per_s: FigureSummary | None
    tokens_per_s: FigureSummary | None


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
class ObjectiveSummary:
    """What the run maximised over the workload's categories: figures that name no category are by it."""

    kind: str = "mean"
    """`mean` of all text, the `worst` category, or a `weighted` mean."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Shares of the tokens by category, of a weighted mean."""


@dataclass(frozen=True)
class LevelSummary:
    """A part of the estimation traces, inside the next level's."""

    traces: int
    tokens: int
    builds: int
    """Builds whose tokens per round rest on these traces and no more."""


@dataclass(frozen=True)
class RefinementSummary:
    """The traces that tokens per round rest on; what stands on the front rests on the last level's, all of them."""

    levels: tuple[LevelSummary, ...]
    spent_tokens: int
    """Trace tokens that were scored, over all builds."""
    whole_tokens: int
    """What all builds on all traces come to."""


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
    objective: ObjectiveSummary = ObjectiveSummary()
    refinement: RefinementSummary | None = None
    """Null where every build was scored on all estimation traces."""
    adaptive: AdaptiveSummary | None = None
    """Null where it was not asked for."""
    without_model: tuple[LookupSummary, ...] = ()
    """Drafters without a model at their fastest lookaheads, the fastest first."""
    lookup_first: LookupFirstSummary | None = None
    """Of the finalist predicted fastest, where a lookup before it was predicted to gain."""

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
