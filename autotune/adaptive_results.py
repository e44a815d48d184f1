"""What choosing the lookahead round by round comes to beside a fixed one: estimated and measured."""

from dataclasses import dataclass

from autotune.results import Figure


@dataclass(frozen=True)
class AdaptiveEstimate:
    """Adaptive lookahead against the best fixed one, on the same traces."""

    lookahead: int
    """The best fixed one; 0: the target alone."""
    fixed_tokens_per_s: Figure
    tokens_per_s: Figure
    gain: Figure
    """The ratio of the two; its interval is over traces, which are resampled for both."""
    tokens_per_round: float
    drafted_per_round: float


@dataclass(frozen=True)
class AdaptiveOutcome:
    """What became of adaptive lookahead for a run's winner."""

    kept: bool
    """Whether it ships."""
    detail: str
    """Why, or why not."""
    estimated: AdaptiveEstimate | None = None
    """None where it could not be estimated."""
    lookahead: int | None = None
    """The fixed lookahead that it decoded against."""
    measured: Figure | None = None
    """Its tokens/s over those of that lookahead, decoded in turn; None where it was not decoded."""
    fixed_tokens_per_s: Figure | None = None
    tokens_per_s: Figure | None = None
