"""Pages of runs of every kind: what there is nothing to say of leaves no trace, and no chart fails."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from autotune.candidate import LookupKind
from autotune.reports.charts.rendering import svg_text
from autotune.reports.facts import RunFacts
from autotune.reports.page.drawings import drawings
from autotune.reports.page.page import report_page
from autotune.reports.summarise import summarise
from autotune.results import Evidence, RunKind, TrialRecord
from tests.reports.test_categories import with_categories
from tests.reports.test_kinds import assumed
from tests.reports.test_model_free import outcome
from tests.support.figures import BUILD, screened

MakeFacts = Callable[..., RunFacts]


def plan(facts: RunFacts) -> RunFacts:
    records = [assumed(0, 0.5, 0.001, 1), assumed(1, 0.6, 0.002, 2)]
    return replace(
        facts,
        kind=RunKind.PLAN,
        banner=("A PLAN, NOT A RESULT.",),
        records=records,
        front=[(each, score) for each in records for score in each.scores],
        validated=[],
        chosen=None,
    )


def with_screened(facts: RunFacts) -> RunFacts:
    extra = [TrialRecord(40 + n, BUILD, BUILD.shape.parameters, 0.1, screened()) for n in range(3)]
    return replace(facts, records=[*facts.records, *extra])


KINDS: dict[str, Callable[[RunFacts], RunFacts]] = {
    "whole": lambda facts: facts,
    "plan": plan,
    "served": lambda facts: replace(facts, kind=RunKind.SERVED, validated=[], chosen=None, ready=facts.front[0]),
    "lookups": lambda facts: replace(facts, lookups=[outcome(LookupKind.SUFFIX_AUTOMATON, 1.2)]),
    "categories": lambda facts: with_categories(facts, *facts.validated),
    "screened": with_screened,
    "one build": lambda facts: replace(
        facts,
        records=facts.records[:1],
        front=[(facts.records[0], facts.records[0].scores[0])],
        validated=[],
        chosen=None,
    ),
    "empty": lambda facts: replace(facts, records=[], front=[], validated=[], chosen=None),
}
ALWAYS = {"pareto"}
OF_SCORES = {"architecture", "acceptance", "rounds", "depth", "size", "what-if"}
OF_DECODING = {"truth-tar", "truth-speed"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("whole", ALWAYS | OF_SCORES | OF_DECODING | {"timeline"}),
        ("plan", ALWAYS | OF_SCORES | {"timeline"}),
        ("served", ALWAYS | OF_SCORES | {"timeline"}),
        ("one build", ALWAYS | OF_SCORES | {"timeline"}),
        ("empty", ALWAYS),
    ],
)
def test_charts_without_data_are_left_out(make_facts: MakeFacts, kind: str, expected: set[str]) -> None:
    facts = KINDS[kind](make_facts())
    assert {drawing.key for drawing in drawings(facts)} == expected
    html = report_page(facts, summarise(facts))
    assert html.count('<div class="chart') == len(expected)


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_chart_can_be_drawn(make_facts: MakeFacts, kind: str) -> None:
    for drawing in drawings(KINDS[kind](make_facts(builds=6, validated=1))):
        text = svg_text({**drawing.spec, "width": 400, "datasets": drawing.data})
        assert "NaN" not in text, drawing.key


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("plan", "A PLAN, NOT A RESULT."),
        ("plan", '<span class="evidence stand-in">stand-in</span>'),
        ("lookups", "Without a draft model"),
        ("categories", "By category"),
        ("screened", "would not move the front"),
        ("whole", '<span class="evidence measured">measured</span>'),
    ],
)
def test_sections_say_what_they_know(make_facts: MakeFacts, kind: str, words: str) -> None:
    facts = KINDS[kind](make_facts())
    assert words in report_page(facts, summarise(facts))


def test_every_datum_carries_its_evidence(make_facts: MakeFacts) -> None:
    facts = KINDS["lookups"](with_screened(make_facts()))
    told = {each.value for each in Evidence}
    for drawing in drawings(facts):
        for name in ("points", "cells", "tar", "parts", "drafts"):
            for row in drawing.data.get(name, ()):
                words = str(row["evidence"]).replace("tokens ", "").replace("time ", "").split(", ")
                assert set(words) <= told, (drawing.key, row)
