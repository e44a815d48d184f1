"""Everything a report is made from, as a run hands it over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autotune.adaptive_results import AdaptiveOutcome
from autotune.batch_results import BatchEntry, BatchMemory
from autotune.candidate import DraftShape, Precision
from autotune.category_results import CategoryOutcome
from autotune.lookup_results import LookupFirstOutcome, LookupOutcome
from autotune.objective import MEAN, Objective
from autotune.refinement import Refinement
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


@dataclass(frozen=True)
class PublishedTar:
    """Tokens per round that others published of a draft."""

    target: str
    draft: str
    shape: str
    tokens_per_round: float
    origin: str
    """Where it was published, and how well it is known."""


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
    lookups: Sequence[LookupOutcome] = ()
    """Drafters without a model, the fastest by prediction first."""
    chosen_lookup: LookupOutcome | None = None
    """The one that ships instead of a draft."""
    lookup_first: LookupFirstOutcome | None = None
    """A draft with a lookup before it; None where that was not predicted to gain."""
    chosen_first: LookupFirstOutcome | None = None
    """The same, where the two ship."""
    command: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    looping_share: float | None = None
    """Share of the estimation split's continuations that loop; loops are easy to draft and inflate acceptance."""
    interrupted: bool = False
    target_precision: Precision = Precision.FP32
    """What the target was compiled in."""
    kernel_tuning: KernelTuning | None = None
    """What tuning the winner's kernels came to; None where it was not asked for or the winner is not TVM's."""
    adaptive: AdaptiveOutcome | None = None
    """What choosing the lookahead round by round came to; None where it was not asked for."""
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
    published: Sequence[PublishedTar] = ()
    """What others published, to be shown beside stand-ins."""
    batches: Sequence[tuple[BatchEntry, BatchMemory]] = ()
    """What speculation comes to at each batch size, where more than one was asked for."""
    objective: Objective = MEAN
    """By which the workload's categories count in all figures that name no category."""
    by_category: Mapping[str, Sequence[CategoryOutcome]] = field(default_factory=dict)
    """By the key of a finished build: what it comes to in each category, where there are several."""
    refinement: Refinement | None = None
    """On how many traces builds were scored; None: each on all estimation traces."""
    planned_trials: int | None = None
    """Most builds that the search was to evaluate."""
