"""The picture of a comparison: the runs' Pareto fronts over each other, in units of each run's own target."""

from collections.abc import Mapping

import altair as alt

from autotune.reports.charts.theme import Row, Spec, ink, to_spec
from autotune.reports.facts import RunFacts

_GUIDE_SPEEDUPS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_WIDTH, _HEIGHT = 780, 430
_ROUND = "time of one round over a step of the target alone"
_TOKENS = "tokens per round, the target's own included"


def fronts_picture(runs: Mapping[str, RunFacts]) -> Spec:
    """The fronts of runs, by their names.

    Rounds are told in steps of each run's own target, so that fronts of different devices and targets compare: what is
    equally much faster than its target alone lies on one line.
    """
    fronts, decoded = _front_rows(runs), _decoded_rows(runs)
    rounds, tokens = _reach([*fronts, *decoded], "round"), _reach([*fronts, *decoded], "tokens")
    x = alt.X("round:Q", title=_ROUND, scale=alt.Scale(type="log", domain=list(rounds), nice=False))
    y = alt.Y("tokens:Q", title=_TOKENS, scale=alt.Scale(type="log", domain=list(tokens), nice=False))
    names = list(runs)
    colour = alt.Color("run:N", scale=alt.Scale(domain=names), legend=alt.Legend(title=None, orient="top"))
    lines = alt.Chart(alt.NamedData("guides"))
    front = alt.Chart(alt.NamedData("fronts"))
    chart = alt.layer(
        lines.mark_rule(color=ink("guide")).encode(x, y, x2="to_round:Q", y2="to_tokens:Q"),
        lines.mark_text(align="left", dx=3, dy=-4, fontSize=10, color=ink("quiet")).encode(
            alt.X("to_round:Q"), alt.Y("to_tokens:Q"), text="label:N"
        ),
        front.mark_line(interpolate="step-after", strokeWidth=1.5).encode(x, y, color=colour),
        front.mark_circle(size=36, opacity=1).encode(x, y, color=colour),
        alt.Chart(alt.NamedData("decoded"))
        .mark_point(filled=True, size=150, shape="diamond", stroke=ink(), strokeWidth=1, opacity=1)
        .encode(x, y, fill=alt.Fill("run:N", scale=alt.Scale(domain=names), legend=None)),
    ).properties(
        width=_WIDTH,
        height=_HEIGHT,
        title=alt.Title(
            "Pareto fronts", subtitle="lines: as predicted; diamonds: what ships, measured; a line is a speed-up"
        ),
    )
    return to_spec(chart, {"fronts": fronts, "decoded": decoded, "guides": _guides(rounds, tokens)})


def _front_rows(runs: Mapping[str, RunFacts]) -> list[Row]:
    return [
        {
            "run": name,
            "round": score.round_s.value / facts.latency.step_s,
            "tokens": score.tokens_per_round.value,
        }
        for name, facts in runs.items()
        for _, score in facts.front
    ]


def _decoded_rows(runs: Mapping[str, RunFacts]) -> list[Row]:
    """Drafts that ship; their rounds in steps of the target as it decoded beside them."""
    return [
        {
            "run": name,
            "round": draft.tar_measured.value / draft.speedup_measured.value,
            "tokens": draft.tar_measured.value,
        }
        for name, facts in runs.items()
        if (draft := facts.chosen) is not None
    ]


def _reach(rows: list[Row], name: str) -> tuple[float, float]:
    """What an axis reaches from and to; the target alone, at 1, is always on it."""
    values = [1.0, *(float(row[name] or 1.0) for row in rows)]
    return min(values) / 1.15, max(values) * 1.2


def _guides(rounds: tuple[float, float], tokens: tuple[float, float]) -> list[Row]:
    """Lines tokens = speed-up · round, as far as they are in the picture."""
    rows: list[Row] = []
    for speedup in _GUIDE_SPEEDUPS:
        enters = max(rounds[0], tokens[0] / speedup)
        leaves = min(rounds[1], tokens[1] / speedup)
        if leaves > enters * 1.1:
            rows.append(
                {
                    "label": f"{speedup:g}×",
                    "round": enters,
                    "tokens": speedup * enters,
                    "to_round": leaves,
                    "to_tokens": speedup * leaves,
                }
            )
    return rows
