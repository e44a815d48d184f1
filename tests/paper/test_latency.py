from autotune.paper.latency import by_depth, named_drafts
from autotune.paper.published import DEEP, DRAFTS, WIDE
from autotune.paper.shapes import of_equal_depth, of_equal_size
from autotune.paper.timing import Steps
from autotune.results import LatencyTable, MeasureSettings, Rejected, RejectReason

SETTINGS = MeasureSettings(context_tokens=16, threads=1)
DEEPS, HEADS = of_equal_size((24, 12, 4)), of_equal_depth((16, 32))
NAMED = {name: draft.shape for name, draft in DRAFTS.items()}


def steps(**seconds: float) -> Steps:
    return {name: LatencyTable(((value, value, value),), SETTINGS, "abacus") for name, value in seconds.items()}


def test_a_device_on_which_depth_decides() -> None:
    times = steps(**{"24 layers": 0.025, "12 layers": 0.013, "4 layers": 0.005, "16 heads": 0.01, "32 heads": 0.011})
    experiment = by_depth(DEEPS, HEADS, times, "abacus")
    assert "24 layers take 5.00 times as long as 4" in experiment.finding
    assert "1.000 ms a layer from 1.00 ms, R² = 1.00" in experiment.finding
    assert "Depth decides" in experiment.finding
    assert "1.10× the fastest" in experiment.finding
    assert experiment.charts[0].series[0].x == (24.0, 12.0, 4.0)


def test_a_device_on_which_size_decides() -> None:
    times = steps(**dict.fromkeys([*DEEPS, *HEADS], 0.02))
    assert "The size decides" in by_depth(DEEPS, HEADS, times, "abacus").finding


def test_what_failed_is_a_row_with_its_reason() -> None:
    times = {**steps(**{DEEP: 0.013, WIDE: 0.0067}), "NoFT-Wide-796M": Rejected(RejectReason.OUT_OF_MEMORY, "9 GiB")}
    shapes = {name: NAMED[name] for name in (DEEP, WIDE, "NoFT-Wide-796M")}
    experiment = named_drafts(shapes, times, "abacus")
    assert "takes 0.52 of NoFT-1.3B's" in experiment.finding
    assert "depth, not size, decides" in experiment.finding
    row = experiment.tables[0].rows[2]
    assert row[4] is None
    assert row[-1] == "out-of-memory: 9 GiB"


def test_level_steps_are_called_level() -> None:
    shapes = {name: NAMED[name] for name in (DEEP, WIDE)}
    assert "bytes that a step reads decide" in named_drafts(shapes, steps(**{DEEP: 0.1, WIDE: 0.1}), "abacus").finding
