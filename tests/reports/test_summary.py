import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from autotune.reports.facts import RunFacts
from autotune.reports.summarise import summarise
from autotune.reports.summary import Verdict
from autotune.results import Evidence, Figure, TrialRecord
from tests.support.figures import BUILD, screened

SHAPE_KEYS = {"layers", "heads", "kv_heads", "head_dim", "hidden", "ffn", "draft_vocab"}
MakeFacts = Callable[..., RunFacts]


def test_summary_json_has_the_contracts_keys(make_facts: MakeFacts) -> None:
    content = json.loads(summarise(make_facts()).to_json())

    assert {"target", "device", "front", "shapes_evaluated", "trials", "failed", "wall_s"} <= content.keys()
    assert content["baseline"]["tokens_per_s"] == pytest.approx(1 / 1.1e-3)
    best = content["best"]
    assert best.keys() >= {"shape", "lookahead", "backend", "precision", "parameters", "tar", "tokens_per_s", "speedup"}
    assert best["shape"].keys() == SHAPE_KEYS
    assert best["tar"].keys() >= {"estimated", "measured"}
    assert best["tokens_per_s"].keys() >= {"predicted", "measured"}
    assert best["speedup"].keys() >= {"predicted", "measured"}


def test_chosen_draft_is_the_best(make_facts: MakeFacts) -> None:
    facts = make_facts()
    summary = summarise(facts)

    assert facts.chosen is not None
    assert summary.verdict is Verdict.SPECULATE
    assert summary.best in summary.validated
    assert summary.best.lookahead == facts.chosen.lookahead
    assert summary.best.speedup.measured == facts.chosen.speedup_measured.value
    assert f"k = {facts.chosen.lookahead}" in summary.sentence
    assert "measured" in summary.sentence


def test_slower_drafts_mean_do_not_speculate(make_facts: MakeFacts) -> None:
    summary = summarise(make_facts(speed=0.05, choose=False))

    assert summary.verdict is Verdict.DO_NOT_SPECULATE
    assert summary.sentence.startswith("Do not speculate: the best of 3 decoded drafts")
    assert summary.best.shape is None
    assert summary.best.lookahead == 0
    assert summary.best.parameters == 0
    assert summary.best.tokens_per_s.measured == summary.baseline.tokens_per_s


def test_prediction_alone_is_not_called_measured(make_facts: MakeFacts) -> None:
    summary = summarise(make_facts(validated=0))

    assert summary.verdict is Verdict.NOT_VALIDATED
    assert summary.best.shape is not None
    assert summary.best.tar.measured is None
    assert summary.best.tokens_per_s.measured is None
    assert summary.best.speedup.measured is None


def test_nothing_feasible(make_facts: MakeFacts) -> None:
    facts = make_facts()
    rejected = [record for record in facts.records if not record.scores]
    summary = summarise(replace(facts, records=rejected, front=[], validated=[], chosen=None))

    assert summary.verdict is Verdict.NOTHING_FEASIBLE
    assert summary.best.lookahead == 0
    assert summary.best.tokens_per_s.measured is None
    assert summary.shapes_evaluated == 0
    assert summary.failed == len(rejected) == len(summary.failures)


def test_failures_are_counted_with_their_reason(make_facts: MakeFacts) -> None:
    summary = summarise(make_facts())

    assert summary.failed == len(summary.failures) == 3
    assert summary.failures[0].reason == "build-timeout"
    assert summary.failures[0].stderr.endswith("boom")


def test_unknown_numbers_are_null(make_facts: MakeFacts) -> None:
    facts = replace(make_facts(), baseline=Figure(float("nan"), Evidence.MEASURED), looping_share=None)
    content = json.loads(summarise(facts).to_json())

    assert content["baseline"]["tokens_per_s"] is None
    assert content["looping_share"] is None


def test_a_trimmed_head_makes_another_shape(make_facts: MakeFacts) -> None:
    facts = make_facts(builds=4)
    build = facts.records[0].build
    trimmed = replace(facts.records[0], build=replace(build, shape=replace(build.shape, draft_vocab=512)))
    whole, both = (summarise(replace(facts, records=records)) for records in (facts.records, [*facts.records, trimmed]))
    assert both.shapes_evaluated == whole.shapes_evaluated + 1


def test_screened_builds_are_counted_apart_with_their_predictions(make_facts: MakeFacts) -> None:
    facts = make_facts()
    extra = TrialRecord(40, BUILD, BUILD.shape.parameters, 0.1, screened())
    before, summary = summarise(facts), summarise(replace(facts, records=[*facts.records, extra]))

    assert (before.screened, before.screened_builds) == (0, ())
    assert (summary.screened, summary.failed, summary.trials) == (1, before.failed, before.trials + 1)
    assert summary.front == before.front
    assert summary.best == before.best
    assert summary.shapes_evaluated == before.shapes_evaluated
    (build,) = json.loads(summary.to_json())["screened_builds"]
    assert (build["trial"], build["margin"], build["builds"], build["best_lookahead"]) == (40, 0.1, 12, 4)
    assert build["best_speedup"]["evidence"] == "estimated"
    assert [each["rival_trial"] for each in build["forecasts"]] == [3, 3, 3, None]
    for each in build["forecasts"]:
        assert {each[name]["evidence"] for name in ("tar", "burst_s", "round_s")} == {"estimated"}
        assert each["burst_s"]["interval"] == pytest.approx([0.9 * each["burst_s"]["value"], each["burst_s"]["value"]])
