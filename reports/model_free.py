"""The report's section on drafting without a model."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypedDict

from autotune.lookup_results import Decoded, LookupFirstOutcome, LookupOutcome
from autotune.reports.cells import error, number, table, times
from autotune.reports.figure_summaries import SpeedSummary, TarSummary, speed_summary, tar_summary
from autotune.reports.summary import DraftSummary, LookupFirstSummary, LookupSummary, RunSummary
from autotune.results import Score


def lookup_summaries(outcomes: Sequence[LookupOutcome]) -> tuple[LookupSummary, ...]:
    """Drafters without a model as `summary.json` has them."""
    return tuple(_summary(outcome) for outcome in outcomes)


def lookup_as_draft(outcome: LookupOutcome) -> DraftSummary:
    """The drafter that ships, where reports speak of the draft that does."""
    told = _summary(outcome)
    return DraftSummary(
        name=told.name,
        shape=None,
        lookahead=told.lookahead,
        backend=None,
        precision=None,
        parameters=0,
        tar=told.tar,
        tokens_per_s=told.tokens_per_s,
        speedup=told.speedup,
        divergences=told.divergences,
        mismatches=told.mismatches,
    )


def lookup_first_summary(outcome: LookupFirstOutcome | None) -> LookupFirstSummary | None:
    """A draft with a lookup before it as `summary.json` has it."""
    if outcome is None:
        return None
    return LookupFirstSummary(
        name=str(outcome),
        lookup=str(outcome.lookup),
        lookup_lookahead=outcome.lookup_lookahead,
        shape=str(outcome.build.shape),
        lookahead=outcome.best.lookahead,
        **_told(outcome.best, outcome.decoded),
    )


def with_lookup_first(draft: DraftSummary, outcome: LookupFirstOutcome) -> DraftSummary:
    """A draft that ships with a lookup before it: its speed is that of both."""
    return replace(
        draft,
        lookahead=outcome.best.lookahead,
        lookup_first=f"{outcome.lookup}, k = {outcome.lookup_lookahead}",
        round=None,
        **_told(outcome.best, outcome.decoded),
    )


def without_model(summary: RunSummary) -> Iterable[str]:
    """The section *Without a draft model*; nothing where none took part."""
    if not summary.without_model:
        return
    yield "## Without a draft model"
    yield (
        "What followed when the end of the text last occurred is proposed again: no model, no memory, no training. "
        "Tokens per round follow exactly from the target's recorded text; each is shown at its fastest k, beside the "
        "target alone (k = 0, 1.00×). The fastest decoded the held-out prompts too, if it was predicted to pay."
    )
    both = summary.lookup_first
    if both is not None:
        yield (
            f"The last row is draft {both.shape}, k = {both.lookahead}, asked only where {both.lookup} finds nothing: "
            "its tokens per round are estimated from both together."
        )
    rows = [[each.name, str(each.lookahead), *_cells(each)] for each in summary.without_model]
    if both is not None:
        rows.append([f"{both.lookup}, then the draft", str(both.lookup_lookahead), *_cells(both)])
    yield table(
        ["drafter", "k", "TAR", "TAR measured", "error", "tokens/s predicted", "tokens/s measured", "speed-up"], rows
    )


def _cells(each: LookupSummary | LookupFirstSummary) -> list[str]:
    return [
        number(each.tar.estimated, each.tar.estimated_interval, 2),
        number(each.tar.measured, each.tar.measured_interval, 2),
        error(each.tar.estimated, each.tar.measured) if each.tar.measured is not None else "",
        number(each.tokens_per_s.predicted, None, 0),
        number(each.tokens_per_s.measured, each.tokens_per_s.measured_interval, 0),
        _speedup(each),
    ]


def _speedup(each: LookupSummary | LookupFirstSummary) -> str:
    """As measured, or else as predicted."""
    if each.speedup.measured is not None:
        return f"{times(each.speedup.measured, each.speedup.measured_interval)} (measured)"
    return f"{times(each.speedup.predicted, None)} ({each.speedup.predicted_evidence})"


def _summary(outcome: LookupOutcome) -> LookupSummary:
    return LookupSummary(
        name=str(outcome.lookup),
        lookahead=outcome.lookahead,
        tar_by_lookahead=tuple(score.tokens_per_round.value for score in outcome.scores),
        **_told(outcome.best, outcome.decoded),
    )


class _Told(TypedDict):
    tar: TarSummary
    tokens_per_s: SpeedSummary
    speedup: SpeedSummary
    divergences: int
    mismatches: int


def _told(score: Score, decoded: Decoded | None) -> _Told:
    """What was predicted beside what decoding came to."""
    return _Told(
        tar=tar_summary(score.tokens_per_round, decoded.tar if decoded else None),
        tokens_per_s=speed_summary(score.tokens_per_s, decoded.tokens_per_s if decoded else None),
        speedup=speed_summary(score.speedup, decoded.speedup if decoded else None),
        divergences=decoded.divergences if decoded else 0,
        mismatches=decoded.mismatches if decoded else 0,
    )
