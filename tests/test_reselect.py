"""Choosing again under other limits."""

from dataclasses import replace

import pytest

from autotune.candidate import Candidate, Lookup, LookupKind
from autotune.lookup_results import Decoded, LookupFirstOutcome, LookupOutcome
from autotune.reports.facts import RunFacts
from autotune.reports.summarise import summarise
from autotune.reports.summary import Verdict
from autotune.reselect import Limits, reselect
from autotune.results import Evidence, Figure, Score
from tests.support.facts import synthetic_facts

CONTEXT = 256
LOOKUP = Lookup(LookupKind.SUFFIX_AUTOMATON)


def facts() -> RunFacts:
    return replace(synthetic_facts(), context_tokens=CONTEXT)


def figure(value: float) -> Figure:
    return Figure(value, Evidence.ESTIMATED)


def score(lookahead: int, round_s: float, tokens_per_s: float) -> Score:
    return Score(lookahead, figure(2.0), figure(round_s), figure(tokens_per_s), figure(1.2))


def test_without_limits_nothing_changes() -> None:
    before = facts()
    after = reselect(before, Limits())
    assert list(after.records) == list(before.records)
    assert list(after.validated) == list(before.validated)
    assert after.chosen == before.chosen


@pytest.mark.parametrize(
    "limits",
    [
        Limits(max_parameters=500_000),
        Limits(max_memory_bytes=900_000),
        Limits(max_round_s=0.0016),
        Limits(lookaheads=(1, 2)),
        Limits(max_parameters=600_000, max_round_s=0.002, lookaheads=(2, 3, 4)),
    ],
)
def test_all_that_is_left_keeps_the_limits(limits: Limits) -> None:
    before = facts()
    after = reselect(before, limits)
    kept = [(record.build, each.lookahead, each.round_s.value) for record in after.records for each in record.scores]
    kept += [(draft.build, draft.lookahead, draft.round_s) for draft in after.validated]
    assert kept
    assert len(kept) < sum(len(record.scores) for record in before.records) + len(before.validated)
    for build, lookahead, round_s in kept:
        assert limits.max_parameters is None or build.shape.parameters <= limits.max_parameters
        memory = Candidate(build, lookahead).memory_bytes(CONTEXT)
        assert limits.max_memory_bytes is None or memory <= limits.max_memory_bytes
        assert limits.max_round_s is None or round_s <= limits.max_round_s
        assert limits.lookaheads is None or lookahead in limits.lookaheads
    front = {(record.number, each.lookahead) for record, each in after.front}
    assert front <= {(record.number, each.lookahead) for record in after.records for each in record.scores}
    assert len(after.records) == len(before.records)
    assert any(f"Chosen again from a finished run, with {limits};" in line for line in after.banner)


def test_what_ships_is_the_fastest_of_those_left() -> None:
    before = facts()
    first, second = sorted(before.validated, key=lambda draft: -draft.speedup_measured.value)[:2]
    assert before.chosen == first
    limits = Limits(max_round_s=first.round_s * 0.999)
    after = reselect(before, limits)
    assert after.chosen == (second if second.round_s <= limits.max_round_s else None)
    assert first not in after.validated


def test_nothing_is_validated_where_nothing_that_decoded_is_left_but_another_should_pay() -> None:
    before = facts()
    lookaheads = tuple(k for k in range(1, 9) if k not in {draft.lookahead for draft in before.validated})
    after = reselect(before, Limits(lookaheads=lookaheads))
    assert (after.chosen, list(after.validated)) == (None, [])
    assert summarise(after).verdict is Verdict.NOT_VALIDATED
    assert "was not decoded" in after.banner[-1]


def test_nothing_feasible_is_left_by_impossible_limits() -> None:
    after = reselect(facts(), Limits(max_parameters=1))
    summary = summarise(after)
    assert summary.verdict is Verdict.NOTHING_FEASIBLE
    assert summary.ruled_out == len([record for record in facts().records if record.scores])


def test_what_belongs_to_the_winner_goes_with_it() -> None:
    before = replace(facts(), kernel_tuning=object(), adaptive=object(), batches=(object(),))  # type: ignore[arg-type]
    assert reselect(before, Limits(max_parameters=10**9)).kernel_tuning is before.kernel_tuning
    gone = reselect(before, Limits(max_parameters=1))
    assert (gone.kernel_tuning, gone.adaptive, gone.batches) == (None, None, ())


def test_a_lookup_goes_on_with_its_fastest_lookahead_that_is_left_and_is_then_not_measured() -> None:
    decoded = Decoded(figure(2.0), figure(900.0), Figure(3.0, Evidence.MEASURED))
    outcome = LookupOutcome(
        LOOKUP, (score(2, 0.001, 800.0), score(3, 0.001, 850.0), score(4, 0.001, 900.0)), 4, decoded
    )
    before = replace(facts(), lookups=[outcome], chosen=None, chosen_lookup=outcome)
    assert reselect(before, Limits(lookaheads=(2, 4))).chosen_lookup is not None
    (left,) = reselect(before, Limits(lookaheads=(2, 3))).lookups
    assert (left.lookahead, left.decoded) == (3, None)
    assert reselect(before, Limits(max_round_s=0.0001)).lookups == []


def test_a_lookup_goes_before_a_draft_only_while_that_is_left_by_itself() -> None:
    draft = synthetic_facts().validated[0]
    decoded = Decoded(figure(2.0), figure(900.0), Figure(3.0, Evidence.MEASURED))
    both = LookupFirstOutcome(draft.build, LOOKUP, 8, score(draft.lookahead, 0.0001, 900.0), decoded)
    before = replace(facts(), lookup_first=both, chosen=draft, chosen_first=both)
    assert reselect(before, Limits(max_parameters=10**9)).chosen_first == both
    assert reselect(before, Limits(max_parameters=draft.build.shape.parameters - 1)).chosen_first is None
    assert reselect(before, Limits(lookaheads=(draft.lookahead,))).chosen_first is None
    shortest_s = min(each.round_s for each in before.validated if each.build == draft.build)
    assert reselect(before, Limits(max_round_s=shortest_s * 0.99)).chosen_first is None


def test_limits_are_told_in_words() -> None:
    limits = Limits(2 << 20, 300_000, 0.0015, (1, 2))
    assert str(limits) == "at most 2 MiB of memory, at most 300 k parameters, rounds of at most 1.5 ms, k of 1, 2"
    assert str(Limits()) == "no other limits"
