"""What a draft would be worth beside another target, or with other luck: the arithmetic, and its chart."""

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt

from autotune.reports.charts.acceptance import leading_trials
from autotune.reports.charts.points import program
from autotune.reports.charts.theme import BLUE, QUIET, AnyChart, Row, ink
from autotune.reports.facts import RunFacts
from autotune.results import Evidence, Measured

AS_IS, SUPPOSED = "as predicted", "what if"
_HEIGHT = 240
_MOST_DRAFTS = 12


@dataclass(frozen=True)
class WhatIfDraft:
    """A draft's own part of a round, by lookahead."""

    trial: int
    name: str
    lookaheads: Sequence[int]
    burst_s: Sequence[float]
    tokens: Sequence[float]
    """Per round."""
    best: int
    """The lookahead with most tokens/s as it is."""
    evidence: Evidence
    """Of its speed-ups as they are."""


@dataclass(frozen=True)
class WhatIf:
    """Everything that `speedup` needs, for all drafts that may be asked about."""

    drafts: Sequence[WhatIfDraft]
    verify_s: Sequence[float]
    """Seconds to verify 1, 2, … positions."""
    overhead_s: float
    plain_overhead_s: float

    def speedup(self, draft: WhatIfDraft, lookahead: int, *, scale: float = 1.0, gain: float = 0.0) -> float:
        """tokens / (burst + verify + overhead) · step, as `autotune.score` has it, under two suppositions.

        scale: how much longer the target takes for whatever it computes; gain: by which share more tokens a round
        has, which are 1 … k + 1 all the same.  The page's script computes the same.
        """
        place = draft.lookaheads.index(lookahead)
        tokens = min(max(draft.tokens[place] * (1.0 + gain), 1.0), lookahead + 1.0)
        round_s = draft.burst_s[place] + scale * self.verify_s[lookahead] + self.overhead_s
        return tokens / round_s * (scale * self.verify_s[0] + self.plain_overhead_s)


def what_if(facts: RunFacts) -> WhatIf | None:
    """The figures of the drafts that matter; None where no draft has any."""
    drafts = []
    for record in leading_trials(facts, _MOST_DRAFTS):
        best = record.best()
        if best is None or not isinstance(record.outcome, Measured):
            continue
        scores = sorted(record.scores, key=lambda score: score.lookahead)
        drafts.append(
            WhatIfDraft(
                trial=record.number,
                name=f"{record.build.shape} {program(record.build)}",
                lookaheads=[score.lookahead for score in scores],
                burst_s=[record.outcome.burst.seconds(score.lookahead) for score in scores],
                tokens=[score.tokens_per_round.value for score in scores],
                best=best.lookahead,
                evidence=best.speedup.evidence,
            )
        )
    latency = facts.latency
    verify_s = [latency.verify.seconds(n) for n in range(1, latency.verify.largest + 1)]
    return WhatIf(drafts, verify_s, latency.overhead_s, latency.plain_overhead_s) if drafts else None


def what_if_data(figures: WhatIf) -> dict[str, list[Row]]:
    """What `what_if_chart` draws before a slider moves: the first draft as it is, twice."""
    draft = figures.drafts[0]
    rows: list[Row] = [
        {
            "case": case,
            "k": k,
            "speedup": figures.speedup(draft, k),
            "asked": k == draft.best,
            "evidence": draft.evidence,
        }
        for case in (AS_IS, SUPPOSED)
        for k in draft.lookaheads
    ]
    return {"what_if": rows, "even": [{"speedup": 1.0}]}


def what_if_chart() -> AnyChart:
    """Two lines over k; the lookahead asked for wears a ring, and 1× is where the target alone is as fast."""
    drawn = alt.Chart(alt.NamedData("what_if")).encode(
        alt.X("k:Q", title="lookahead k", axis=alt.Axis(tickMinStep=1, format="d", grid=False)),
        alt.Y("speedup:Q", title="speed-up over the target alone", scale=alt.Scale(zero=True)),
        color=alt.Color("case:N", scale=alt.Scale(domain=[AS_IS, SUPPOSED], range=[QUIET, BLUE])),
    )
    even = alt.Chart(alt.NamedData("even")).mark_rule(strokeDash=[4, 4], color=ink("quiet"))
    tooltip = [alt.Tooltip("case:N"), alt.Tooltip("k:Q"), alt.Tooltip("speedup:Q", format=".3f")]
    return alt.layer(
        even.encode(y="speedup:Q"),
        drawn.mark_line(strokeWidth=2),
        drawn.mark_point(filled=True, size=50, opacity=1).encode(tooltip=tooltip),
        drawn.transform_filter(f"datum.asked && datum.case === '{SUPPOSED}'").mark_point(
            size=220, stroke=ink(), strokeWidth=2
        ),
    ).properties(width="container", height=_HEIGHT)
