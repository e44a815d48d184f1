"""What a run tells whoever watches it; the terminal, a notebook or a test implements `Observer`."""

import logging
from dataclasses import dataclass
from typing import Protocol

from autotune.results import Score, TrialRecord
from autotune.time_left import TimeLeft

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchStatus:
    """Where the search stands after a trial."""

    evaluated: int
    planned: int
    rejected: int
    front_size: int
    best: tuple[TrialRecord, Score] | None
    """The fastest prediction so far; None if nothing was measured yet."""
    left: TimeLeft
    """How long the search still takes, by the builds it has finished and by its budget."""
    screened: int = 0


class Observer(Protocol):
    """Receives a run's progress; must return quickly."""

    def phase(self, title: str) -> None:
        """A new phase has begun."""

    def progress(self, fraction: float) -> None:
        """The share of the present phase that is done, 0 … 1."""

    def trial(self, record: TrialRecord, status: SearchStatus) -> None:
        """A build was evaluated."""

    def note(self, text: str) -> None:
        """Something worth knowing: a choice made, a warning."""


class LoggingObserver:
    """Sends progress to the library's log."""

    def phase(self, title: str) -> None:
        """Log the title."""
        logger.info("%s", title)

    def progress(self, fraction: float) -> None:
        """Fractions are too many to log."""

    def trial(self, record: TrialRecord, status: SearchStatus) -> None:
        """Log the trial's number and state."""
        logger.info("trial %d: %s %s", record.number, record.build, record.state.value)

    def note(self, text: str) -> None:
        """Log the note."""
        logger.info("%s", text)
