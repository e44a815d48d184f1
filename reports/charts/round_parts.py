"""Where a round's time goes: the draft's burst, the target's verification, and what is neither."""

from collections.abc import Iterator
from dataclasses import dataclass

import altair as alt

from autotune.candidate import Build
from autotune.reports.charts.acceptance import leading_trials
from autotune.reports.charts.points import trial_of
from autotune.reports.charts.theme import BLUE, NO_TRIAL, ORANGE, QUIET, AnyChart, Row, ink, is_pinned
from autotune.reports.facts import RunFacts
from autotune.reports.reading_floor import reading_floor
from autotune.results import Evidence, Measured

_MOST_PREDICTED = 4
_ROW_HEIGHT = 30
_PARTS = {"draft burst": BLUE, "verification": ORANGE, "overhead": QUIET}


@dataclass(frozen=True)
class _Round:
    name: str
    trial: int
    tokens: float
    burst_s: float
    verify_s: float
    overhead_s: float
    evidence: Evidence
    build: Build | None
    lookahead: int

    @property
    def round_s(self) -> float:
        return self.burst_s + self.verify_s + self.overhead_s


def rounds_data(facts: RunFacts) -> dict[str, list[Row]]:
    """What `rounds_chart` draws: `parts` of rounds in milliseconds, and `totals` with the time per token and the
    floor (null where none is known)."""
    rounds, floor = list(_rounds(facts)), reading_floor(facts)
    parts: list[Row] = [
        {
            "round": each.name,
            "trial": each.trial,
            "part": part,
            "order": order,
            "ms": 1e3 * seconds,
            "share": seconds / each.round_s,
            "evidence": each.evidence.value,
        }
        for each in rounds
        for order, (part, seconds) in enumerate(
            zip(_PARTS, (each.burst_s, each.verify_s, each.overhead_s), strict=True)
        )
    ]
    totals: list[Row] = [
        {
            "round": each.name,
            "trial": each.trial,
            "ms": 1e3 * each.round_s,
            "words": f"{1e3 * each.round_s / each.tokens:.3g} ms a token",
            "floor_ms": None if floor is None else 1e3 * floor.round_s(facts, each.build, each.lookahead),
            "evidence": Evidence.ESTIMATED.value,
        }
        for each in rounds
    ]
    return {"parts": parts, "totals": totals}


def rounds_chart(facts: RunFacts) -> AnyChart:
    """A bar a round; the last is the target alone, whose round is one plain step."""
    rounds = list(_rounds(facts))
    names = [each.name for each in rounds]
    longest = max(1e3 * each.round_s for each in rounds)
    y = alt.Y("round:N", title=None, sort=names, axis=alt.Axis(labelLimit=230))
    room = alt.ExprRef(expr=f"{longest} * (width < 400 ? 1.8 : 1.25)")  # for the words behind the bars
    scale = alt.Scale(domainMin=0, domainMax=room, nice=False)
    x = alt.X("ms:Q", title="ms of a round", scale=scale, axis=alt.Axis(tickCount=6))
    parts = alt.Chart(alt.NamedData("parts"))
    totals = alt.Chart(alt.NamedData("totals"))
    return alt.layer(
        parts.mark_bar(height={"band": 0.66}, stroke=ink(), opacity=1).encode(
            x,
            y,
            color=alt.Color("part:N", scale=alt.Scale(domain=list(_PARTS), range=list(_PARTS.values()))),
            order="order:Q",
            strokeWidth=alt.condition(is_pinned(), alt.value(1.5), alt.value(0)),
            tooltip=[
                alt.Tooltip("round:N"),
                alt.Tooltip("part:N"),
                alt.Tooltip("ms:Q", format=".4g"),
                alt.Tooltip("share:Q", title="share of the round", format=".1%"),
                alt.Tooltip("evidence:N"),
            ],
        ),
        totals.transform_filter("isValid(datum.floor_ms)")
        .mark_tick(thickness=3, color=ink(), size=_ROW_HEIGHT - 4)
        .encode(
            x="floor_ms:Q",
            y=y,
            tooltip=[
                alt.Tooltip("round:N"),
                alt.Tooltip("floor_ms:Q", title="floor, ms", format=".4g"),
                alt.Tooltip("evidence:N"),
            ],
        ),
        totals.mark_text(align="left", dx=5, color=ink()).encode(x="ms:Q", y=y, text="words:N"),
    ).properties(width="container", height=_ROW_HEIGHT * len(rounds) + 10)


def _rounds(facts: RunFacts) -> Iterator[_Round]:
    latency = facts.latency
    for draft in facts.validated:
        yield _Round(
            name=f"{draft.build.shape}, k = {draft.lookahead}",
            trial=trial_of(facts.records, draft.build),
            tokens=draft.tar_measured.value,
            burst_s=draft.burst_s,
            verify_s=draft.verify_s,
            overhead_s=draft.overhead_s,
            evidence=Evidence.MEASURED,
            build=draft.build,
            lookahead=draft.lookahead,
        )
    if not facts.validated:
        for record in leading_trials(facts, _MOST_PREDICTED):
            best = record.best()
            if best is not None and isinstance(record.outcome, Measured):
                yield _Round(
                    name=f"{record.build.shape}, k = {best.lookahead}",
                    trial=record.number,
                    tokens=best.tokens_per_round.value,
                    burst_s=record.outcome.burst.seconds(best.lookahead),
                    verify_s=latency.verify.seconds(best.lookahead + 1),
                    overhead_s=latency.overhead_s,
                    evidence=best.round_s.evidence,
                    build=record.build,
                    lookahead=best.lookahead,
                )
    yield _Round(
        name="the target alone",
        trial=NO_TRIAL,
        tokens=1.0,
        burst_s=0.0,
        verify_s=latency.verify.seconds(1),
        overhead_s=latency.plain_overhead_s,
        evidence=latency.verify.evidence,
        build=None,
        lookahead=0,
    )
