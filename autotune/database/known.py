"""The tuning database as a run uses it: trouble with it is said once, and never stops the run."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from autotune.database.entries import Entry, Value, now
from autotune.database.file import DatabaseFile
from autotune.database.subjects import Subject
from autotune.errors import BadRequest
from autotune.results import Rejected, Screened

logger = logging.getLogger(__name__)

V = TypeVar("V", bound=Value)
Nothing = TypeVar("Nothing", bound=Rejected | Screened)
"""What stands where no number could be, or need be, found."""


@dataclass(frozen=True)
class Known(Generic[V]):
    """A number, and when an earlier run got it (UTC, ISO 8601); None: this run did."""

    value: V
    date: str | None


def fresh(outcome: V | Nothing) -> Known[V] | Nothing:
    """The outcome as a number of this run."""
    return outcome if isinstance(outcome, Rejected | Screened) else Known(outcome, None)


class TuningDatabase:
    """Looks numbers up and keeps new ones; where the file cannot be read or written, it knows and keeps nothing."""

    def __init__(self, file: DatabaseFile | None = None) -> None:
        self._file = file or DatabaseFile()
        self._readable = self._writable = True

    def recall(self, subject: Subject, kind: type[V], find_out: Callable[[], V | Nothing]) -> Known[V] | Nothing:
        """What is known about the subject; else what `find_out` returns, which is kept if it is a number."""
        known = self.find(subject, kind)
        if known is not None:
            return known
        outcome = find_out()
        if not isinstance(outcome, Rejected | Screened):
            self.keep(subject, outcome)
        return fresh(outcome)

    def find(self, subject: Subject, kind: type[V]) -> Known[V] | None:
        """What is known about the subject, which is of that type; None if nothing is."""
        if not self._readable:
            return None
        try:
            entry = self._file.find(subject)
        except BadRequest as error:
            self._readable = self._writable = False
            logger.warning("%s; the run goes on without it", error)
            return None
        return Known(entry.value, entry.created) if entry and isinstance(entry.value, kind) else None

    def keep(self, subject: Subject, value: Value) -> None:
        """Store what was found about a subject just now."""
        if not self._writable:
            return
        try:
            self._file.add([Entry(subject, value, now())], replace=True)
        except BadRequest as error:
            self._writable = False
            logger.warning("%s; the run goes on without storing what it measures", error)
