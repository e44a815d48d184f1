"""What ships: the choice among what really decoded held-out prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.lookup_results import Decoded, LookupFirstOutcome, LookupOutcome
from autotune.results import Figure, Validated


@dataclass(frozen=True)
class Choice:
    """What ships beside the target; nothing at all where the target alone is at least as fast."""

    draft: Validated | None = None
    """None also where a drafter without a model ships instead."""
    lookup: LookupOutcome | None = None
    """The drafter without a model that makes a draft model not worth its memory."""
    first: LookupFirstOutcome | None = None
    """The lookup that ships before the draft: both together decoded faster than either alone."""


def choose(
    validated: Sequence[Validated], lookups: Sequence[LookupOutcome], lookup_first: LookupFirstOutcome | None
) -> Choice:
    """The choice among these; what did not decode, or altered the target's output, is never chosen.

    Speed is the speed-up by the run's objective.  That of the worst category is the smallest of any, so what wins by it
    is faster than the target alone in every category.
    """
    draft = fastest_draft(validated)
    drafts = [draft.speedup_measured] if draft else []
    if lookup_first and lookup_first.decoded and lookup_first.decoded.pays:
        drafts.append(lookup_first.decoded.speedup)
    needed = max(drafts, key=lambda speedup: speedup.value, default=None)
    best = max(lookups, key=lambda each: paid(each.decoded), default=None)
    if best is not None and paid(best.decoded) > 0.0 and not _beyond_doubt(needed, paid(best.decoded)):
        return Choice(lookup=best)
    if lookup_first is not None and paid(lookup_first.decoded) > (draft.speedup_measured.value if draft else 0.0):
        return Choice(next(each for each in validated if each.build == lookup_first.build), first=lookup_first)
    return Choice(draft)


def fastest_draft(validated: Sequence[Validated]) -> Validated | None:
    """The fastest draft that beats the target alone and never altered its output; None if there is none."""
    faster = [each for each in validated if each.speedup_measured.value > 1.0 and not each.mismatches]
    return max(faster, key=lambda each: each.speedup_measured.value, default=None)


def _beyond_doubt(speedup: Figure | None, rival: float) -> bool:
    """Whether a speed-up is above the rival's with all of its interval."""
    return speedup is not None and (speedup.value if speedup.low is None else speedup.low) > rival


def paid(decoded: Decoded | None) -> float:
    """The measured speed-up; 0 where it did not pay, or was not measured."""
    return decoded.speedup.value if decoded is not None and decoded.pays else 0.0
