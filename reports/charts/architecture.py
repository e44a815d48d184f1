"""The map of architectures: depth against width, coloured by the most tokens/s that any build of the shape is worth."""

import math
from collections.abc import Callable, Sequence

import altair as alt

from autotune.candidate import DraftShape
from autotune.reports.charts.points import program
from autotune.reports.charts.theme import VERMILION, AnyChart, Row, ink, is_pinned
from autotune.reports.facts import RunFacts
from autotune.results import Score, TrialRecord

_MOST_WIDTHS = 14
"""Beyond so many, widths are told in classes of parameters per layer."""
_CLASSES = 10
_ROW_HEIGHT = 26


def architecture_data(facts: RunFacts) -> dict[str, list[Row]]:
    """What `architecture_chart` draws: `cells`, the best of each, and `shapes`, where every trial belongs."""
    scored = [(record, score) for record in facts.records if (score := record.best())]
    if not scored:
        return {"cells": [], "shapes": []}
    width = _widths([record.build.shape for record, _ in scored])
    best: dict[tuple[int, str], tuple[TrialRecord, Score]] = {}
    for record, score in scored:
        place = (record.build.shape.layers, width(record.build.shape))
        if place not in best or score.tokens_per_s.value > best[place][1].tokens_per_s.value:
            best[place] = (record, score)
    speeds = [score.tokens_per_s.value for _, score in best.values()]
    middle = (min(speeds) + max(speeds)) / 2
    chosen = facts.chosen.build.shape if facts.chosen else None
    return {
        "cells": [
            {
                "layers": layers,
                "width": name,
                "order": record.build.shape.layer_parameters,
                "trial": record.number,
                "name": str(record.build.shape),
                "program": program(record.build),
                "k": score.lookahead,
                "tokens_s": score.tokens_per_s.value,
                "speedup": score.speedup.value,
                "bright": score.tokens_per_s.value > middle,
                "chosen": chosen is not None and (layers, name) == (chosen.layers, width(chosen)),
                "evidence": score.tokens_per_s.evidence.value,
            }
            for (layers, name), (record, score) in best.items()
        ],
        "shapes": [
            {
                "trial": record.number,
                "layers": record.build.shape.layers,
                "width": width(record.build.shape),
                "order": record.build.shape.layer_parameters,
            }
            for record, _ in scored
        ],
    }


def architecture_chart(facts: RunFacts) -> AnyChart:
    """Layers across, widths up; the chosen shape is framed, and so is the pinned trial's."""
    cells = architecture_data(facts)["cells"]
    widths = list(
        dict.fromkeys(str(cell["width"]) for cell in sorted(cells, key=lambda cell: -float(cell["order"] or 0)))
    )
    layers = sorted({int(cell["layers"] or 0) for cell in cells})
    x = alt.X("layers:O", title="layers (depth)", scale=alt.Scale(domain=layers), axis=alt.Axis(labelAngle=0))
    title = "parameters of a layer" if any(name.endswith(" M") for name in widths) else "width"
    y = alt.Y("width:N", title=title, sort=widths, scale=alt.Scale(domain=widths))
    drawn = alt.Chart(alt.NamedData("cells")).encode(x, y)
    return alt.layer(
        drawn.mark_rect(stroke=ink("surface"), strokeWidth=1).encode(
            color=alt.Color(
                "tokens_s:Q",
                scale=alt.Scale(scheme="viridis", zero=False),
                legend=alt.Legend(title="tokens/s", orient="top", gradientLength=180, format="~s"),
            ),
            tooltip=[
                alt.Tooltip("name:N", title="best draft here"),
                alt.Tooltip("program:N"),
                alt.Tooltip("k:Q"),
                alt.Tooltip("tokens_s:Q", title="tokens/s", format=",.4g"),
                alt.Tooltip("speedup:Q", title="speed-up", format=".3f"),
                alt.Tooltip("evidence:N"),
                alt.Tooltip("trial:Q"),
            ],
        ),
        drawn.transform_filter("datum.chosen").mark_rect(filled=False, stroke=VERMILION, strokeWidth=3),
        drawn.mark_text(fontSize=10).encode(
            text=alt.Text("speedup:Q", format=".2f"),
            color=alt.condition("datum.bright", alt.value("#111111"), alt.value("#ffffff")),
        ),
        alt.Chart(alt.NamedData("shapes"))
        .transform_filter(is_pinned())
        .mark_rect(filled=False, stroke=ink(), strokeWidth=3)
        .encode(x, y),
    ).properties(width="container", height=max(_ROW_HEIGHT * len(widths), 60))


def _widths(shapes: Sequence[DraftShape]) -> Callable[[DraftShape], str]:
    """A namer of widths: by the sizes that differ among the shapes, or by parameters per layer where those are many."""

    def by_size(shape: DraftShape) -> str:
        heads = {each.heads for each in shapes}
        hidden = {each.hidden for each in shapes}
        parts = [f"{shape.heads}H"] if len(heads) > 1 else []
        parts += [f"{shape.ffn}F"]
        parts += [f"{shape.hidden}D"] if len(hidden) > 1 else []
        return " ".join(parts)

    if len({by_size(shape) for shape in shapes}) <= _MOST_WIDTHS:
        return by_size
    sizes = [shape.layer_parameters for shape in shapes]
    low, ratio = min(sizes), max(sizes) / min(sizes)

    def by_parameters(shape: DraftShape) -> str:
        place = min(int(_CLASSES * math.log(shape.layer_parameters / low) / math.log(ratio)), _CLASSES - 1)
        ends = (low * ratio ** (end / _CLASSES) for end in (place, place + 1))
        return "–".join(f"{end / 1e6:.3g}" for end in ends) + " M"

    return by_parameters
