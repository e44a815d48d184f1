"""Tokens per round against the lookahead, of the drafts that matter."""

from collections.abc import Iterator

import altair as alt

from autotune.reports.charts.points import program
from autotune.reports.charts.theme import SERIES, AnyChart, Row, ink, is_pinned
from autotune.reports.facts import RunFacts
from autotune.results import TrialRecord

_MOST_DRAFTS = 5
_HEIGHT = 300


def leading_trials(facts: RunFacts, most: int) -> list[TrialRecord]:
    """Trials of the drafts that were decoded, then those of the front by speed: a few, each once."""
    decoded = [draft.build for draft in sorted(facts.validated, key=lambda each: -each.speedup_measured.value)]
    front = sorted(facts.front, key=lambda point: -point[1].tokens_per_s.value)
    builds = [*decoded, *(record.build for record, _ in front)]
    records = {record.build: record for record in facts.records if record.scores}
    return [records[build] for build in dict.fromkeys(builds) if build in records][:most]


def acceptance_data(facts: RunFacts) -> dict[str, list[Row]]:
    """What `acceptance_chart` draws: `tar`, estimated and measured, and `all_kept`, what no draft can exceed."""
    rows = list(_rows(facts))
    lookaheads = sorted({int(row["k"] or 0) for row in rows})
    return {"tar": rows, "all_kept": [{"k": k, "tokens": k + 1.0} for k in lookaheads]}


def acceptance_chart(facts: RunFacts) -> AnyChart:
    """Lines are estimates with their intervals, diamonds what decoding came to, the dashed line k + 1."""
    rows = list(_rows(facts))
    names = list(dict.fromkeys(str(row["draft"]) for row in rows))
    highest = max(float(row["high"] or row["tokens"] or 0) for row in rows)
    x = alt.X("k:Q", title="lookahead k", axis=alt.Axis(tickMinStep=1, format="d", grid=False))
    y = alt.Y("tokens:Q", title="tokens per round", scale=alt.Scale(domain=[1, 1.08 * highest], nice=False))
    colour = alt.Color("draft:N", scale=alt.Scale(domain=names, range=list(SERIES)), legend=alt.Legend(columns=1))
    drawn = alt.Chart(alt.NamedData("tar")).encode(x, y, colour)
    estimated = drawn.transform_filter("!datum.decoded")
    measured = drawn.transform_filter("datum.decoded")
    tooltip = [
        alt.Tooltip("draft:N"),
        alt.Tooltip("k:Q"),
        alt.Tooltip("tokens:Q", title="tokens per round", format=".3f"),
        alt.Tooltip("low:Q", title="from", format=".3f"),
        alt.Tooltip("high:Q", title="to", format=".3f"),
        alt.Tooltip("evidence:N"),
        alt.Tooltip("trial:Q"),
    ]
    width = alt.condition(is_pinned(), alt.value(4), alt.value(1.5))
    return alt.layer(
        alt.Chart(alt.NamedData("all_kept"))
        .mark_line(strokeDash=[4, 4], color=ink("quiet"), clip=True, strokeWidth=1)
        .encode(x, y),
        estimated.mark_area(opacity=0.14).encode(y=alt.Y("low:Q"), y2="high:Q"),
        estimated.mark_line().encode(strokeWidth=width),
        estimated.mark_point(filled=True, size=28, opacity=1).encode(tooltip=tooltip),
        measured.mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q"),
        measured.mark_point(filled=True, shape="diamond", size=120, opacity=1, stroke=ink("surface")).encode(
            tooltip=tooltip
        ),
    ).properties(width="container", height=_HEIGHT)


def _rows(facts: RunFacts) -> Iterator[Row]:
    for record in leading_trials(facts, _MOST_DRAFTS):
        draft = f"{record.build.shape} {program(record.build)}"
        figures = [(score.lookahead, score.tokens_per_round, False) for score in record.scores]
        figures += [(each.lookahead, each.tar_measured, True) for each in facts.validated if each.build == record.build]
        for k, tokens, decoded in figures:
            yield {
                "draft": draft,
                "trial": record.number,
                "k": k,
                "tokens": tokens.value,
                "low": tokens.low,
                "high": tokens.high,
                "decoded": decoded,
                "evidence": tokens.evidence.value,
            }
