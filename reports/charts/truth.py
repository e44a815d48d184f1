"""What was expected against what decoding came to: tokens per round, and tokens/s."""

from collections.abc import Iterator
from dataclasses import dataclass

import altair as alt

from autotune.reports.charts.points import Kind, trial_of
from autotune.reports.charts.theme import GREEN, NO_TRIAL, PINK, VERMILION, AnyChart, Row, ink, is_pinned
from autotune.reports.facts import RunFacts
from autotune.results import Figure

_HEIGHT = 280
_COLOURS = {Kind.DECODED: GREEN, Kind.CHOSEN: VERMILION, Kind.LOOKUP: PINK}


@dataclass(frozen=True)
class _Pair:
    """A figure, expected and measured."""

    kind: Kind
    name: str
    trial: int
    expected: Figure
    measured: Figure


def truth_data(facts: RunFacts) -> dict[str, dict[str, list[Row]]]:
    """By chart (`tar`, `speed`), what it draws: `pairs`, and `equal`, the line from corner to corner on which both
    figures are the same; empty if nothing was decoded."""
    return {key: _data(list(pairs)) for key, pairs in (("tar", _tokens(facts)), ("speed", _speeds(facts)))}


def truth_chart(facts: RunFacts, key: str) -> AnyChart:
    """Expected across, measured up; on the line they are equal."""
    pairs = truth_data(facts)[key]["pairs"]
    what = "tokens per round" if key == "tar" else "tokens/s"
    how = "estimated" if key == "tar" else "predicted"
    kinds = [kind for kind in _COLOURS if any(pair["kind"] == kind for pair in pairs)]
    ends = [float(each["expected"] or 0) for each in truth_data(facts)[key]["equal"]]
    scale = alt.Scale(domain=ends, nice=False, zero=False)
    x = alt.X("expected:Q", title=f"{what}, {how}", scale=scale)
    y = alt.Y("measured:Q", title=f"{what}, measured", scale=scale)
    colour = alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[_COLOURS[kind] for kind in kinds]))
    drawn = alt.Chart(alt.NamedData("pairs")).encode(x, y)
    tooltip = [
        alt.Tooltip("name:N", title="draft"),
        alt.Tooltip("expected:Q", title=how, format=",.4g"),
        alt.Tooltip("measured:Q", format=",.4g"),
        alt.Tooltip("error:Q", title="off by", format="+.1%"),
        alt.Tooltip("kind:N", title="what"),
        alt.Tooltip("trial:Q"),
    ]
    equal = alt.Chart(alt.NamedData("equal")).mark_line(strokeDash=[4, 4], strokeWidth=1, color=ink("quiet"))
    return alt.layer(
        equal.encode(x, y),
        drawn.transform_filter("isValid(datum.expected_low)")
        .mark_rule(strokeWidth=1)
        .encode(x=alt.X("expected_low:Q"), x2="expected_high:Q", color=colour),
        drawn.transform_filter("isValid(datum.measured_low)")
        .mark_rule(strokeWidth=1)
        .encode(y=alt.Y("measured_low:Q"), y2="measured_high:Q", color=colour),
        drawn.mark_point(filled=True, size=80, opacity=1, stroke=ink("surface")).encode(color=colour, tooltip=tooltip),
        drawn.transform_filter(is_pinned()).mark_point(size=210, stroke=ink(), strokeWidth=2),
    ).properties(width="container", height=_HEIGHT)


def _data(pairs: list[_Pair]) -> dict[str, list[Row]]:
    if not pairs:
        return {"pairs": [], "equal": []}
    values = [
        value
        for pair in pairs
        for figure in (pair.expected, pair.measured)
        for value in (figure.value, figure.low, figure.high)
        if value is not None
    ]
    margin = 0.05 * (max(values) - min(values)) or 0.05 * max(values)
    return {
        "pairs": [
            {
                "kind": pair.kind.value,
                "name": pair.name,
                "trial": pair.trial,
                "expected": pair.expected.value,
                "expected_low": pair.expected.low,
                "expected_high": pair.expected.high,
                "measured": pair.measured.value,
                "measured_low": pair.measured.low,
                "measured_high": pair.measured.high,
                "error": pair.expected.value / pair.measured.value - 1.0,
            }
            for pair in pairs
        ],
        "equal": [{"expected": end, "measured": end} for end in (min(values) - margin, max(values) + margin)],
    }


def _tokens(facts: RunFacts) -> Iterator[_Pair]:
    for draft in facts.validated:
        kind = Kind.CHOSEN if draft == facts.chosen else Kind.DECODED
        name, trial = f"{draft.build.shape}, k = {draft.lookahead}", trial_of(facts.records, draft.build)
        yield _Pair(kind, name, trial, draft.tar_estimated, draft.tar_measured)
    for outcome in facts.lookups:
        if outcome.decoded:
            yield _Pair(Kind.LOOKUP, str(outcome.lookup), NO_TRIAL, outcome.best.tokens_per_round, outcome.decoded.tar)


def _speeds(facts: RunFacts) -> Iterator[_Pair]:
    for draft in facts.validated:
        kind = Kind.CHOSEN if draft == facts.chosen else Kind.DECODED
        name, trial = f"{draft.build.shape}, k = {draft.lookahead}", trial_of(facts.records, draft.build)
        yield _Pair(kind, name, trial, draft.tokens_per_s_predicted, draft.tokens_per_s_measured)
    for outcome in facts.lookups:
        if outcome.decoded:
            yield _Pair(
                Kind.LOOKUP, str(outcome.lookup), NO_TRIAL, outcome.best.tokens_per_s, outcome.decoded.tokens_per_s
            )
