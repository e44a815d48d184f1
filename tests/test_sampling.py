import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import BadRequest
from autotune.sampling import SamplingSettings, distribution, draw

logits_rows = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=12).map(lambda x: np.array(x, np.float32))


@given(logits_rows, st.floats(0.1, 3.0), st.integers(0, 12), st.floats(0.05, 1.0))
def test_a_distribution_is_one_and_keeps_the_order_of_the_logits(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float
) -> None:
    plain = SamplingSettings(temperature)
    probabilities = distribution(logits, SamplingSettings(temperature, top_k, top_p))
    assert probabilities.sum() == pytest.approx(1.0)
    order = np.argsort(logits)
    # Logits that differ by next to nothing may be as likely as each other, and top-k then keeps both.
    distinct = len(set(distribution(logits, plain).tolist())) == len(logits)
    assert np.all(np.diff(probabilities[order]) >= 0) or not distinct
    if 0 < top_k < len(logits) and distinct:
        assert np.count_nonzero(probabilities) <= top_k


def test_greedy_is_the_first_maximum() -> None:
    assert distribution(np.array([1, 3, 3], np.float32), SamplingSettings()).tolist() == [0, 1, 0]


def test_top_p_keeps_the_smallest_set_that_reaches_the_mass() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05])).astype(np.float32)
    kept = distribution(logits, SamplingSettings(1.0, top_p=0.7))
    np.testing.assert_allclose(kept, [0.625, 0.375, 0, 0], atol=1e-6)


@given(st.lists(logits_rows.filter(lambda row: len(row) > 2), min_size=1, max_size=3), st.floats(0.01, 0.9999))
def test_top_p_equals_a_sort_of_the_whole_vocabulary(rows: list[np.ndarray], top_p: float) -> None:
    logits = np.asfortranarray([row[:3] for row in rows])
    weights = distribution(logits, SamplingSettings(1.0))
    order = np.argsort(-weights, axis=-1, kind="stable")
    ordered = np.take_along_axis(weights, order, -1)
    dropped = ordered.cumsum(-1) - ordered >= top_p
    np.put_along_axis(weights, order, np.where(dropped, 0.0, ordered), -1)
    found = distribution(logits, SamplingSettings(1.0, top_p=top_p))
    np.testing.assert_array_equal(found, weights / weights.sum(-1, keepdims=True))


def test_draws_follow_the_distribution() -> None:
    probabilities = np.array([0.2, 0.0, 0.5, 0.3, 0.0])
    rng = np.random.default_rng(0)
    counts = np.bincount([draw(probabilities, rng) for _ in range(20_000)], minlength=5) / 20_000
    np.testing.assert_allclose(counts, probabilities, atol=0.015)
    assert counts[1] == counts[4] == 0


@pytest.mark.parametrize(
    "bad", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(BadRequest, match=next(iter(bad))):
        SamplingSettings(**bad)  # type: ignore[arg-type]
