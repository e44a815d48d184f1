"""What drafting without a model comes to, alone and before a draft is asked (frozen, serialisable, no arrays)."""

from dataclasses import dataclass

from autotune.candidate import Build, Lookup
from autotune.results import Figure, Score


@dataclass(frozen=True)
class Decoded:
    """What decoding the held-out prompts came to, by the run's objective."""

    tar: Figure
    tokens_per_s: Figure
    speedup: Figure
    """Over the target alone."""
    divergences: int = 0
    """Prompts whose greedy output first differs from the target's own where its top two logits were level."""
    mismatches: int = 0
    """Prompts whose greedy output differs anywhere else."""

    @property
    def pays(self) -> bool:
        """Whether it was faster than the target alone, and altered nothing."""
        return self.speedup.value > 1.0 and not self.mismatches


@dataclass(frozen=True)
class LookupOutcome:
    """A drafter without a model: as estimated, and as measured where it decoded held-out prompts."""

    lookup: Lookup
    scores: tuple[Score, ...]
    """For lookaheads 1 … K."""
    lookahead: int
    """The one with most predicted tokens/s; it decoded with this one, if it did."""
    decoded: Decoded | None = None

    @property
    def best(self) -> Score:
        """The score of its lookahead."""
        return next(score for score in self.scores if score.lookahead == self.lookahead)


@dataclass(frozen=True)
class LookupFirstOutcome:
    """A draft model that is asked only where looking the text up finds nothing."""

    build: Build
    """The draft's."""
    lookup: Lookup
    lookup_lookahead: int
    """Tokens proposed where something is found."""
    best: Score
    """Predicted of both together at the fastest lookaheads; the score's own is the draft's."""
    decoded: Decoded | None = None

    def __str__(self) -> str:
        return (
            f"{self.build.shape}, k = {self.best.lookahead}, asked where {self.lookup}, "
            f"k = {self.lookup_lookahead}, finds nothing"
        )
