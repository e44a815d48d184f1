"""What a run advises, and why, in one sentence."""

from autotune.lookup_results import LookupFirstOutcome, LookupOutcome
from autotune.reports.categories import which
from autotune.reports.facts import RunFacts
from autotune.reports.figure_summaries import interval
from autotune.reports.summary import Verdict
from autotune.results import Figure, RunKind, Score, TrialRecord


def predicted_best(facts: RunFacts) -> tuple[TrialRecord, Score] | None:
    """The draft that was finished, or the front's point with the most predicted tokens/s; None if there is none."""
    return facts.ready or max(facts.front, key=lambda point: point[1].tokens_per_s.value, default=None)


def verdict_of(facts: RunFacts) -> Verdict:
    """What the run advises."""
    if facts.chosen or facts.chosen_lookup:
        return Verdict.SPECULATE
    if facts.validated:
        return Verdict.DO_NOT_SPECULATE
    best = predicted_best(facts)
    if facts.interrupted or not facts.records:
        return Verdict.NOT_VALIDATED
    if best is None:
        return Verdict.NOTHING_FEASIBLE
    if facts.kind is RunKind.PLAN:  # by a stand-in nothing can be decided
        return Verdict.NOT_VALIDATED
    return Verdict.NOT_VALIDATED if best[1].speedup.value > 1.0 else Verdict.DO_NOT_SPECULATE


def sentence(facts: RunFacts) -> str:
    """The verdict with its reason, in one sentence."""
    verdict = verdict_of(facts)
    best, alone = predicted_best(facts), f"the target alone{which(facts.objective)}"
    if facts.chosen_first:
        return _sentence_lookup_first(facts, facts.chosen_first, alone)
    if verdict is Verdict.SPECULATE and facts.chosen:
        draft = facts.chosen
        return (
            f"Draft {draft.build.shape} ({draft.build.precision.value}), k = {draft.lookahead}: "
            f"{draft.speedup_measured.value:.2f}× {alone} ({_evidence(draft.speedup_measured)})."
        )
    if facts.chosen_lookup:
        return _sentence_without_model(facts, facts.chosen_lookup, alone)
    if verdict is Verdict.DO_NOT_SPECULATE and facts.validated:
        lossless = [each for each in facts.validated if not each.mismatches]
        if not lossless:
            return f"Do not speculate: all {len(facts.validated)} decoded drafts altered the target's output."
        draft = max(lossless, key=lambda each: each.speedup_measured.value)
        return (
            f"Do not speculate: the best of {len(facts.validated)} decoded drafts, {draft.build.shape} with "
            f"k = {draft.lookahead}, reached {draft.speedup_measured.value:.2f}× {alone} "
            f"({_evidence(draft.speedup_measured)}). Its round takes {draft.round_s / facts.latency.step_s:.2f} times "
            f"as long as a plain step and gives {draft.tar_measured.value:.2f} tokens."
        )
    if not facts.records:
        return "Not validated: no draft was tried yet."
    if best is None:
        return f"Do not speculate: none of the {len(facts.records)} builds tried could be scored under the constraints."
    record, score = best
    if facts.kind is RunKind.PLAN:
        return _plan_sentence(facts, record, score)
    predicted = f"{record.build.shape}, k = {score.lookahead}, is predicted to reach {score.speedup.value:.2f}×"
    why = "but it was not decoded" if facts.kind is RunKind.WHOLE else "but its target is not here to decode with"
    if verdict is Verdict.NOT_VALIDATED:
        return f"Not validated: {predicted} {alone} ({_evidence(score.speedup)}), {why}."
    return f"Do not speculate: the best draft, {predicted} only."


def _sentence_without_model(facts: RunFacts, outcome: LookupOutcome, alone: str) -> str:
    assert outcome.decoded is not None  # what ships was decoded
    measured = outcome.decoded.speedup
    drafts = [draft for draft in facts.validated if not draft.mismatches]
    rival = max((draft.speedup_measured.value for draft in drafts), default=None)
    told = "" if rival is None else f", and the best draft reached {rival:.2f}×"
    return (
        f"No draft model is worth its memory: {outcome.lookup}, k = {outcome.lookahead}: {measured.value:.2f}× {alone} "
        f"({_evidence(measured)}){told}."
    )


def _sentence_lookup_first(facts: RunFacts, both: LookupFirstOutcome, alone: str) -> str:
    assert both.decoded is not None  # what ships was decoded
    drafts = [draft.speedup_measured.value for draft in facts.validated if not draft.mismatches]
    lookups = [each.decoded.speedup.value for each in facts.lookups if each.decoded]
    told = f"; the best draft by itself {max(drafts):.2f}×" if drafts else ""
    told += f", a lookup by itself {max(lookups):.2f}×" if lookups else ""
    return (
        f"Draft {both.build.shape} ({both.build.precision.value}), k = {both.best.lookahead}, asked where "
        f"{both.lookup} (k = {both.lookup_lookahead}) finds nothing: {both.decoded.speedup.value:.2f}× {alone} "
        f"({_evidence(both.decoded.speedup)}){told}."
    )


def _plan_sentence(facts: RunFacts, record: TrialRecord, score: Score) -> str:
    even = "" if score.break_even is None else f"; it pays from {score.break_even.value:.2f} tokens per round on"
    return (
        f"Plan, not validated: {record.build.shape} ({record.build.precision.value}), k = {score.lookahead}, would "
        f"reach {score.speedup.value:.2f}× the target alone with {score.tokens_per_round.value:.2f} tokens per round "
        f"({score.tokens_per_round.evidence.value}){even}."
    )


def _evidence(figure: Figure) -> str:
    low_high = interval(figure)
    if low_high is None:
        return figure.evidence.value
    return f"{figure.evidence.value}, {low_high[0]:.2f} … {low_high[1]:.2f}"
