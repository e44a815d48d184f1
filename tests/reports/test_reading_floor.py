from collections.abc import Callable
from dataclasses import replace

import pytest

from autotune.candidate import Precision
from autotune.reports.charts.round_parts import rounds_data
from autotune.reports.facts import RunFacts
from autotune.reports.reading_floor import reading_floor
from tests.support.figures import BUILD, SHAPE, measured, record, target_latency

MakeFacts = Callable[..., RunFacts]
BYTES = SHAPE.decode_parameters * 4 + 64 * SHAPE.kv_bytes_per_token
"""A step of the shape in fp32 behind 64 tokens."""


@pytest.fixture
def facts(make_facts: MakeFacts) -> RunFacts:
    """A draft of the target's own shape, four times as fast: 2.5 ms a token beside 10 ms."""
    each = record(0, measured(0.6, 0.0025))
    return replace(
        make_facts(),
        target_shape=SHAPE,
        target_precision=Precision.FP32,
        latency=replace(target_latency(), backend="onnxruntime"),
        records=[each],
        front=[(each, score) for score in each.scores],
        validated=[],
        chosen=None,
    )


def test_the_fastest_program_sets_the_rate(facts: RunFacts) -> None:
    floor = reading_floor(facts)
    assert floor is not None
    assert floor.bytes_per_s == pytest.approx(BYTES / 0.0025)
    assert floor.program == f"{SHAPE}'s (onnxruntime fp32)"
    assert floor.round_s(facts, None, 0) == pytest.approx(0.0025)
    assert floor.round_s(facts, BUILD, 3) == pytest.approx(4 * 0.0025)


def test_no_round_is_below_the_floor(facts: RunFacts) -> None:
    totals = rounds_data(facts)["totals"]
    assert len(totals) == 2
    for each in totals:
        assert 0.0 < float(each["floor_ms"] or 0) <= float(each["ms"] or 0)


@pytest.mark.parametrize("lacking", ["target_shape", "backend"])
def test_without_a_program_of_the_target_there_is_none(facts: RunFacts, lacking: str) -> None:
    if lacking == "target_shape":
        facts = replace(facts, target_shape=None)
    else:
        facts = replace(facts, latency=replace(facts.latency, backend=None))
    assert reading_floor(facts) is None
    assert {each["floor_ms"] for each in rounds_data(facts)["totals"]} == {None}
