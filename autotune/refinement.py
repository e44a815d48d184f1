"""What the refinement of acceptance came to, for the disk and for reports."""

from dataclasses import dataclass

from autotune.results import Acceptance, Rejected


@dataclass(frozen=True)
class Refined:
    """A build scored on more traces than the search did: a line of `refined.jsonl`."""

    build: str
    """Its key."""
    traces: int
    """The first so many of the estimation traces, in the order of the levels."""
    outcome: Acceptance | Rejected
    """On all of these."""


@dataclass(frozen=True)
class Level:
    """A part of the estimation traces that builds were scored on; each is inside the next."""

    traces: int
    tokens: int
    """The target's tokens in these traces."""
    builds: int
    """Builds whose tokens per round rest on these traces and no more."""


@dataclass(frozen=True)
class Refinement:
    """The levels of a run, ascending; the last is all estimation traces."""

    levels: tuple[Level, ...]

    @property
    def spent_tokens(self) -> int:
        """Trace tokens that were scored, over all builds."""
        return sum(level.builds * level.tokens for level in self.levels)

    @property
    def whole_tokens(self) -> int:
        """Trace tokens that all builds on all traces come to."""
        return sum(level.builds for level in self.levels) * self.levels[-1].tokens
