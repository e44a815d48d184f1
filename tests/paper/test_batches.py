from autotune.batch_results import BatchEntry
from autotune.paper.batches import by_batch
from autotune.results import Evidence, Figure


def entry(batch: int, lookahead: int, speedup: float) -> BatchEntry:
    tokens_per_s = Figure(100.0 * batch, Evidence.ESTIMATED)
    return BatchEntry(batch, lookahead, lookahead, tokens_per_s, Figure(speedup, Evidence.ESTIMATED))


def test_the_finding_compares_the_smallest_batch_with_the_largest() -> None:
    experiment = by_batch([entry(1, 4, 1.8), entry(8, 1, 1.1)], {32: "out-of-memory: too large"}, "A pair", "abacus")
    assert "from 4 at batch 1 to 1 at batch 8, the speed-up from 1.80 to 1.10" in experiment.finding
    assert experiment.tables[0].rows[-1] == (32, None, None, None, None, "out-of-memory: too large")


def test_one_batch_is_compared_with_nothing() -> None:
    finding = by_batch([entry(1, 4, 1.8)], {2: "timeout: too slow"}, "A pair", "abacus").finding
    assert finding == "On abacus, only batch 1 could be measured: its best k is 4, its speed-up 1.80."


def test_no_batch_at_all() -> None:
    experiment = by_batch([], {1: "timeout: too slow"}, "A pair", "abacus")
    assert experiment.finding == "No batch could be measured."
    assert experiment.evidence == ()
