"""What rooms hand each other once something was built, measured or scored (frozen, serialisable, no arrays)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median

from autotune.candidate import Build, Drafting


class Evidence(StrEnum):
    """How a number was got; every number of a report carries one."""

    MEASURED = "measured"
    ESTIMATED = "estimated"
    EXTRAPOLATED = "extrapolated"
    STAND_IN = "stand-in"


@dataclass(frozen=True)
class Figure:
    """A number with its evidence and, where known, an interval `[low, high]`."""

    value: float
    evidence: Evidence
    low: float | None = None
    high: float | None = None


class RunKind(StrEnum):
    """What a run can do, by what of its models is here."""

    WHOLE = "whole"
    """The weights of target and source are here: drafts are measured, scored on the target's text, and decoded."""
    SERVED = "served"
    """Of the target only its text is here: drafts are real and scored on it, but none can be decoded with it."""
    PLAN = "plan"
    """Neither weights nor text: latencies are real, acceptance is a stand-in, and a plan is written."""


class RejectReason(StrEnum):
    """Why a candidate has no score."""

    BUILD_ERROR = "build-error"
    BUILD_TIMEOUT = "build-timeout"
    RUN_ERROR = "run-error"
    RUN_TIMEOUT = "run-timeout"
    QUEUE_TIMEOUT = "queue-timeout"
    OUT_OF_MEMORY = "out-of-memory"
    CRASHED = "crashed"
    NOT_A_NUMBER = "not-a-number"
    CONSTRAINT = "constraint"


@dataclass(frozen=True)
class Rejected:
    """A candidate that could not be scored: a result, with the reason and the worker's captured stderr."""

    reason: RejectReason
    detail: str
    stderr: str = ""

    def __str__(self) -> str:
        return f"{self.reason.value}: {' '.join(self.detail.split())}"


@dataclass(frozen=True)
class Built:
    """A compiled program folder on disk (see `autotune.program`)."""

    program: str
    build_s: float
    weight_bytes: int


@dataclass(frozen=True)
class MeasureSettings:
    """The measuring protocol; part of every cache key of a measurement.

    Each sample is preceded by a read of `evict_bytes` of foreign memory, because in a real round the target's
    weights have just passed through the caches before the draft runs, and the draft's before the target.
    """

    context_tokens: int
    threads: int
    min_time_s: float = 0.4
    min_samples: int = 20
    max_time_s: float = 15.0
    """After this long, three samples of each are enough: a large model must not take minutes."""
    warmup_runs: int = 5
    evict_bytes: int = 0


@dataclass(frozen=True)
class LatencyTable:
    """Seconds for n = 1 … N: bursts of n draft steps, or verifications of n target positions.

    `samples_s[n - 1]` holds every sample of n; figures are medians, spreads are quartiles.  Of an extrapolated table,
    samples are bootstrap replicates of the extrapolated figure, so that their quantiles are its error bar.
    """

    samples_s: tuple[tuple[float, ...], ...]
    settings: MeasureSettings
    device: str
    evidence: Evidence = Evidence.MEASURED
    drafting: Drafting | None = None
    """The way of drafting that the bursts were measured with, the faster one; None for verifications."""
    timed: tuple[int, ...] | None = None
    """The n that were timed, the others' samples being interpolated between theirs; None: all of them."""

    @property
    def largest(self) -> int:
        """The largest n measured."""
        return len(self.samples_s)

    def seconds(self, n: int) -> float:
        """Median seconds for n; 0 for n = 0."""
        return median(self.samples_s[n - 1]) if n else 0.0

    def spread(self, n: int) -> tuple[float, float]:
        """First and third quartile of the samples for n."""
        ordered = sorted(self.samples_s[n - 1])
        return ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]

    def error_bar(self, n: int) -> tuple[float, float] | None:
        """95 % interval of the figure for n of an extrapolated table; None where it was measured."""
        if self.evidence is not Evidence.EXTRAPOLATED or not n:
            return None
        ordered = sorted(self.samples_s[n - 1])
        return ordered[int(0.025 * len(ordered))], ordered[int(0.975 * (len(ordered) - 1))]


@dataclass(frozen=True)
class TargetLatency:
    """The target's side of a round, and what the decoding loop itself costs.

    `overhead_s`: seconds of a speculative round spent outside both models; `plain_overhead_s`: seconds of a step of the
    target alone spent outside the model.
    """

    verify: LatencyTable
    overhead_s: float
    plain_overhead_s: float
    date: str | None = None
    """When it was measured (ISO 8601), if the tuning database knew it; None: in the run that uses it."""
    source: str | None = None
    """Whose figures they are and how they came about, for reports, where it was not this program that measured the
    target's own program: a file of the user's, or an extrapolation and what from."""
    by_context: dict[int, LatencyTable] = field(default_factory=dict)
    """Verifications behind other numbers of cached positions than `verify`'s, for reports."""
    backend: str | None = None
    """Whose program of the target was measured; None where it was none."""

    @property
    def step_s(self) -> float:
        """Seconds per token of the target alone, its loop included."""
        return self.verify.seconds(1) + self.plain_overhead_s

    def round_s(self, burst_s: float, lookahead: int) -> float:
        """Seconds of a round: a burst, the verification of k + 1 positions, and the loop."""
        return burst_s + self.verify.seconds(lookahead + 1) + self.overhead_s


@dataclass(frozen=True)
class Acceptance:
    """Counts of tokens and of expected rounds over traces, for every lookahead 0 … K; ratios are derived.

    `tokens[i]` is the length of trace i, `rounds[i][k]` the expected number of rounds it takes with lookahead k.
    `accepted[j]` / `examined[j]`: expected drafted tokens kept / looked at, at position j + 1 of a burst, at k = K.
    """

    tokens: tuple[int, ...]
    rounds: tuple[tuple[float, ...], ...]
    accepted: tuple[float, ...]
    examined: tuple[float, ...]
    evidence: Evidence = Evidence.ESTIMATED
    categories: tuple[str, ...] = ()
    """Of every trace; empty where they were not asked for, and in records of earlier versions."""

    @property
    def max_lookahead(self) -> int:
        """The largest lookahead K counted."""
        return len(self.rounds[0]) - 1

    def tokens_per_round(self, lookahead: int) -> float:
        """TAR(k): emitted tokens per round, the target's own included, pooled over traces (of all categories)."""
        return sum(self.tokens) / sum(row[lookahead] for row in self.rounds)


@dataclass(frozen=True)
class Score:
    """What a candidate is worth: one round's tokens and seconds, and the speed that follows.

    All of it by the run's objective over the workload's categories (`autotune.objective`): the tokens per round are the
    pooled mean's unless the run maximises the worst category or a weighted mean.
    """

    lookahead: int
    tokens_per_round: Figure
    round_s: Figure
    tokens_per_s: Figure
    speedup: Figure
    break_even: Figure | None = None
    """Tokens per round at which the pair is just as fast as the target alone; None in records of earlier versions."""


@dataclass(frozen=True)
class Measured:
    """A build that was compiled, measured and scored for every lookahead."""

    acceptance: Acceptance
    burst: LatencyTable
    build_s: float
    scores: tuple[Score, ...]
    """One per lookahead 1 … K that satisfies the constraints."""
    acceptance_s: float = 0.0
    """Wall seconds it took to estimate the acceptance, or to look it up."""
    latency_s: float = 0.0
    """Wall seconds it took to compile and measure, or to look the latencies up."""
    acceptance_date: str | None = None
    """When the acceptance was estimated (ISO 8601), if the tuning database knew it; None: in this run."""
    latency_date: str | None = None
    """When the latencies were measured (ISO 8601), if the tuning database knew them; None: in this run."""


@dataclass(frozen=True)
class Rival:
    """A point of the Pareto front as it stood when a build was screened: a trial at a lookahead."""

    trial: int
    lookahead: int
    round_s: float
    tokens_per_round: float


@dataclass(frozen=True)
class Forecast:
    """What a build that was not compiled would come to at a lookahead.

    The intervals of the seconds reach from the optimistic to the predicted value; the pessimistic side plays no part.
    """

    lookahead: int
    tokens_per_round: Figure
    burst_s: Figure
    round_s: Figure
    rival: Rival | None
    """The richest round of the front that is no longer than the optimistic one, or the shortest, if all are longer;
    None: even the optimistic round breaks a limit."""

    @property
    def shortest_round_s(self) -> float:
        """Seconds of the optimistic round."""
        return self.round_s.value if self.round_s.low is None else self.round_s.low

    @property
    def most_tokens_per_s(self) -> float:
        """Tokens/s of the optimistic round."""
        return self.tokens_per_round.value / self.shortest_round_s


@dataclass(frozen=True)
class Screened:
    """A build that was not compiled, as no lookahead of it would move the front even with optimistic latencies."""

    forecasts: tuple[Forecast, ...]
    """One per lookahead that keeps the constraints known before a build."""
    margin: float
    """Share of the predicted burst seconds that the optimistic ones are below them."""
    builds: int
    """Measured builds of the same backend and precision that the prediction rests on."""
    gain: float
    """Share of the front's hypervolume that it could have added at most."""

    def best(self) -> Forecast:
        """The lookahead with most optimistic tokens/s."""
        return max(self.forecasts, key=lambda forecast: forecast.most_tokens_per_s)


class TrialState(StrEnum):
    """How the evaluation of a build ended."""

    MEASURED = "measured"
    REJECTED = "rejected"
    SCREENED = "screened"


Outcome = Measured | Rejected | Screened


@dataclass(frozen=True)
class TrialRecord:
    """One evaluated build: a line of `trials.jsonl`."""

    number: int
    build: Build
    parameters: int
    wall_s: float
    outcome: Outcome
    params: dict[str, int | str] = field(default_factory=dict)
    """The search-space parameters it was suggested with (without the lookahead)."""

    @property
    def state(self) -> TrialState:
        """Whether it has scores, and if not, whether it was tried at all."""
        match self.outcome:
            case Measured():
                return TrialState.MEASURED
            case Rejected():
                return TrialState.REJECTED
            case Screened():
                return TrialState.SCREENED

    @property
    def ruled_out(self) -> bool:
        """Whether a limit of the user's, not a failure, left it without a score."""
        return isinstance(self.outcome, Rejected) and self.outcome.reason is RejectReason.CONSTRAINT

    @property
    def scores(self) -> Sequence[Score]:
        """Its scores; none if it was rejected or screened."""
        return self.outcome.scores if isinstance(self.outcome, Measured) else ()

    def best(self) -> Score | None:
        """The lookahead with the highest predicted tokens/s."""
        return max(self.scores, key=lambda score: score.tokens_per_s.value, default=None)


@dataclass(frozen=True)
class KernelTuning:
    """What tuning the winner's kernels came to."""

    kept: bool
    """Whether the tuned program shipped."""
    detail: str
    """Why, or why not."""
    tried: int
    """Schedules that were timed."""
    seconds: float
    speedup: Figure | None = None
    """Burst latency of the untuned program over that of the tuned one, in pairs; None if it was not measured."""
    schedules: dict[str, str] = field(default_factory=dict)
    """By matrix, where another schedule than the default one was found faster."""


@dataclass(frozen=True)
class Validated:
    """A draft that really decoded held-out prompts with the target, beside the target alone: predicted and measured.

    Figures are by the run's objective, as in `Score`.  `burst_s`, `verify_s` and `overhead_s` are measured mean seconds
    of one round.
    """

    build: Build
    lookahead: int
    tar_estimated: Figure
    tar_measured: Figure
    tokens_per_s_predicted: Figure
    tokens_per_s_measured: Figure
    speedup_predicted: Figure
    speedup_measured: Figure
    rounds: int
    burst_s: float
    verify_s: float
    overhead_s: float
    divergences: int = 0
    """Prompts whose greedy output first differs from the target's own where its top two logits were level."""
    mismatches: int = 0
    """Prompts whose greedy output differs anywhere else; such a pair is not lossless and never ships."""
    drafting: Drafting | None = None
    """How the draft drafted."""
    tar_proxy: Figure | None = None
    """What the search estimated of it at this lookahead, before it was finished."""

    @property
    def round_s(self) -> float:
        """Measured mean seconds of one round."""
        return self.burst_s + self.verify_s + self.overhead_s
