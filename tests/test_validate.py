"""What validation says of a finalist, and of a machine that is not as fast as the tuning database remembers it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from autotune import validate
from autotune.contest import Tally
from autotune.finalists import Finalist
from autotune.objective import MEAN
from autotune.results import TargetLatency
from autotune.runtime.decode import Statistics
from tests.support.evaluators import SilentObserver
from tests.support.figures import measured, record, target_latency

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
