import json
from collections.abc import Callable
from dataclasses import replace

from autotune.adaptive_results import AdaptiveEstimate, AdaptiveOutcome
from autotune.reports.facts import RunFacts
from autotune.reports.markdown import markdown
from autotune.reports.summarise import summarise
from autotune.results import Evidence, Figure


def figure(value: float, evidence: Evidence) -> Figure:
    return Figure(value, evidence, 0.99 * value, 1.01 * value)


ESTIMATE = AdaptiveEstimate(
    3, figure(900.0, Evidence.ESTIMATED), figure(936.0, Evidence.ESTIMATED), figure(1.04, Evidence.ESTIMATED), 3.1, 3.4
)
NOT_DECODED = AdaptiveOutcome(False, "no gain is to be expected", ESTIMATE, 4)
KEPT = AdaptiveOutcome(
    True,
    "faster when decoded in turn",
    ESTIMATE,
    4,
    figure(1.037, Evidence.MEASURED),
    figure(910.0, Evidence.MEASURED),
    figure(944.0, Evidence.MEASURED),
)


def reported(facts: RunFacts, outcome: AdaptiveOutcome | None) -> tuple[str, object]:
    summary = summarise(replace(facts, adaptive=outcome))
    return markdown(summary), json.loads(summary.to_json())["adaptive"]


def test_nothing_is_said_of_what_was_not_asked_for(make_facts: Callable[..., RunFacts]) -> None:
    text, data = reported(make_facts(), None)
    assert "Adaptive k" not in text
    assert data is None


def test_estimate_and_measurement_stand_beside_each_other(make_facts: Callable[..., RunFacts]) -> None:
    text, data = reported(make_facts(), KEPT)
    assert "Kept: faster when decoded in turn." in text
    assert "| estimated along the traces | 3 | 1.040 (1.030 … 1.050) |  |  |" in text
    assert "| decoded in turn | 4 | 1.037 (1.027 … 1.047) | 910 (901 … 919) | 944 (935 … 953) |" in text
    assert isinstance(data, dict)
    assert data["measured_gain"]["evidence"] == "measured"
    assert data["estimated_gain"]["evidence"] == "estimated"


def test_what_was_not_decoded_has_no_measurement(make_facts: Callable[..., RunFacts]) -> None:
    text, data = reported(make_facts(), NOT_DECODED)
    assert "Not kept: no gain is to be expected." in text
    assert "decoded in turn" not in text
    assert isinstance(data, dict)
    assert data["measured_gain"] is None


def test_a_failure_is_told_without_figures(make_facts: Callable[..., RunFacts]) -> None:
    text, _ = reported(make_facts(), AdaptiveOutcome(False, "it could not be estimated: crashed"))
    assert "it could not be estimated: crashed" in text
    assert "adaptive over fixed" not in text
