"""What a page of experiments holds: tables, charts and findings, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from autotune.results import Evidence

Cell = str | float | int | None
"""A word or a number; None is unknown."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under column names; `formats` says how a column's numbers are printed (`.2f`)."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    formats: Mapping[str, str] = field(default_factory=dict)
    title: str = ""

    def without_empty_columns(self) -> "Table":
        """The table without the columns that hold nothing but empty words."""
        kept = [place for place in range(len(self.columns)) if any(row[place] != "" for row in self.rows)]
        rows = tuple(tuple(row[place] for place in kept) for row in self.rows)
        return Table(tuple(self.columns[place] for place in kept), rows, self.formats, self.title)


@dataclass(frozen=True)
class Series:
    """Points of one kind, joined by a line or not."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    spread: tuple[tuple[float, float], ...] | None = None
    """(low, high) of each y."""
    joined: bool = True


@dataclass(frozen=True)
class Chart:
    """Series over common axes."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Experiment:
    """One question: what was claimed, what came out here."""

    key: str
    title: str
    claim: str
    """The published result, in words."""
    claim_source: str
    """How the claim is known: second-hand, derived, unknown."""
    finding: str
    """What the figures here say, in words."""
    evidence: tuple[Evidence, ...]
    """Of the figures here."""
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExperimentPage:
    """Everything a page says."""

    title: str
    introduction: str
    device: str
    settings: Mapping[str, str]
    """How it was measured, in words, by what."""
    experiments: tuple[Experiment, ...]
    versions: Mapping[str, str]
    command: str
    date: str
    wall_s: float
