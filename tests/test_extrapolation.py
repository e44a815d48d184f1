import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.candidate import DraftShape
from autotune.extrapolation import REPLICATES, Slicing, fill_between, lengths_to_time, slices_of, whole_seconds
from tests.support.models import STYLED

SHAPE = DraftShape(layers=80, heads=64, kv_heads=8, head_dim=128, hidden=8192, ffn=28672, vocab=32000)


def seconds_of(shape: DraftShape, n: int = 1) -> float:
    """A machine on which a call costs 1 ms, and every parameter its share."""
    return 1e-3 + 1e-11 * n * shape.decode_parameters


@given(slicing=st.sampled_from(Slicing), layers=st.integers(1, 100), n=st.integers(1, 9))
def test_every_way_to_slice_adds_up_to_the_whole(slicing: Slicing, layers: int, n: int) -> None:
    shape = DraftShape(layers, 8, 4, 64, 512, 1408, 32000)
    total = sum(each.weight * seconds_of(each.shape, n) for group in slices_of(shape, slicing) for each in group)
    assert math.isclose(total, seconds_of(shape, n), rel_tol=1e-9)


@pytest.mark.parametrize("slicing", Slicing)
@pytest.mark.parametrize("style", [shape for shape, _ in STYLED.values()], ids=list(STYLED))
def test_every_style_can_be_sliced(slicing: Slicing, style: DraftShape) -> None:
    groups = slices_of(style, slicing)
    assert {each.shape.style for group in groups for each in group} == {style.style}
    assert max(each.shape.layers for group in groups for each in group) <= 2


def test_a_pair_is_one_and_two_layers_at_the_true_dimensions() -> None:
    ((one, two),) = slices_of(SHAPE, Slicing.PAIR)
    assert (one.shape.layers, two.shape.layers) == (1, 2)
    assert (one.shape.ffn, two.shape.vocab, one.weight, two.weight) == (28672, 32000, -78, 79)


def test_slicing_off_one_layer_takes_the_least_memory() -> None:
    largest = {
        slicing: max(sum(each.shape.parameters for each in group) for group in slices_of(SHAPE, slicing))
        for slicing in Slicing
    }
    assert largest[Slicing.SINGLE] < largest[Slicing.TRIMMED_PAIR] < largest[Slicing.PAIR]


@settings(deadline=None)
@given(speed=st.floats(0.2, 5.0), seed=st.integers(0, 99))
def test_a_machine_that_changes_speed_changes_both_programs_alike(speed: float, seed: int) -> None:
    changing = np.linspace(1.0, speed, 31)
    one, two = [(0.3 * changing).tolist()], [(0.5 * changing).tolist()]
    replicates = whole_seconds([[(-8.0, one), (9.0, two)]], seed)
    assert replicates.shape == (1, REPLICATES)
    low, high = sorted((2.1, 2.1 * speed))
    assert low * (1 - 1e-9) <= replicates.min() <= replicates.max() <= high * (1 + 1e-9)


def test_the_interval_covers_the_truth_of_noisy_samples() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        one = [rng.normal(0.3, 0.01, 40).tolist()]
        two = [rng.normal(0.5, 0.01, 40).tolist()]
        low, high = np.quantile(whole_seconds([[(-8.0, one), (9.0, two)]], seed)[0], [0.025, 0.975])
        covered += low <= 2.1 <= high
    assert covered >= 51


def test_groups_may_have_different_numbers_of_rounds() -> None:
    replicates = whole_seconds([[(1.0, [[0.1] * 3])], [(2.0, [[0.2] * 7])]])
    assert np.allclose(replicates, 0.5)


def test_no_slices_are_no_model() -> None:
    with pytest.raises(ValueError, match="no slices"):
        whole_seconds([])


@given(st.integers(1, 70))
def test_lengths_to_time_end_at_the_largest_and_grow_apart(largest: int) -> None:
    lengths = lengths_to_time(largest)
    assert lengths[0] == 1
    assert lengths[-1] == largest
    assert list(lengths) == sorted(set(lengths))
    assert len(lengths) <= 3 + math.log2(largest + 1)


def test_lengths_to_time_are_denser_where_few_positions_are_verified() -> None:
    assert lengths_to_time(9) == (1, 2, 3, 5, 9)
    assert lengths_to_time(12) == (1, 2, 3, 5, 9, 12)


@given(st.integers(2, 40), st.floats(0.0, 5.0), st.floats(0.001, 1.0))
def test_what_lies_on_a_line_is_filled_in_exactly(largest: int, start: float, slope: float) -> None:
    timed = {n: [start + slope * n, 2 * (start + slope * n)] for n in lengths_to_time(largest)}
    filled = np.array(fill_between(timed, largest))
    expected = start + slope * np.arange(1, largest + 1)
    assert np.allclose(filled, np.stack([expected, 2 * expected], axis=1))


def test_filling_needs_both_ends() -> None:
    with pytest.raises(ValueError, match="lengths 1 and 4"):
        fill_between({1: [1.0], 3: [3.0]}, 4)
