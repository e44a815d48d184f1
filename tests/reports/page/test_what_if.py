from collections.abc import Callable
from dataclasses import replace

import pytest

from autotune.reports.charts.what_if import what_if
from autotune.reports.facts import RunFacts
from autotune.results import LatencyTable, TargetLatency
from autotune.score import score_lookahead
from tests.support.figures import constant_acceptance, latency, measured, record, target_latency

MakeFacts = Callable[..., RunFacts]
KEPT, STEP_S = 0.6, 0.002


@pytest.fixture
def facts(make_facts: MakeFacts) -> RunFacts:
    each = record(0, measured(KEPT, STEP_S))
    front = [(each, score) for score in each.scores]
    return replace(make_facts(), latency=target_latency(), records=[each], front=front, validated=[], chosen=None)


def slower(target: TargetLatency, scale: float) -> TargetLatency:
    samples = tuple(tuple(scale * sample for sample in row) for row in target.verify.samples_s)
    verify: LatencyTable = replace(target.verify, samples_s=samples)
    return replace(target, verify=verify)


@pytest.mark.parametrize("scale", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("gain", [-0.2, 0.0, 0.1])
def test_speed_ups_are_those_of_scoring(facts: RunFacts, scale: float, gain: float) -> None:
    figures = what_if(facts)
    assert figures is not None
    (draft,) = figures.drafts
    burst = latency(*(STEP_S * k for k in range(1, 5)))
    for k in draft.lookaheads:
        kept = ((1 + KEPT * k) * (1 + gain) - 1) / k  # so that TAR(k) is the one supposed
        expected = score_lookahead(constant_acceptance(kept), burst, slower(facts.latency, scale), k).speedup.value
        assert figures.speedup(draft, k, scale=scale, gain=gain) == pytest.approx(expected)


def test_tokens_per_round_stay_between_one_and_all(facts: RunFacts) -> None:
    figures = what_if(facts)
    assert figures is not None
    (draft,) = figures.drafts
    alone, all_kept = (figures.speedup(draft, 2, gain=gain) for gain in (-1.0, 100.0))
    assert all_kept == pytest.approx(3.0 * alone)


def test_without_a_score_there_is_nothing_to_ask(facts: RunFacts) -> None:
    assert what_if(replace(facts, records=[], front=[])) is None
