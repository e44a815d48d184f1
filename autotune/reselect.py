"""Choosing again from a finished run under other limits: nothing is measured anew."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from autotune.candidate import Build, Candidate
from autotune.choice import choose
from autotune.cli_units import bytes_text, count_text, seconds_text
from autotune.lookup_results import LookupFirstOutcome, LookupOutcome
from autotune.reports.facts import RunFacts
from autotune.results import Measured, Rejected, RejectReason, Score, TrialRecord, Validated
from autotune.saved_run import front_of
from autotune.search_space.constraints import Constraints, violated


@dataclass(frozen=True)
class Limits:
    """What a draft must keep; None is no limit."""

    max_memory_bytes: int | None = None
    """Of the draft's weights, its cache and the logits of a verification."""
    max_parameters: int | None = None
    max_round_s: float | None = None
    lookaheads: tuple[int, ...] | None = None
    """Those that may be used; the target alone always may."""

    @property
    def any(self) -> bool:
        """Whether anything is limited."""
        return self != Limits()

    def __str__(self) -> str:
        told = []
        if self.max_memory_bytes is not None:
            told.append(f"at most {bytes_text(self.max_memory_bytes)} of memory")
        if self.max_parameters is not None:
            told.append(f"at most {count_text(self.max_parameters)} parameters")
        if self.max_round_s is not None:
            told.append(f"rounds of at most {seconds_text(self.max_round_s)}")
        if self.lookaheads is not None:
            told.append(f"k of {', '.join(map(str, self.lookaheads))}")
        return ", ".join(told) or "no other limits"


def reselect(facts: RunFacts, limits: Limits) -> RunFacts:
    """The run as if only what keeps the limits had been tried; its report says what they are.

    Builds over a limit count as ruled out.  Drafts that decoded keep their figures if they keep the limits with the
    lookahead they decoded with, and what ships is chosen from these alone.  If nothing that decoded is left that pays,
    while a build that did not is predicted to, the verdict is that it is not validated.
    """
    gate = _Gate(limits, facts.context_tokens or 0)
    records = [gate.record(record) for record in facts.records]
    front = front_of(records)
    validated = [draft for draft in facts.validated if gate.validated(draft)]
    lookups = [kept for lookup in facts.lookups if (kept := gate.lookup(lookup)) is not None]
    first = facts.lookup_first if facts.lookup_first and gate.first(facts.lookup_first, validated) else None
    choice = choose(validated, lookups, first)
    same = choice.draft == facts.chosen and choice.first == facts.chosen_first
    best = max(front, key=lambda point: point[1].tokens_per_s.value, default=None)
    banner = [*facts.banner, f"Chosen again from a finished run, with {limits}; nothing was measured anew."]
    if best is not None and _undecided(best, validated, choice.draft):
        record, score = best
        banner.append(
            f"{record.build}, k = {score.lookahead}, is predicted to reach {score.speedup.value:.2f}× under these "
            "limits, but was not decoded: `autotune run` with them into another folder decodes it."
        )
        if choice.draft is None and choice.lookup is None and score.speedup.value > 1.0:
            validated = []
    return replace(
        facts,
        records=records,
        front=front,
        validated=validated,
        chosen=choice.draft,
        lookups=lookups,
        chosen_lookup=choice.lookup,
        lookup_first=first,
        chosen_first=choice.first,
        banner=banner,
        ready=facts.ready if facts.ready and gate.keeps(facts.ready[0].build, facts.ready[1]) else None,
        batches=facts.batches if same else (),
        adaptive=facts.adaptive if same else None,
        kernel_tuning=facts.kernel_tuning if same else None,
    )


def _undecided(best: tuple[TrialRecord, Score], validated: Sequence[Validated], chosen: Validated | None) -> bool:
    """Whether the best prediction did not decode, and is better than what was chosen was measured to be."""
    record, score = best
    decoded = any(draft.build == record.build for draft in validated)
    return not decoded and (chosen is None or score.speedup.value > chosen.speedup_measured.value)


@dataclass(frozen=True)
class _Gate:
    limits: Limits
    context_tokens: int

    def record(self, record: TrialRecord) -> TrialRecord:
        """The record with the scores that keep the limits; ruled out if none does."""
        outcome = record.outcome
        if not isinstance(outcome, Measured):
            return record
        kept = tuple(score for score in outcome.scores if self.keeps(record.build, score))
        if kept:
            return replace(record, outcome=replace(outcome, scores=kept))
        return replace(record, outcome=Rejected(RejectReason.CONSTRAINT, "over the limits at every lookahead"))

    def keeps(self, build: Build, score: Score) -> bool:
        """Whether a build keeps them with this score."""
        return self._build(build, score.lookahead) and self._round(score.round_s.value)

    def validated(self, draft: Validated) -> bool:
        """Whether a draft that decoded keeps them."""
        return self._build(draft.build, draft.lookahead) and self._round(draft.round_s)

    def first(self, both: LookupFirstOutcome, validated: Sequence[Validated]) -> bool:
        """Whether a lookup and the draft behind it keep them, the draft by itself too."""
        alone = any(draft.build == both.build for draft in validated)
        return alone and self.keeps(both.build, both.best) and self._lookahead(both.lookup_lookahead)

    def lookup(self, outcome: LookupOutcome) -> LookupOutcome | None:
        """The drafter without a model at its fastest lookahead within the limits; None if there is none."""
        kept = tuple(
            score for score in outcome.scores if self._lookahead(score.lookahead) and self._round(score.round_s.value)
        )
        if not kept:
            return None
        lookahead = max(kept, key=lambda score: score.tokens_per_s.value).lookahead
        decoded = outcome.decoded if lookahead == outcome.lookahead else None
        return replace(outcome, scores=kept, lookahead=lookahead, decoded=decoded)

    def _build(self, build: Build, lookahead: int) -> bool:
        limits = self.limits
        known = Constraints(self.context_tokens, limits.max_memory_bytes, limits.max_parameters)
        return self._lookahead(lookahead) and not violated(known.before_build(Candidate(build, lookahead)))

    def _lookahead(self, lookahead: int) -> bool:
        return self.limits.lookaheads is None or lookahead in self.limits.lookaheads

    def _round(self, round_s: float) -> bool:
        return self.limits.max_round_s is None or round_s <= self.limits.max_round_s
