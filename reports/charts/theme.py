"""How charts look: colours that stay apart for colour-blind readers, and inks that follow a light or a dark page.

Inks are Vega signals: a page that turns dark sets them anew, and no chart is built twice.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

Spec = dict[str, Any]
"""A Vega-Lite specification."""
Row = Mapping[str, str | float | int | bool | None]
"""A datum of a chart."""
AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart

# Okabe and Ito's palette, its yellow left out: too pale on white.
BLUE, VERMILION, GREEN, PINK, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
SERIES = (BLUE, VERMILION, GREEN, PINK, ORANGE, SKY)
QUIET = "#8FA3AD"

LIGHT: Mapping[str, str] = {"ink": "#24292d", "quiet": "#5b6368", "guide": "#dfe3e6", "surface": "#ffffff"}
DARK: Mapping[str, str] = {"ink": "#e6e9eb", "quiet": "#a3adb3", "guide": "#343b40", "surface": "#171a1d"}

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"

PINNED = "pinned"
"""The signal that holds the number of the pinned trial; no trial is pinned at `NO_TRIAL`."""
NO_TRIAL = -1


def ink(name: str = "ink") -> alt.ExprRef:
    """The ink of that name, whatever it is on the page."""
    return alt.ExprRef(expr=name)


def is_pinned() -> str:
    """The expression that tells a pinned trial's data."""
    return f"{PINNED} !== {NO_TRIAL} && datum.trial === {PINNED}"


def config() -> Spec:
    """The configuration of all charts."""
    words = {"labelColor": {"expr": "quiet"}, "titleColor": {"expr": "ink"}, "labelFontSize": 11, "titleFontSize": 12}
    return {
        "font": FONT,
        "background": "transparent",
        "view": {"stroke": None},
        "axis": {
            **words,
            "titleFontWeight": "normal",
            "gridColor": {"expr": "guide"},
            "domainColor": {"expr": "quiet"},
            "tickColor": {"expr": "quiet"},
            "labelLimit": 190,
        },
        "legend": {
            **words,
            "labelColor": {"expr": "ink"},
            "orient": "top",
            "title": None,
            "columns": 4,
            "labelLimit": 260,
            "symbolOpacity": 1,
        },
        "title": {"color": {"expr": "ink"}, "subtitleColor": {"expr": "quiet"}, "anchor": "start", "fontSize": 14},
        "range": {"category": list(SERIES)},
        "text": {"color": {"expr": "ink"}, "fontSize": 11},
    }


def to_spec(chart: AnyChart, datasets: Mapping[str, Sequence[Row]] | None = None) -> Spec:
    """The chart as Vega-Lite with the inks and the pinned trial as its parameters.

    datasets: the named data it draws; None leaves them to whoever embeds the chart.
    """
    spec: Spec = chart.to_dict()
    inks = [{"name": name, "value": value} for name, value in LIGHT.items()]
    spec["params"] = [*spec.get("params", []), *inks, {"name": PINNED, "value": NO_TRIAL}]
    spec["config"] = config()
    if datasets is not None:
        spec["datasets"] = {name: list(rows) for name, rows in datasets.items()}
    return spec
