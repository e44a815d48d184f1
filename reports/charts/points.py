"""The points of a run's pictures: what was predicted and what was decoded, in milliseconds and tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from autotune.candidate import Build
from autotune.reports.charts.theme import NO_TRIAL, Row
from autotune.reports.facts import RunFacts
from autotune.results import Evidence, Figure, Score, Screened, TrialRecord, Validated
from autotune.score import score_target_alone


class Kind(StrEnum):
    """What a point stands for, in the words of the legend."""

    CANDIDATE = "candidate (predicted)"
    SCREENED = "screened out (predicted)"
    FRONT = "Pareto front (predicted)"
    LOOKUP = "lookup, no model"
    DECODED = "decoded (measured)"
    CHOSEN = "chosen (measured)"
    ALONE = "the target alone, k = 0"
    ALONE_DECODED = "the target alone (measured)"


@dataclass(frozen=True)
class Point:
    """A way to decode, as a round's milliseconds and tokens."""

    kind: Kind
    trial: int
    """`NO_TRIAL` where it belongs to none."""
    name: str
    program: str
    lookahead: int
    round_ms: float
    tokens: float
    tokens_per_s: float
    speedup: float
    evidence: str
    """Of its tokens and of its milliseconds."""
    low: float | None = None
    high: float | None = None
    """Interval of its tokens."""

    def row(self) -> Row:
        """The point as a chart's datum."""
        return {
            "kind": self.kind.value,
            "trial": self.trial,
            "name": self.name,
            "program": self.program,
            "k": self.lookahead,
            "round_ms": self.round_ms,
            "tokens": self.tokens,
            "tokens_s": self.tokens_per_s,
            "speedup": self.speedup,
            "evidence": self.evidence,
            "low": self.low,
            "high": self.high,
        }


@dataclass(frozen=True)
class Tie:
    """From where a draft was predicted to where it was decoded."""

    trial: int
    chosen: bool
    predicted: Point
    decoded: Point

    def row(self) -> Row:
        """The tie as a chart's datum."""
        return {
            "trial": self.trial,
            "chosen": self.chosen,
            "round_ms": self.predicted.round_ms,
            "tokens": self.predicted.tokens,
            "to_ms": self.decoded.round_ms,
            "to_tokens": self.decoded.tokens,
        }


def run_points(facts: RunFacts) -> list[Point]:
    """Every point of a run, those that matter most last: they are drawn over the others."""
    on_front = {(record.number, score.lookahead) for record, score in facts.front}
    scored = [(record, score) for record in facts.records for score in record.scores]
    candidates = [
        predicted(record, score, Kind.CANDIDATE)
        for record, score in scored
        if (record.number, score.lookahead) not in on_front
    ]
    front = [predicted(record, score, Kind.FRONT) for record, score in facts.front]
    return [
        *candidates,
        *_screened(facts),
        *sorted(front, key=lambda point: point.round_ms),
        *_lookups(facts),
        *(_decoded(facts, draft, Kind.DECODED) for draft in facts.validated if draft != facts.chosen),
        *([_decoded(facts, facts.chosen, Kind.CHOSEN)] if facts.chosen else []),
        _alone(facts),
        *_alone_decoded(facts),
    ]


def run_ties(facts: RunFacts) -> list[Tie]:
    """Of every decoded draft that the search had predicted at its lookahead."""
    ties = []
    for draft in facts.validated:
        for record in facts.records:
            for score in record.scores:
                if record.build == draft.build and score.lookahead == draft.lookahead:
                    chosen = draft == facts.chosen
                    decoded = _decoded(facts, draft, Kind.CHOSEN if chosen else Kind.DECODED)
                    ties.append(Tie(record.number, chosen, predicted(record, score, Kind.FRONT), decoded))
    return ties


def predicted(record: TrialRecord, score: Score, kind: Kind) -> Point:
    """A score of a trial as a point."""
    return Point(
        kind=kind,
        trial=record.number,
        name=str(record.build.shape),
        program=program(record.build),
        lookahead=score.lookahead,
        round_ms=1e3 * score.round_s.value,
        tokens=score.tokens_per_round.value,
        tokens_per_s=score.tokens_per_s.value,
        speedup=score.speedup.value,
        evidence=_evidence(score.tokens_per_round, score.round_s),
        low=score.tokens_per_round.low,
        high=score.tokens_per_round.high,
    )


def trial_of(records: Sequence[TrialRecord], build: Build) -> int:
    """The number of the trial that measured a build; `NO_TRIAL` if none did."""
    return next((record.number for record in records if record.build == build and record.scores), NO_TRIAL)


def program(build: Build) -> str:
    """The compiler and the precision of a build."""
    return f"{build.backend} {build.precision.value}"


def _screened(facts: RunFacts) -> Iterable[Point]:
    """Builds that were not compiled, each at its most promising lookahead."""
    for record in facts.records:
        if isinstance(record.outcome, Screened):
            best = record.outcome.best()
            speed = best.tokens_per_round.value / best.round_s.value
            yield Point(
                kind=Kind.SCREENED,
                trial=record.number,
                name=str(record.build.shape),
                program=program(record.build),
                lookahead=best.lookahead,
                round_ms=1e3 * best.round_s.value,
                tokens=best.tokens_per_round.value,
                tokens_per_s=speed,
                speedup=speed * facts.latency.step_s,
                evidence=_evidence(best.tokens_per_round, best.round_s),
                low=best.tokens_per_round.low,
                high=best.tokens_per_round.high,
            )


def _lookups(facts: RunFacts) -> Iterable[Point]:
    """Drafters without a model, as decoded where they were, or else as predicted."""
    for outcome in facts.lookups:
        best, decoded = outcome.best, outcome.decoded
        tokens = decoded.tar if decoded else best.tokens_per_round
        speed = decoded.tokens_per_s if decoded else best.tokens_per_s
        yield Point(
            kind=Kind.LOOKUP,
            trial=NO_TRIAL,
            name=str(outcome.lookup),
            program="no model",
            lookahead=outcome.lookahead,
            round_ms=1e3 * tokens.value / speed.value,
            tokens=tokens.value,
            tokens_per_s=speed.value,
            speedup=(decoded.speedup if decoded else best.speedup).value,
            evidence=_evidence(tokens, speed),
            low=tokens.low,
            high=tokens.high,
        )


def _decoded(facts: RunFacts, draft: Validated, kind: Kind) -> Point:
    return Point(
        kind=kind,
        trial=trial_of(facts.records, draft.build),
        name=str(draft.build.shape),
        program=program(draft.build),
        lookahead=draft.lookahead,
        round_ms=1e3 * draft.round_s,
        tokens=draft.tar_measured.value,
        tokens_per_s=draft.tokens_per_s_measured.value,
        speedup=draft.speedup_measured.value,
        evidence=Evidence.MEASURED.value,
        low=draft.tar_measured.low,
        high=draft.tar_measured.high,
    )


def _alone(facts: RunFacts) -> Point:
    score = score_target_alone(facts.latency)
    return Point(
        kind=Kind.ALONE,
        trial=NO_TRIAL,
        name="the target alone",
        program=f"target {facts.target_precision.value}",
        lookahead=0,
        round_ms=1e3 * score.round_s.value,
        tokens=1.0,
        tokens_per_s=score.tokens_per_s.value,
        speedup=1.0,
        evidence=facts.latency.verify.evidence.value,
    )


def _alone_decoded(facts: RunFacts) -> Iterable[Point]:
    """The target alone as it decoded beside the drafts, by which their measured speed-ups are told."""
    if facts.validated or any(outcome.decoded for outcome in facts.lookups):
        yield replace(
            _alone(facts),
            kind=Kind.ALONE_DECODED,
            round_ms=1e3 / facts.baseline.value,
            tokens_per_s=facts.baseline.value,
            evidence=facts.baseline.evidence.value,
        )


def _evidence(tokens: Figure, seconds: Figure) -> str:
    """In a word, or in two where tokens and time were got in different ways."""
    if tokens.evidence is seconds.evidence:
        return tokens.evidence.value
    return f"tokens {tokens.evidence.value}, time {seconds.evidence.value}"
