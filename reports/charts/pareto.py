"""The picture of a run: every candidate's round time against its tokens per round, between lines of equal speed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from autotune.reports.charts.points import Kind, Point, run_points, run_ties
from autotune.reports.charts.theme import (
    BLUE,
    GREEN,
    PINK,
    QUIET,
    VERMILION,
    AnyChart,
    Row,
    Spec,
    ink,
    is_pinned,
    to_spec,
)
from autotune.reports.facts import RunFacts
from autotune.results import RunKind, TrialState

_GUIDE_SPEEDUPS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
_MOST_TICKS = 11
_HEIGHT = 430
_ROOM_FOR_LABEL = 0.33
"""Share of the picture's width that a label takes."""
_STILL_WIDTH = 780
"""Of the picture by itself; in a page it takes the width there is."""
_MARKS: Mapping[Kind, tuple[str, str, int, float]] = {
    Kind.CANDIDATE: ("circle", QUIET, 24, 0.55),
    Kind.SCREENED: ("stroke", QUIET, 70, 0.9),
    Kind.FRONT: ("circle", BLUE, 50, 1.0),
    Kind.LOOKUP: ("triangle-up", PINK, 90, 1.0),
    Kind.DECODED: ("square", GREEN, 80, 1.0),
    Kind.CHOSEN: ("diamond", VERMILION, 170, 1.0),
    Kind.ALONE: ("cross", "ink", 110, 1.0),
    Kind.ALONE_DECODED: ("cross", GREEN, 110, 1.0),
}
"""Symbol, colour, area and opacity of every kind of point."""


def pareto_data(facts: RunFacts) -> dict[str, list[Row]]:
    """What `pareto_chart` draws: `points`, `ties` and `guides`."""
    points = run_points(facts)
    return {
        "points": [point.row() for point in points],
        "ties": [tie.row() for tie in run_ties(facts)],
        "guides": _guides(facts.latency.step_s, points),
    }


def pareto_chart(facts: RunFacts) -> AnyChart:
    """Round time (ms) against tokens per round, both logarithmic: points of equal speed-up lie on one line.

    Points of the pinned trial wear a ring.
    """
    points = run_points(facts)
    x, y = _axes(facts, points)
    drawn = alt.Chart(alt.NamedData("points"))
    plain = f"datum.kind !== '{Kind.CANDIDATE}' && datum.kind !== '{Kind.SCREENED}'"
    shown = [kind for kind in Kind if any(point.kind is kind for point in points)]
    across, _ = _limits(points)
    return alt.layer(
        *_guide_layers(x, y),
        drawn.transform_filter(alt.datum.kind == Kind.FRONT.value)
        .mark_line(interpolate="step-after", color=BLUE, strokeWidth=1.3)
        .encode(x, y),
        drawn.transform_filter(f"isValid(datum.low) && {plain}")
        .mark_rule(strokeWidth=1, opacity=0.6, color=ink("quiet"))
        .encode(x, y=alt.Y("low:Q"), y2="high:Q"),
        alt.Chart(alt.NamedData("ties"))
        .mark_rule(strokeWidth=1)
        .encode(x, y, x2="to_ms:Q", y2="to_tokens:Q", color=_tie_colour()),
        _marks(drawn, x, y, shown),
        *(_label(drawn, x, y, point, across) for point in points if point.kind is Kind.CHOSEN),
        drawn.transform_filter(is_pinned())
        .mark_point(size=210, filled=False, stroke=ink(), strokeWidth=2)
        .encode(x, y),
    ).properties(width="container", height=_HEIGHT)


def pareto_picture(facts: RunFacts) -> Spec:
    """The chart with its data and its title, as it is drawn on paper."""
    chart = pareto_chart(facts).properties(width=_STILL_WIDTH, title=alt.Title(_title(facts), subtitle=_note(facts)))
    return to_spec(chart, pareto_data(facts))


def _marks(drawn: alt.Chart, x: alt.X, y: alt.Y, shown: Sequence[Kind]) -> alt.Chart:
    def scale(place: int) -> alt.Scale:
        looks = [_MARKS[kind][place] for kind in shown]
        return alt.Scale(type="ordinal", domain=shown, range=[ink() if look == "ink" else look for look in looks])

    marks: alt.Chart = drawn.mark_point(filled=True, strokeWidth=0.9).encode(
        x,
        y,
        shape=alt.Shape("kind:N", sort=shown, scale=scale(0)),
        fill=alt.Fill("kind:N", sort=shown, scale=scale(1)),
        stroke=alt.Stroke("kind:N", sort=shown, scale=alt.Scale(domain=shown, range=[_edge(kind) for kind in shown])),
        size=alt.Size("kind:N", sort=shown, scale=scale(2)),
        opacity=alt.Opacity("kind:N", sort=shown, scale=scale(3)),
        tooltip=[
            alt.Tooltip("name:N", title="draft"),
            alt.Tooltip("k:Q"),
            alt.Tooltip("program:N"),
            alt.Tooltip("tokens:Q", title="tokens per round", format=".3f"),
            alt.Tooltip("round_ms:Q", title="round, ms", format=".4g"),
            alt.Tooltip("tokens_s:Q", title="tokens/s", format=",.4g"),
            alt.Tooltip("speedup:Q", title="speed-up", format=".3f"),
            alt.Tooltip("kind:N", title="what"),
            alt.Tooltip("evidence:N"),
            alt.Tooltip("trial:Q"),
        ],
    )
    return marks


def _edge(kind: Kind) -> str | alt.ExprRef:
    """What sets a mark off from its neighbours; a tick is nothing but its edge."""
    return QUIET if kind is Kind.SCREENED else ink("surface")


def _label(drawn: alt.Chart, x: alt.X, y: alt.Y, chosen: Point, across: tuple[float, float]) -> alt.Chart:
    """The chosen draft's name above it, to its left where there is room: above the front there are no candidates."""
    place = math.log(chosen.round_ms / across[0]) / math.log(across[1] / across[0])
    side: dict[str, Any] = {"align": "right", "dx": -9} if place > _ROOM_FOR_LABEL else {"align": "left", "dx": -12}
    words = f"{chosen.name}, k = {chosen.lookahead}: {chosen.speedup:.2f}×"
    named = drawn.transform_filter(alt.datum.kind == Kind.CHOSEN.value)
    label: alt.Chart = named.mark_text(
        **side, dy=-14, fontSize=12, fontWeight="bold", color=ink(), opacity=alt.ExprRef(expr="width < 480 ? 0 : 1")
    ).encode(x, y, text=alt.value(words))
    return label


def _tie_colour() -> Any:
    return alt.condition("datum.chosen", alt.value(VERMILION), alt.value(GREEN))


def _guide_layers(x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Lines of equal speed-up, labelled where they leave the picture."""
    guides = alt.Chart(alt.NamedData("guides"))
    even = "datum.speedup === 1"
    lines = guides.mark_rule().encode(
        x,
        y,
        x2="to_ms:Q",
        y2="to_tokens:Q",
        color=alt.condition(even, alt.value(ink("quiet")), alt.value(ink("guide"))),
    )
    labelled = guides.transform_filter("width >= 480 || indexof([0.25, 0.5, 1, 2, 4, 8], datum.speedup) >= 0")
    above = labelled.transform_filter("datum.above").mark_text(align="center", dy=-7, color=ink("quiet"), fontSize=10)
    beside = labelled.transform_filter("!datum.above").mark_text(align="left", dx=4, color=ink("quiet"), fontSize=10)
    ends = [layer.encode(x=alt.X("to_ms:Q"), y=alt.Y("to_tokens:Q"), text="label:N") for layer in (above, beside)]
    return [lines, *ends]


def _guides(step_s: float, points: Sequence[Point]) -> list[Row]:
    (left, right), (bottom, top) = _limits(points)
    step_ms = 1e3 * step_s
    rows: list[Row] = []
    for speedup in _GUIDE_SPEEDUPS:
        enters, leaves = max(left, bottom * step_ms / speedup), min(right, top * step_ms / speedup)
        if leaves >= enters * 1.15:
            rows.append(
                {
                    "speedup": speedup,
                    "label": f"{speedup:g}×",
                    "round_ms": enters,
                    "tokens": speedup * enters / step_ms,
                    "to_ms": leaves,
                    "to_tokens": speedup * leaves / step_ms,
                    "above": leaves < right,
                }
            )
    return rows


def _axes(facts: RunFacts, points: Sequence[Point]) -> tuple[alt.X, alt.Y]:
    """Logarithmic axes with plain numbers on them."""
    across, up = _limits(points)
    assumed = ": a stand-in" if facts.kind is RunKind.PLAN else ""
    return (
        alt.X("round_ms:Q", title="time of one round, ms", **_axis(across)),
        alt.Y("tokens:Q", title=f"tokens per round, the target's own included{assumed}", **_axis(up)),
    )


def _axis(limits: tuple[float, float]) -> dict[str, Any]:
    return {
        "scale": alt.Scale(type="log", domain=list(limits), nice=False),
        "axis": alt.Axis(values=_round_numbers(*limits), grid=False, format="~g"),
    }


def _limits(points: Sequence[Point]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Milliseconds and tokens that the axes reach from and to."""
    rounds, tokens = [point.round_ms for point in points], [point.tokens for point in points]
    return (min(rounds) / 1.2, max(rounds) * 1.2), (min(tokens) / 1.16, max(tokens) * 1.22)


def _round_numbers(low: float, high: float) -> list[float]:
    """Numbers for a logarithmic axis from low to high: the finest of the usual series that is not crowded."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for series in ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 4, 6, 8), (1, 2, 4), (1, 3)):
        ticks = [step * 10.0**decade for decade in decades for step in series]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= _MOST_TICKS:
            return ticks
    return [10.0**decade for decade in decades if low <= 10.0**decade <= high]


def _title(facts: RunFacts) -> str:
    return f"{'Plan of drafts' if facts.kind is RunKind.PLAN else 'Drafts'} for {facts.target}"


def _note(facts: RunFacts) -> str:
    candidates = sum(len(record.scores) for record in facts.records)
    pointless = sum(record.state is TrialState.REJECTED for record in facts.records)
    screened = sum(record.state is TrialState.SCREENED for record in facts.records)
    note = f"{candidates} candidates of {len(facts.records)} builds"
    note += f", {pointless} of which have no score and no point" if pointless else ""
    note += f"{' and' if pointless else ','} {screened} were screened out" if screened else ""
    return f"{note}; a line joins points of equal speed-up over the target alone"
