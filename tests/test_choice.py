"""What ships, of what really decoded."""

from dataclasses import replace

import pytest

from autotune.candidate import Build, Lookup, LookupKind
from autotune.choice import Choice, choose, fastest_draft
from autotune.lookup_results import Decoded, LookupFirstOutcome, LookupOutcome
from autotune.results import Evidence, Figure, Score, Validated
from tests.support.figures import BUILD

ONE = Figure(1.0, Evidence.ESTIMATED)


def lookup(speedup: float | None, low: float | None = None, mismatches: int = 0) -> LookupOutcome:
    return LookupOutcome(
        Lookup(LookupKind.SUFFIX_AUTOMATON), (Score(2, ONE, ONE, ONE, ONE),), 2, decoded(speedup, low, mismatches)
    )


def decoded(speedup: float | None, low: float | None = None, mismatches: int = 0) -> Decoded | None:
    if speedup is None:
        return None
    return Decoded(ONE, ONE, Figure(speedup, Evidence.MEASURED, low, None), mismatches=mismatches)


def together(speedup: float, low: float | None = None, mismatches: int = 0) -> LookupFirstOutcome:
    score = Score(2, ONE, ONE, ONE, ONE)
    return LookupFirstOutcome(BUILD, Lookup(LookupKind.SUFFIX_AUTOMATON), 4, score, decoded(speedup, low, mismatches))


def draft(speedup: float, low: float, build: Build = BUILD, mismatches: int = 0) -> Validated:
    measured = Figure(speedup, Evidence.MEASURED, low, speedup + 0.1)
    return Validated(build, 2, ONE, ONE, ONE, ONE, ONE, measured, 10, 0.1, 0.1, 0.0, mismatches=mismatches)


@pytest.mark.parametrize(
    ("outcome", "drafts", "ships"),
    [
        (lookup(1.4), [], True),
        (lookup(0.9), [], False),
        (lookup(None), [], False),
        (lookup(1.4, mismatches=1), [], False),
        (lookup(1.4), [draft(1.5, 1.35)], True),  # the draft is not faster beyond the doubt
        (lookup(1.4), [draft(1.5, 1.45)], False),
        (lookup(1.4), [draft(0.8, 0.7)], True),
    ],
)
def test_no_draft_ships_where_doing_without_is_as_fast(
    outcome: LookupOutcome, drafts: list[Validated], ships: bool
) -> None:
    found = choose(drafts, (lookup(None), outcome), None)
    assert found.lookup == (outcome if ships else None)
    assert found.draft is None or not ships


@pytest.mark.parametrize(
    ("both", "outcome", "drafts", "ships"),
    [
        (together(1.8), lookup(1.4), [draft(1.5, 1.4)], "both"),
        (together(1.8), lookup(1.4), [draft(0.9, 0.8)], "both"),  # neither a draft alone that does not pay
        (together(1.8, 1.3), lookup(1.4), [draft(1.5, 1.4)], "lookup"),  # within the doubt no draft is worth its memory
        (together(1.4), lookup(1.1), [draft(1.5, 1.4)], "draft"),
        (together(0.9), lookup(0.9), [draft(0.9, 0.8)], "nothing"),
        (together(1.8, mismatches=1), lookup(1.1), [draft(1.5, 1.4)], "draft"),
    ],
)
def test_what_ships_is_the_fastest_that_decoded(
    both: LookupFirstOutcome, outcome: LookupOutcome, drafts: list[Validated], ships: str
) -> None:
    assert choose(drafts, (outcome,), both) == Choice(
        draft=drafts[0] if ships in ("both", "draft") else None,
        lookup=outcome if ships == "lookup" else None,
        first=both if ships == "both" else None,
    )


def test_the_draft_that_a_lookup_comes_before_need_not_be_the_fastest_by_itself() -> None:
    fastest, asked = draft(1.6, 1.5, replace(BUILD, backend="another")), draft(1.5, 1.4)
    assert choose([fastest, asked], (), None).draft == fastest
    assert choose([fastest, asked], (), together(1.8)).draft == asked


def test_a_draft_that_altered_the_output_or_is_slower_never_ships() -> None:
    assert fastest_draft([draft(2.0, 1.9, mismatches=1), draft(0.9, 0.8)]) is None
    assert choose([draft(2.0, 1.9, mismatches=1), draft(1.2, 1.1)], (), None).draft == draft(1.2, 1.1)
