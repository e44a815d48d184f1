"""Reports of runs that could not decode: the banner first, and the evidence of every number."""

import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from autotune.batch_results import BatchEntry, BatchMemory
from autotune.candidate import DraftShape
from autotune.published import PUBLISHED
from autotune.reports.charts.pareto import pareto_picture
from autotune.reports.facts import RunFacts
from autotune.reports.markdown import markdown
from autotune.reports.summarise import summarise
from autotune.reports.summary import Verdict
from autotune.results import Acceptance, Evidence, Figure, Measured, MeasureSettings, RunKind, TrialRecord
from autotune.score import score_lookahead
from tests.support.figures import BUILD, constant_acceptance, latency, record, screened, target_latency

MakeFacts = Callable[..., RunFacts]


def assumed(number: int, kept: float, step_s: float, layers: int) -> TrialRecord:
    """A build whose acceptance is a stand-in beside an extrapolated target."""
    target = target_latency()
    target = replace(target, verify=replace(target.verify, evidence=Evidence.EXTRAPOLATED))
    acceptance: Acceptance = replace(constant_acceptance(kept), evidence=Evidence.STAND_IN)
    burst = latency(*(step_s * k for k in range(1, 5)))
    scores = tuple(score_lookahead(acceptance, burst, target, k) for k in range(1, 5))
    shape = DraftShape(layers, 4, 4, 8, 32, 48, 100)
    whole = record(number, Measured(acceptance, burst, 0.5, scores))
    return replace(whole, build=replace(whole.build, shape=shape))


@pytest.fixture
def plan(make_facts: MakeFacts) -> RunFacts:
    records = [assumed(0, 0.5, 0.001, 1), assumed(1, 0.6, 0.002, 2)]
    target = target_latency()
    return replace(
        make_facts(validated=0, choose=False),
        kind=RunKind.PLAN,
        banner=("A PLAN, NOT A RESULT: nothing is here.", "Decide by the break-even."),
        latency=replace(target, verify=replace(target.verify, evidence=Evidence.EXTRAPOLATED)),
        latency_source="extrapolated from slices",
        records=records,
        front=[(each, score) for each in records for score in each.scores],
        stand_in={str(each.build.shape): f"{each.build.shape.layers}L-1H-8F-8D" for each in records},
        published=PUBLISHED,
        target_shape=DraftShape(8, 4, 4, 8, 32, 48, 100),
        context_tokens=1024,
    )


def test_a_plan_is_never_a_verdict_on_speculation(plan: RunFacts) -> None:
    for kept in (0.0, 0.9):
        each = assumed(0, kept, 0.001, 1)
        facts = replace(plan, records=[each], front=[(each, score) for score in each.scores])
        summary = summarise(facts)
        assert summary.verdict is Verdict.NOT_VALIDATED
        assert summary.sentence.startswith("Plan, not validated: 1L-4H-48F-32D (fp32), k = ")
        assert "(stand-in); it pays from " in summary.sentence
    assert summarise(replace(plan, records=[], front=[])).verdict is Verdict.NOT_VALIDATED


def test_every_number_of_a_plan_says_how_it_was_got(plan: RunFacts) -> None:
    summary = json.loads(summarise(plan).to_json())
    assert summary["kind"] == "plan"
    best = summary["best"]
    assert best["tar"]["estimated_evidence"] == best["speedup"]["predicted_evidence"] == "stand-in"
    assert best["break_even"]["evidence"] == "extrapolated"
    baseline = summary["baseline"]
    assert (baseline["step_evidence"], baseline["source"]) == ("extrapolated", "extrapolated from slices")
    for point in summary["front"]:
        assert point["speedup"]["evidence"] == point["to_match_best"]["evidence"] == "stand-in"
        assert point["break_even"]["value"] == pytest.approx(point["tar"]["value"] / point["speedup"]["value"])
    assert summary["target_kv_bytes"] == 2 * 8 * 4 * 8 * 4 * 1024


def test_what_was_screened_by_a_stand_in_says_so(plan: RunFacts) -> None:
    outcome = screened()
    forecasts = tuple(
        replace(each, tokens_per_round=replace(each.tokens_per_round, evidence=Evidence.STAND_IN))
        for each in outcome.forecasts
    )
    extra = TrialRecord(40, BUILD, BUILD.shape.parameters, 0.1, replace(outcome, forecasts=forecasts))
    summary = summarise(replace(plan, records=[*plan.records, extra]))
    assert summary.screened_builds[0].best_speedup.evidence == "stand-in"
    assert "Burst times are estimated, speed-ups stand-in;" in markdown(summary)


def test_the_target_alone_is_as_well_known_as_its_latency(plan: RunFacts) -> None:
    best = summarise(replace(plan, kind=RunKind.SERVED, records=[], front=[])).best
    assert best.lookahead == 0
    assert best.tokens_per_s.predicted_evidence == "extrapolated"


def test_what_a_draft_needs_is_told_against_the_best_of_another_shape(plan: RunFacts) -> None:
    points = summarise(plan).front
    fastest = {
        name: max(point.tokens_per_s.value or 0.0 for point in points if point.name == name)
        for name in {point.name for point in points}
    }
    for point in points:
        (rival,) = [speed for name, speed in fastest.items() if name != point.name]
        assert point.to_match_best is not None
        assert point.to_match_best.value == pytest.approx(rival * (point.round_s.value or 0.0))


def test_the_report_of_a_plan_opens_with_its_banner(plan: RunFacts) -> None:
    text = markdown(summarise(plan))
    assert text.splitlines()[2] == "> **A PLAN, NOT A RESULT: nothing is here.**"
    assert text.index("Decide by the break-even") < text.index("Plan, not validated")
    (header,) = re.findall(r"^\| draft \| k .*TAR assumed.*$", text, re.MULTILINE)
    assert "| pays from | best other |" in header
    assert "1L-1H-8F-8D" in text
    published = text[text.index("## Published elsewhere") : text.index("## The run")]
    assert published.count("second-hand") == len(PUBLISHED)
    assert "1024 tokens; the target's cache takes" in text
    picture = pareto_picture(plan)
    assert picture["title"]["text"] == "Plan of drafts for demo"
    titles = [layer["encoding"]["y"].get("title", "") for layer in picture["layer"]]
    assert "tokens per round, the target's own included: a stand-in" in titles


def test_a_served_run_reports_the_finished_draft(make_facts: MakeFacts) -> None:
    facts = make_facts(validated=0, choose=False)
    each, score = facts.front[0]
    finished = replace(score, speedup=replace(score.speedup, value=1.7, low=1.6, high=1.8))
    served = replace(facts, kind=RunKind.SERVED, ready=(each, finished))
    summary = summarise(served)
    assert summary.verdict is Verdict.NOT_VALIDATED
    assert summary.best.speedup.predicted == 1.7
    assert "1.70× the target alone (estimated, 1.60 … 1.80), but its target is not here" in summary.sentence
    slow = replace(finished, speedup=replace(score.speedup, value=0.9))
    assert summarise(replace(served, ready=(each, slow))).verdict is Verdict.DO_NOT_SPECULATE


def test_a_whole_run_has_no_banner(make_facts: MakeFacts) -> None:
    summary = summarise(make_facts())
    assert (summary.kind, summary.banner, summary.published) == (RunKind.WHOLE, (), ())
    assert "> " not in markdown(summary).splitlines()[2]


def test_the_report_says_how_drafts_were_measured(make_facts: MakeFacts) -> None:
    """Beside a table of the user's, not as the target was."""
    facts = replace(make_facts(), measuring=MeasureSettings(context_tokens=100, threads=2))
    assert "| drafts were measured | behind 100 tokens, with 2 threads |" in markdown(summarise(facts))


def test_batches_say_what_was_assumed(plan: RunFacts) -> None:
    figure = Figure(2.0, Evidence.STAND_IN)
    entries = [(BatchEntry(4, 2, 3, figure, figure), BatchMemory(4, 1 << 20, 1 << 20, 1))]
    text = markdown(summarise(replace(plan, batches=entries)))
    assert "are taken to be verified in the time" in text
    assert "Which k pays follows from a stand-in" in text
    whole = markdown(summarise(replace(plan, batches=entries, kind=RunKind.WHOLE)))
    assert "are taken to be verified" not in whole
