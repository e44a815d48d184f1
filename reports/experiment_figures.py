"""Charts of an experiment page as SVG text."""

from io import StringIO

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Picture

from autotune.reports.experiments import Chart

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")


def chart_svg(chart: Chart) -> str:
    """The chart as an `<svg>` element; the same chart gives the same text."""
    picture = Picture(figsize=(4.9, 3.3), layout="constrained")
    FigureCanvasSVG(picture)
    axes = picture.add_subplot()
    for place, series in enumerate(chart.series):
        colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]
        axes.plot(
            series.x,
            series.y,
            label=series.name,
            color=colour,
            marker=marker,
            ms=5,
            lw=1.4 if series.joined else 0,
        )
        if series.spread:
            low, high = zip(*series.spread, strict=True)
            axes.vlines(series.x, low, high, color=colour, lw=1.0)
    axes.set_title(chart.title, fontsize=10)
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.set_ylim(bottom=0)
    axes.grid(color="#D3D7DA", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(chart.series) > 1:
        axes.legend(frameon=False, fontsize=8)
    text = StringIO()
    # No date and no random ids: the same page has the same bytes.
    with rc_context({"svg.hashsalt": chart.title, "svg.fonttype": "none"}):
        picture.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
