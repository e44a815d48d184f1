"""What a drafted token takes: by the draft's depth, and by its parameters."""

from typing import Any

import altair as alt

from autotune.reports.charts.theme import SERIES, AnyChart, Row, ink, is_pinned
from autotune.reports.facts import RunFacts
from autotune.results import Measured

_HEIGHT = 260


def draft_latency_data(facts: RunFacts) -> dict[str, list[Row]]:
    """What both charts draw: every measured build, its longest burst divided by its tokens."""
    return {
        "drafts": [
            {
                "trial": record.number,
                "name": str(record.build.shape),
                "layers": record.build.shape.layers,
                "parameters": record.parameters / 1e6,
                "ms": 1e3 * record.outcome.burst.seconds(record.outcome.burst.largest) / record.outcome.burst.largest,
                "backend": record.build.backend,
                "precision": record.build.precision.value,
                "evidence": record.outcome.burst.evidence.value,
            }
            for record in facts.records
            if isinstance(record.outcome, Measured)
        ]
    }


def latency_by_depth(facts: RunFacts) -> AnyChart:
    """Layers across."""
    x = alt.X("layers:Q", title="layers (depth)", axis=alt.Axis(tickMinStep=1, format="d", grid=False))
    return _chart(facts, x)


def latency_by_parameters(facts: RunFacts) -> AnyChart:
    """Millions of parameters across."""
    return _chart(facts, alt.X("parameters:Q", title="parameters, M", axis=alt.Axis(grid=False)))


def _chart(facts: RunFacts, x: alt.X) -> AnyChart:
    data = draft_latency_data(facts)["drafts"]
    precisions = sorted({str(row["precision"]) for row in data})
    backends = sorted({str(row["backend"]) for row in data})
    drawn = alt.Chart(alt.NamedData("drafts")).encode(
        x.scale(zero=False, padding=12), alt.Y("ms:Q", title="ms a drafted token", scale=alt.Scale(zero=True))
    )
    shapes: dict[str, Any] = {"domain": backends, "range": ["circle", "triangle-up", "square", "diamond"]}
    return alt.layer(
        drawn.mark_point(size=42, opacity=0.85, strokeWidth=1.6).encode(
            color=alt.Color("precision:N", scale=alt.Scale(domain=precisions, range=list(SERIES))),
            shape=alt.Shape("backend:N", scale=alt.Scale(**shapes)),
            tooltip=[
                alt.Tooltip("name:N", title="draft"),
                alt.Tooltip("backend:N"),
                alt.Tooltip("precision:N"),
                alt.Tooltip("parameters:Q", title="parameters, M", format=".3f"),
                alt.Tooltip("ms:Q", title="ms a drafted token", format=".4g"),
                alt.Tooltip("evidence:N"),
                alt.Tooltip("trial:Q"),
            ],
        ),
        drawn.transform_filter(is_pinned()).mark_point(size=190, stroke=ink(), strokeWidth=2),
    ).properties(width="container", height=_HEIGHT)
