"""What reports say of tokens per round: proxy, finished and measured; the traces they rest on; bars in the picture."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from autotune.refinement import Level, Refinement
from autotune.reports.charts.pareto import pareto_data
from autotune.reports.charts.points import Kind
from autotune.reports.facts import RunFacts
from autotune.reports.markdown import markdown
from autotune.reports.summarise import summarise
from autotune.results import Evidence, Figure

MakeFacts = Callable[..., RunFacts]
REFINEMENT = Refinement((Level(30, 1500, 40), Level(60, 3000, 8), Level(120, 6000, 12)))


def with_proxy(facts: RunFacts) -> RunFacts:
    """The facts with what the search saw of each validated draft: a tenth less."""

    def seen(figure: Figure) -> Figure:
        assert figure.low is not None
        assert figure.high is not None
        return Figure(0.9 * figure.value, Evidence.ESTIMATED, 0.9 * figure.low, 0.9 * figure.high)

    drafts = [replace(draft, tar_proxy=seen(draft.tar_estimated)) for draft in facts.validated]
    return replace(facts, validated=drafts)


def row_of(text: str, headers: str, line: int = 0) -> dict[str, str]:
    """A row of the table with these headers."""
    lines = text[text.index(headers) :].splitlines()
    cells, names = ([cell.strip() for cell in each.strip("|").split("|")] for each in (lines[2 + line], lines[0]))
    return dict(zip(names, cells, strict=True))


def test_tokens_per_round_are_shown_as_the_proxys_the_finished_drafts_and_measured(make_facts: MakeFacts) -> None:
    facts = with_proxy(make_facts())
    text = markdown(summarise(facts))
    for line, draft in enumerate(facts.validated):
        row = row_of(text, "| draft | k | program | parameters | TAR proxy", line)
        for name, figure in (
            ("TAR proxy", draft.tar_proxy),
            ("TAR finished", draft.tar_estimated),
            ("TAR measured", draft.tar_measured),
        ):
            assert figure is not None
            assert row[name] == f"{figure.value:.2f} ({figure.low:.2f} … {figure.high:.2f})"
    alone = row_of(text, "| draft | k | program | parameters | TAR proxy", len(facts.validated))
    assert (alone["TAR proxy"], alone["TAR finished"], alone["TAR measured"]) == ("", "", "1")


def test_what_the_search_saw_is_in_the_summary(make_facts: MakeFacts) -> None:
    facts = with_proxy(make_facts(validated=1))
    (found,) = json.loads(summarise(facts).to_json())["validated"]
    seen = facts.validated[0].tar_proxy
    assert seen is not None
    assert found["tar"]["proxy"] == seen.value
    assert found["tar"]["proxy_interval"] == [seen.low, seen.high]
    without = json.loads(summarise(make_facts(validated=1)).to_json())["validated"][0]["tar"]
    assert (without["proxy"], without["proxy_interval"]) == (None, None)


def test_the_report_says_what_was_spent_on_which_traces(make_facts: MakeFacts) -> None:
    summary = summarise(replace(make_facts(), refinement=REFINEMENT))
    text = markdown(summary)
    assert "| builds by estimation traces | 40 on 30, 8 on 60, 12 on 120 |" in text
    assert "| trace tokens scored | 156,000, 43% of what all builds on all traces take |" in text
    assert "rest on all 120 estimation traces" in text
    found = json.loads(summary.to_json())["refinement"]
    assert found["levels"][1] == {"traces": 60, "tokens": 3000, "builds": 8}
    assert (found["spent_tokens"], found["whole_tokens"]) == (156_000, 360_000)


def test_an_interrupted_refinement_is_told(make_facts: MakeFacts) -> None:
    first = Refinement((Level(30, 1500, 40), Level(60, 3000, 0), Level(120, 6000, 0)))
    text = markdown(summarise(replace(make_facts(), refinement=first, interrupted=True)))
    assert "rest on 30 of 120 estimation traces: they were not refined" in text


def test_without_levels_nothing_is_said_of_them(make_facts: MakeFacts) -> None:
    text = markdown(summarise(make_facts()))
    assert "estimation traces" not in text
    assert json.loads(summarise(make_facts()).to_json())["refinement"] is None


def bars(facts: RunFacts) -> list[tuple[float, float, float]]:
    """(round ms, low, high) of every point of the picture that wears its interval."""
    points = [point for point in pareto_data(facts)["points"] if point["kind"] not in (Kind.CANDIDATE, Kind.SCREENED)]
    found = [(point["round_ms"], point["low"], point["high"]) for point in points if point["low"] is not None]
    return sorted((float(x or 0), float(low or 0), float(high or 0)) for x, low, high in found)


def test_the_picture_has_the_intervals_of_the_front_and_of_decoded_drafts(make_facts: MakeFacts) -> None:
    facts = make_facts()
    drawn = bars(facts)
    figures = [(score.round_s.value, score.tokens_per_round) for _, score in facts.front]
    figures += [(draft.round_s, draft.tar_measured) for draft in facts.validated]
    expected = sorted((1e3 * s, figure.low, figure.high) for s, figure in figures)
    assert np.array(drawn) == pytest.approx(np.array(expected))
    (record, score), *rest = facts.front
    bare = replace(score, tokens_per_round=Figure(score.tokens_per_round.value, Evidence.ESTIMATED))
    assert len(bars(replace(facts, front=[(record, bare), *rest]))) == len(drawn) - 1
