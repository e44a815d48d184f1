"""Runs beside each other."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from autotune.reports.compared import compare
from autotune.reports.facts import RunFacts
from autotune.reports.summarise import summarise
from autotune.results import Evidence, Figure, Measured

MakeFacts = Callable[..., RunFacts]


def slower_drafts(facts: RunFacts, factor: float) -> RunFacts:
    """The run as if every draft step had taken so many times as long."""
    records = []
    for record in facts.records:
        outcome = record.outcome
        if isinstance(outcome, Measured):
            samples = tuple(tuple(factor * seconds for seconds in row) for row in outcome.burst.samples_s)
            outcome = replace(outcome, burst=replace(outcome.burst, samples_s=samples))
        records.append(replace(record, outcome=outcome))
    return replace(facts, records=records)


def test_a_run_beside_itself_differs_in_nothing(make_facts: MakeFacts) -> None:
    facts = make_facts()
    found = compare({"one": facts, "two": facts})
    assert {each.ratio for each in found.differences} == {1.0}
    assert not any(each.beyond_noise for each in found.differences)
    assert {each.run for each in found.differences} == {"two"}
    assert found.cautions == ()
    assert [row.sentence for row in found.runs] == [summarise(facts).sentence] * 2


def test_the_first_run_is_the_yardstick(make_facts: MakeFacts) -> None:
    facts = make_facts()
    assert facts.chosen is not None
    faster = replace(facts.chosen, speedup_measured=Figure(9.0, Evidence.MEASURED, 8.9, 9.1))
    found = compare({"one": facts, "two": replace(facts, chosen=faster)})
    (speedup,) = [each for each in found.differences if each.what.startswith("speed-up")]
    assert speedup.ratio == pytest.approx(9.0 / facts.chosen.speedup_measured.value)
    assert speedup.beyond_noise
    assert speedup.evidence == "measured"


def test_a_difference_inside_its_interval_is_noise(make_facts: MakeFacts) -> None:
    facts = make_facts()
    other = replace(facts, baseline=replace(facts.baseline, value=facts.baseline.value * 1.02))
    (alone,) = [each for each in compare({"one": facts, "two": other}).differences if "alone" in each.what]
    assert alone.ratio == pytest.approx(1.02)
    assert not alone.beyond_noise


def test_builds_of_both_are_compared_one_by_one(make_facts: MakeFacts) -> None:
    facts = make_facts()
    found = compare({"one": facts, "two": slower_drafts(facts, 1.3)})
    steps, tokens = [each for each in found.differences if "builds of both" in each.what]
    measured = len({each.build.key() for each in facts.records if isinstance(each.outcome, Measured)})
    assert steps.what == f"seconds of a draft step, {measured} builds of both"
    assert (steps.ratio, steps.beyond_noise) == (pytest.approx(1.3), True)
    assert (tokens.ratio, tokens.beyond_noise, tokens.evidence) == (1.0, False, "estimated")


def test_runs_without_common_builds_and_without_a_winner_compare_all_the_same(make_facts: MakeFacts) -> None:
    none = replace(make_facts(validated=0, choose=False), records=[], front=[])
    found = compare({"one": make_facts(), "two": none})
    assert [each.what for each in found.differences] == ["tokens/s of the target alone"]


def test_what_does_not_compare_is_said(make_facts: MakeFacts) -> None:
    facts = make_facts()
    found = compare({"one": facts, "two": replace(facts, target="other", device="cpu:B")})
    assert found.cautions == (
        "two and one have different targets: other and demo",
        f"two and one have different devices: cpu:B and {facts.device}",
    )
