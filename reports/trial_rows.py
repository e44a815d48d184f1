"""Every evaluated build as a row of the page's table."""

from dataclasses import dataclass

from autotune.reports.facts import RunFacts
from autotune.results import Evidence, Measured, Rejected, Screened, TrialRecord
from autotune.score import weakest


@dataclass(frozen=True)
class RoundFigures:
    """What a round comes to at the fastest lookahead."""

    lookahead: int
    tokens: float
    round_s: float
    tokens_per_s: float
    speedup: float
    evidence: Evidence
    """The weakest of them."""


@dataclass(frozen=True)
class TrialRow:
    """What became of a build."""

    record: TrialRecord
    state: str
    on_front: bool
    chosen: bool
    best: RoundFigures | None
    """None where it failed or was ruled out."""
    reason: str
    """Why it has no score, in a word; empty where it was measured."""
    detail: str


def trial_rows(facts: RunFacts) -> list[TrialRow]:
    """A row for every build, in the order in which they were tried."""
    on_front = {record.number for record, _ in facts.front}
    chosen = facts.chosen.build if facts.chosen else None
    return [
        TrialRow(
            record=record,
            state=state_word(record),
            on_front=record.number in on_front,
            chosen=bool(record.scores) and record.build == chosen,
            best=_best(record, facts.latency.step_s),
            reason=reason_word(record),
            detail=record.outcome.detail if isinstance(record.outcome, Rejected) else "",
        )
        for record in facts.records
    ]


def state_word(record: TrialRecord) -> str:
    """`measured`, `screened out`, `failed`, or `ruled out` by a limit of the user's."""
    match record.outcome:
        case Measured():
            return "measured" if record.scores else "ruled out"
        case Screened():
            return "screened out"
        case Rejected():
            return "ruled out" if record.ruled_out else "failed"


def reason_word(record: TrialRecord) -> str:
    """Why a build has no measured score; empty where it has one."""
    match record.outcome:
        case Rejected(reason=reason):
            return reason.value
        case Screened():
            return "would not move the front"
        case Measured():
            return "" if record.scores else "no lookahead within the limits"


def _best(record: TrialRecord, step_s: float) -> RoundFigures | None:
    if isinstance(record.outcome, Screened):
        forecast = record.outcome.best()
        tokens, round_s = forecast.tokens_per_round, forecast.round_s
        speed = tokens.value / round_s.value
        evidence = weakest(tokens.evidence, round_s.evidence)
        return RoundFigures(forecast.lookahead, tokens.value, round_s.value, speed, speed * step_s, evidence)
    score = record.best()
    if score is None:
        return None
    return RoundFigures(
        score.lookahead,
        score.tokens_per_round.value,
        score.round_s.value,
        score.tokens_per_s.value,
        score.speedup.value,
        weakest(score.tokens_per_round.evidence, score.round_s.evidence, score.tokens_per_s.evidence),
    )
