"""Charts of an experiment page as SVG text."""

import json

import altair as alt

from autotune.reports.charts.rendering import svg_text
from autotune.reports.charts.theme import SERIES, Row, to_spec
from autotune.reports.experiments import Chart

_WIDTH, _HEIGHT = 380, 230
_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")


def chart_svg(chart: Chart) -> str:
    """The chart as an `<svg>` element; the same chart gives the same text."""
    names = [series.name for series in chart.series]
    # By its place, not its name: two series may have the same, and dots and brackets in names mean something to Vega.
    points: list[Row] = [
        {"series": place, "x": x, "y": y, "joined": series.joined, **_spread(series.spread, at)}
        for place, series in enumerate(chart.series)
        for at, (x, y) in enumerate(zip(series.x, series.y, strict=True))
    ]
    drawn = alt.Chart(alt.NamedData("points")).encode(
        x=alt.X("x:Q", title=chart.x_label, scale=alt.Scale(zero=False, nice=True)),
        y=alt.Y("y:Q", title=chart.y_label, scale=alt.Scale(zero=True)),
        color=alt.Color("series:N", scale=_scale(SERIES, len(names)), legend=_legend(names)),
    )
    return svg_text(
        to_spec(
            alt.layer(
                drawn.transform_filter("datum.joined").mark_line(strokeWidth=1.6),
                drawn.transform_filter("isValid(datum.low)").mark_rule().encode(y="low:Q", y2="high:Q"),
                drawn.mark_point(filled=True, size=45, opacity=1).encode(
                    shape=alt.Shape("series:N", scale=_scale(_SHAPES, len(names)), legend=_legend(names))
                ),
            ).properties(width=_WIDTH, height=_HEIGHT, title=chart.title),
            {"points": points},
        )
    )


def _spread(spread: tuple[tuple[float, float], ...] | None, at: int) -> dict[str, float | None]:
    low, high = spread[at] if spread else (None, None)
    return {"low": low, "high": high}


def _scale(looks: tuple[str, ...], count: int) -> alt.Scale:
    return alt.Scale(domain=list(range(count)), range=[looks[place % len(looks)] for place in range(count)])


def _legend(names: list[str]) -> alt.Legend | None:
    """The names of the series; none where there is only one."""
    if len(names) < 2:
        return None
    return alt.Legend(labelExpr=f"{json.dumps(names)}[datum.value]", columns=2)
