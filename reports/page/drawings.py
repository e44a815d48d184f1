"""The charts of a page, each with the data it draws and the words around it; what has no data is left out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autotune.reports.charts.pareto import pareto_chart, pareto_data
from autotune.reports.charts.theme import AnyChart, Row, Spec, to_spec
from autotune.reports.charts.timeline import timeline_chart, timeline_data
from autotune.reports.facts import RunFacts
from autotune.reports.trial_rows import trial_rows


@dataclass(frozen=True)
class Drawing:
    """A chart in the page."""

    key: str
    label: str
    """What a reader who cannot see it is told."""
    spec: Spec
    data: Mapping[str, Sequence[Row]]


def drawings(facts: RunFacts) -> Iterator[Drawing]:
    """All charts that have something to show."""
    rows = trial_rows(facts)
    yield _drawing(
        "pareto",
        "Round time against tokens per round of every candidate; the table of all builds has the same figures.",
        pareto_chart(facts),
        pareto_data(facts),
    )
    if rows:
        yield _drawing(
            "timeline",
            "Every build in the order of trials, coloured by what became of it.",
            timeline_chart(rows),
            {"timeline": timeline_data(rows)},
        )


def _drawing(key: str, label: str, chart: AnyChart, data: Mapping[str, Sequence[Row]]) -> Drawing:
    return Drawing(key, label, to_spec(chart), data)
