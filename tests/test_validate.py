"""What validation says of a finalist, and of a machine that is not as fast as the tuning database remembers it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from autotune import validate
from autotune.candidate import Lookup, LookupKind
from autotune.contest import Tally
from autotune.finalists import Finalist
from autotune.lookup_results import Decoded, LookupFirstOutcome, LookupOutcome
from autotune.objective import MEAN
from autotune.results import Evidence, Figure, Score, TargetLatency, Validated
from autotune.runtime.decode import Statistics
from tests.support.evaluators import SilentObserver
from tests.support.figures import BUILD, measured, record, target_latency

ONE = Figure(1.0, Evidence.ESTIMATED)
KNOWN = replace(target_latency(), date="2026-01-02T03:04:05Z")


def slower(latency: TargetLatency, factor: float) -> TargetLatency:
    samples = tuple(tuple(factor * seconds for seconds in row) for row in latency.verify.samples_s)
    verify = replace(latency.verify, samples_s=samples)
    return replace(latency, verify=verify, plain_overhead_s=factor * latency.plain_overhead_s, date=None)


@pytest.mark.parametrize(("factor", "told"), [(1.0, False), (1.05, False), (0.93, False), (1.4, True), (0.7, True)])
def test_a_machine_that_changed_speed_is_told(factor: float, told: bool) -> None:
    observer = SilentObserver()
    validate._tell_drift(KNOWN, slower(KNOWN, factor), observer)
    assert bool(observer.notes) == told
    if told:
        assert f"takes {factor:.2f} times as long as the tuning database knew from 2026-01-02" in observer.notes[0]


def test_a_target_measured_in_this_run_is_not_compared() -> None:
    observer = SilentObserver()
    validate._tell_drift(target_latency(), slower(KNOWN, 3.0), observer)
    assert not observer.notes


def test_a_finalist_is_judged_beside_what_the_search_saw_at_the_lookahead_it_decodes_with() -> None:
    """The search's draft kept 0.3 of the tokens, the finished one 0.5."""
    searched, finished = record(0, measured(0.3, 0.001)), measured(0.5, 0.001)
    score = finished.scores[1]
    whole = cast(Any, SimpleNamespace())
    finalist = Finalist(searched, whole, Path("program"), score, finished.acceptance, finished.burst)
    pair = Tally((Statistics(tokens=40, rounds=20, decode_s=1.0), Statistics(tokens=60, rounds=30, decode_s=1.0)))
    alone = Tally((Statistics(tokens=40, rounds=40, decode_s=1.0), Statistics(tokens=60, rounds=60, decode_s=2.0)))
    judged = validate._judge(finalist, alone, pair, MEAN, ("text", "text"))
    assert judged.tar_proxy == searched.scores[1].tokens_per_round
    assert judged.tar_proxy is not None
    figures = judged.tar_proxy, judged.tar_estimated, judged.tar_measured
    assert [figure.value for figure in figures] == pytest.approx([1.6, 2.0, 2.0])


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


def draft(speedup: float, low: float, build: Any = BUILD) -> tuple[Finalist, Validated]:
    measured_speedup = Figure(speedup, Evidence.MEASURED, low, speedup + 0.1)
    finalist = SimpleNamespace(record=SimpleNamespace(build=build))
    return cast(Any, (finalist, SimpleNamespace(speedup_measured=measured_speedup, mismatches=0)))


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
    outcome: LookupOutcome, drafts: list[tuple[Finalist, Validated]], ships: bool
) -> None:
    alone = Figure(100.0, Evidence.MEASURED)
    found = validate.Validation(alone, tuple(drafts), lookups=(lookup(None), outcome))
    assert found.lookup == (outcome if ships else None)


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
    both: LookupFirstOutcome, outcome: LookupOutcome, drafts: list[tuple[Finalist, Validated]], ships: str
) -> None:
    found = validate.Validation(ONE, tuple(drafts), lookups=(outcome,), lookup_first=both)
    assert (found.lookup, found.first) == (outcome if ships == "lookup" else None, both if ships == "both" else None)
    assert found.shipping == (drafts[0] if ships in ("both", "draft") else None)


def test_the_draft_that_a_lookup_comes_before_need_not_be_the_fastest_by_itself() -> None:
    other = replace(BUILD, backend="another")
    fastest, asked = draft(1.6, 1.5, other), draft(1.5, 1.4)
    found = validate.Validation(ONE, (fastest, asked), lookup_first=together(1.8))
    assert found.winner == fastest
    assert found.shipping == asked
