"""The charts of a page, each with the data it draws and the words around it; what has no data is left out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autotune.reports.charts.acceptance import acceptance_chart, acceptance_data
from autotune.reports.charts.architecture import architecture_chart, architecture_data
from autotune.reports.charts.draft_latency import draft_latency_data, latency_by_depth, latency_by_parameters
from autotune.reports.charts.pareto import pareto_chart, pareto_data
from autotune.reports.charts.round_parts import rounds_chart, rounds_data
from autotune.reports.charts.theme import AnyChart, Row, Spec, to_spec
from autotune.reports.charts.timeline import timeline_chart, timeline_data
from autotune.reports.charts.truth import truth_chart, truth_data
from autotune.reports.charts.what_if import what_if, what_if_chart, what_if_data
from autotune.reports.facts import RunFacts
from autotune.reports.trial_rows import trial_rows
from autotune.results import Evidence


@dataclass(frozen=True)
class Drawing:
    """A chart in the page."""

    key: str
    label: str
    """What a reader who cannot see it is told."""
    spec: Spec
    data: Mapping[str, Sequence[Row]]

    @property
    def evidence(self) -> list[Evidence]:
        """How the figures were got that it shows, the strongest first."""
        told = {str(row.get("evidence")) for rows in self.data.values() for row in rows}
        return [evidence for evidence in Evidence if any(evidence.value in words for words in told)]


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
    if any(record.scores for record in facts.records):
        yield from _of_scores(facts)
    for key, label in (("tar", "Tokens per round, estimated against measured."), ("speed", "Tokens/s, likewise.")):
        data = truth_data(facts)[key]
        if data["pairs"]:
            yield _drawing(f"truth-{key}", label, truth_chart(facts, key), data)
    supposed = what_if(facts)
    if supposed:
        yield _drawing(
            "what-if",
            "Speed-up against the lookahead, as the sliders suppose.",
            what_if_chart(),
            what_if_data(supposed),
        )


def _of_scores(facts: RunFacts) -> Iterator[Drawing]:
    """Charts that need a build with a score."""
    yield _drawing(
        "architecture",
        "The most tokens/s of every depth and width.",
        architecture_chart(facts),
        architecture_data(facts),
    )
    if acceptance_data(facts)["tar"]:
        yield _drawing(
            "acceptance",
            "Tokens per round against the lookahead, with intervals.",
            acceptance_chart(facts),
            acceptance_data(facts),
        )
    yield _drawing("rounds", "Where the time of a round goes.", rounds_chart(facts), rounds_data(facts))
    latencies = draft_latency_data(facts)
    yield _drawing("depth", "Time of a drafted token against layers.", latency_by_depth(facts), latencies)
    yield _drawing("size", "Time of a drafted token against parameters.", latency_by_parameters(facts), latencies)


def _drawing(key: str, label: str, chart: AnyChart, data: Mapping[str, Sequence[Row]]) -> Drawing:
    return Drawing(key, label, to_spec(chart), data)
