import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.paper.arithmetic import (
    Sides,
    acceptance_rate,
    break_even,
    cache_sizes,
    expected_tokens,
    published_sides,
    sides_here,
    throughput_model,
)
from autotune.paper.published import DEEP, DRAFTS, FITTED_LOOKAHEAD, WIDE
from autotune.results import Evidence, LatencyTable, MeasureSettings, Rejected, RejectReason, TargetLatency

SETTINGS = MeasureSettings(context_tokens=16, threads=1)
TOO_LARGE = Rejected(RejectReason.OUT_OF_MEMORY, "it needs 99 GiB")
SHAPES = {name: draft.shape for name, draft in DRAFTS.items()}


def table(*seconds: float, evidence: Evidence = Evidence.MEASURED) -> LatencyTable:
    return LatencyTable(tuple((each,) for each in seconds), SETTINGS, "abacus", evidence)


@given(st.floats(0.0, 0.999), st.integers(1, 16))
def test_the_rate_gives_back_its_tokens(rate: float, lookahead: int) -> None:
    tokens = expected_tokens(rate, lookahead)
    assert acceptance_rate(tokens, lookahead) == pytest.approx(rate, abs=1e-9 + 1e-3 * (rate > 0.99))


@pytest.mark.parametrize("tokens", [0.5, 5.0, 7.0])
def test_impossible_tokens_have_no_rate(tokens: float) -> None:
    with pytest.raises(ValueError, match="lookahead of 4"):
        acceptance_rate(tokens, 4)


def test_the_fit_gives_the_published_speeds() -> None:
    sides = published_sides()
    for name in (DEEP, WIDE):
        draft = DRAFTS[name]
        assert draft.tokens_per_round
        speed = draft.tokens_per_round / sides.round_s(name, FITTED_LOOKAHEAD)
        assert speed == pytest.approx(draft.tokens_per_s, rel=0.02)


def test_cache_sizes_are_the_papers() -> None:
    experiment = cache_sizes(SHAPES)
    assert "-37.5%" in experiment.finding
    assert "exactly" in experiment.finding
    assert {row[0]: row[2] for row in experiment.tables[0].rows}[WIDE] == 120.0


def test_the_model_needs_no_device() -> None:
    experiment = throughput_model(TOO_LARGE)
    assert "+41% (paper: +41%)" in experiment.finding
    assert "LLaMA-65B could not be measured here (out-of-memory: it needs 99 GiB)" in experiment.finding
    assert len(experiment.tables) == 1
    assert experiment.evidence == (Evidence.ESTIMATED,)


def test_latencies_of_this_device_stand_beside_the_papers() -> None:
    steps = {
        DEEP: table(0.02),
        WIDE: table(0.01),
        "OPT-125M": Rejected(RejectReason.OUT_OF_MEMORY, "too large"),
    }
    verify = table(*(0.1 for _ in range(9)), evidence=Evidence.EXTRAPOLATED)
    here = sides_here(steps, TargetLatency(verify, 0.0, 0.0))
    assert here == Sides({DEEP: 0.02, WIDE: 0.01}, [0.1] * 9, Evidence.EXTRAPOLATED)
    assert here.round_s(DEEP, 8) == pytest.approx(0.26)
    experiment = throughput_model(here)
    assert len(experiment.charts) == 2
    assert "With this device's latencies, each draft" in experiment.finding
    assert experiment.evidence == (Evidence.ESTIMATED, Evidence.EXTRAPOLATED)
    assert [len(series.x) for series in experiment.charts[1].series] == [8, 8]
    rows = break_even(here).tables[1].rows
    assert rows == (
        (WIDE, DEEP, pytest.approx(0.26 / 0.18), 3.70, pytest.approx(3.7 * 0.26 / 0.18), pytest.approx(3.7 * 8 / 18)),
    )


def test_what_is_computed_from_measured_latencies_is_an_estimate() -> None:
    steps = {DEEP: table(0.01), WIDE: table(0.01)}
    here = sides_here(steps, TargetLatency(table(*(0.1 for _ in range(9))), 0.0, 0.0, source="measured by the user"))
    for experiment in (throughput_model(here), break_even(here)):
        assert experiment.evidence == (Evidence.ESTIMATED,)
        assert "LLaMA-65B's latency is measured by the user" in experiment.notes[-1]
    assert "-0%" not in throughput_model(here).finding


def test_break_even_compares_drafts_of_one_kind() -> None:
    pairs = [row[:2] for row in break_even(TOO_LARGE).tables[0].rows]
    assert pairs == [("OPT-125M", "OPT-6.7B"), (WIDE, DEEP)] or set(pairs) == {("OPT-125M", "OPT-6.7B"), (WIDE, DEEP)}
    assert "OPT-6.7B must bring 1.90 times" in break_even(TOO_LARGE).finding


def test_drafts_that_could_not_be_measured_leave_the_papers_figures() -> None:
    verify = table(*(0.1 for _ in range(9)), evidence=Evidence.EXTRAPOLATED)
    here = sides_here({DEEP: TOO_LARGE, WIDE: table(0.01)}, TargetLatency(verify, 0.0, 0.0))
    for experiment in (throughput_model(here), break_even(here)):
        assert len(experiment.tables) == 1
        assert experiment.evidence == (Evidence.ESTIMATED,)
    assert "could not both be measured" in throughput_model(here).finding
    assert "no two drafts to compare" in break_even(here).finding
