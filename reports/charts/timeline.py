"""Every build as a tick in the order of trials: what was measured, what failed, what was never compiled."""

from collections.abc import Sequence

import altair as alt

from autotune.reports.charts.theme import BLUE, QUIET, VERMILION, AnyChart, Row, ink, is_pinned
from autotune.reports.trial_rows import TrialRow

_COLOURS = {"measured": BLUE, "failed": VERMILION, "screened out": QUIET, "ruled out": "#CC79A7"}
_HEIGHT = 34


def timeline_data(rows: Sequence[TrialRow]) -> list[Row]:
    """What `timeline_chart` draws."""
    return [
        {
            "trial": row.record.number,
            "state": row.state,
            "name": str(row.record.build),
            "reason": row.reason,
            "speedup": row.best.speedup if row.best else None,
        }
        for row in rows
    ]


def timeline_chart(rows: Sequence[TrialRow]) -> AnyChart:
    """A strip of ticks; the pinned trial's is taller."""
    states = [state for state in _COLOURS if any(row.state == state for row in rows)]
    ticks = alt.Chart(alt.NamedData("timeline"))
    numbers = [row.record.number for row in rows]
    x = alt.X(
        "trial:Q",
        title="trial",
        axis=alt.Axis(grid=False, tickMinStep=1, format="d"),
        scale=alt.Scale(domain=[min(numbers) - 0.5, max(numbers) + 0.5], nice=False),
    )
    scale = alt.Scale(domain=states, range=[_COLOURS[state] for state in states])
    drawn = ticks.mark_tick(thickness=2, size=20).encode(
        x,
        color=alt.Color("state:N", scale=scale),
        tooltip=[
            alt.Tooltip("trial:Q"),
            alt.Tooltip("name:N", title="build"),
            alt.Tooltip("state:N"),
            alt.Tooltip("reason:N"),
            alt.Tooltip("speedup:Q", title="best speed-up", format=".3f"),
        ],
    )
    pinned = ticks.transform_filter(is_pinned()).mark_tick(thickness=3, size=_HEIGHT, color=ink()).encode(x)
    return alt.layer(drawn, pinned).properties(width="container", height=_HEIGHT)
