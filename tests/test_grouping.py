from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from autotune.grouping import choose_groups, linked


def test_members_who_share_a_label_are_linked() -> None:
    assert linked(6, [(0, "a"), (3, "a"), (3, "b"), (5, "b"), (4, "c")]) == [0, 1, 2, 0, 4, 0]
    assert linked(3, []) == [0, 1, 2]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
def test_linking_is_the_closure_of_sharing(labels: list[tuple[int, int]]) -> None:
    groups = linked(10, labels)
    reached = np.eye(10, dtype=bool)
    for (one, here), (other, there) in product(labels, labels):
        reached[one, other] |= here == there
    for _ in range(4):
        reached = reached @ reached
    assert groups == reached.argmax(-1).tolist()


COUNTS = st.tuples(st.integers(2, 9), st.integers(1, 3)).flatmap(
    lambda shape: arrays(np.int64, shape, elements=st.integers(1, 9))
)


@given(COUNTS, st.floats(0.05, 0.95), st.integers(0, 3), st.data())
def test_choices_keep_their_bounds(counts: NDArray[np.int64], share: float, seed: int, data: st.DataObject) -> None:
    bound = np.zeros(len(counts), bool)
    bound[: data.draw(st.integers(0, len(counts) - 1))] = True
    least = int(counts.sum(1)[bound].sum()) or int(counts.sum(1).min())
    most = data.draw(st.integers(least, int(counts.sum())))
    chosen = choose_groups(counts, share, most, bound, np.random.default_rng(seed))
    assert chosen[bound].all()
    assert 1 <= counts[chosen].sum() <= most
    np.testing.assert_array_equal(chosen, choose_groups(counts, share, most, bound, np.random.default_rng(seed)))


def test_choices_come_near_the_best_there_is() -> None:
    rng = np.random.default_rng(0)
    for seed in range(20):
        counts = rng.integers(0, 30, (10, 3)) + 1
        every = np.array(list(product([False, True], repeat=10)))[1:-1]
        best = np.abs(every @ counts.sum(1) - 0.25 * counts.sum()).min()
        chosen = choose_groups(counts, 0.25, int(counts.sum()) - 2, np.zeros(10, bool), np.random.default_rng(seed))
        assert abs(counts[chosen].sum() - 0.25 * counts.sum()) <= best + 0.03 * counts.sum()


def test_thousands_of_groups_meet_the_share_of_every_kind() -> None:
    counts = np.eye(4, dtype=np.int64)[np.random.default_rng(0).integers(0, 4, 5000)]
    counts[:3] *= 200
    chosen = choose_groups(counts, 0.25, 5000, np.zeros(5000, bool), np.random.default_rng(0))
    np.testing.assert_allclose(counts[chosen].sum(0), 0.25 * counts.sum(0), atol=1)
