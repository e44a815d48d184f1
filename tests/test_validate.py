"""What validation says of a machine that is not as fast as the tuning database remembers it."""

from dataclasses import replace

import pytest

from autotune import validate
from autotune.results import TargetLatency
from tests.support.evaluators import SilentObserver
from tests.support.figures import target_latency

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
