import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autotune.alternatives import (
    KEPT_MASS,
    MOST_KEPT,
    Alternatives,
    alternatives_of,
    join_alternatives,
    no_alternatives,
    padded_alternatives,
    ranked_alternatives,
)

RAGGED = Alternatives(
    np.array([0, 2, 1, 3], np.int32),
    np.array([5, 6, 7, 1, 2, 3], np.int32),
    np.array([-0.1, -2.5, -0.01, -0.5, -1.5, -2.0], np.float32),
)


@given(
    logits=st.tuples(st.integers(1, 4), st.sampled_from([2, 5, 64, 65, 300])).flatmap(
        lambda shape: arrays(np.float64, shape, elements=st.floats(-12, 12))
    )
)
def test_the_fewest_likeliest_tokens_that_hold_the_mass_are_kept(logits):
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found = alternatives_of(probabilities)
    ends = found.counts.cumsum()
    for row, start, end in zip(probabilities, ends - found.counts, ends, strict=True):
        tokens = found.tokens[start:end]
        assert len(set(tokens.tolist())) == len(tokens)
        np.testing.assert_allclose(found.logprobs[start:end], np.log(row[tokens]), atol=1e-5)
        assert (np.diff(row[tokens]) <= 0).all(), "the likeliest first"
        left_out = np.delete(row, tokens)
        assert not len(left_out) or left_out.max() <= row[tokens[-1]]
        assert row[tokens[:-1]].sum() < KEPT_MASS + 1e-9, "the last one was needed"
        assert row[tokens].sum() > KEPT_MASS - 1e-9 or len(tokens) == MOST_KEPT


def test_a_certain_token_stands_alone():
    found = alternatives_of(np.eye(100)[[7, 3]])
    assert found.counts.tolist() == [1, 1]
    assert found.tokens.tolist() == [7, 3]
    assert found.logprobs.tolist() == [0.0, 0.0]


def test_filtered_tokens_are_not_kept():
    probabilities = np.zeros((1, 200))
    probabilities[0, [150, 20]] = [0.6, 0.4]
    assert alternatives_of(probabilities).tokens.tolist() == [150, 20]


def test_of_equally_likely_tokens_the_first_is_first():
    assert alternatives_of(np.array([[0.25, 0.5, 0.25]])).tokens.tolist() == [1, 0, 2]


def test_of_ranked_tokens_the_fewest_are_kept_too():
    found = ranked_alternatives([[], [(5, -0.001), (6, -7.0)], [(7, -0.5), (8, -1.5)], [(n, -5.0) for n in range(99)]])
    assert found.counts.tolist() == [0, 1, 2, MOST_KEPT]
    assert found.tokens.tolist() == [5, 7, 8, *range(MOST_KEPT)]
    np.testing.assert_allclose(found.logprobs[:3], [-0.001, -0.5, -1.5])


@given(arrays(np.float64, (3, 30), elements=st.floats(-9, 9)))
def test_ranking_and_choosing_agree(logits):
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    order = np.argsort(-probabilities, -1, kind="stable")
    places = [
        [(int(token), float(np.log(row[token]))) for token in ranks]
        for row, ranks in zip(probabilities, order, strict=True)
    ]
    ranked, chosen = ranked_alternatives(places), alternatives_of(probabilities)
    np.testing.assert_array_equal(ranked.counts, chosen.counts)
    np.testing.assert_array_equal(ranked.tokens, chosen.tokens)
    np.testing.assert_allclose(ranked.logprobs, chosen.logprobs, atol=1e-6)


def test_padded_alternatives_are_as_wide_as_the_longest():
    tokens, logprobs = padded_alternatives(RAGGED)
    assert tokens.tolist() == [[-1, -1, -1], [5, 6, -1], [7, -1, -1], [1, 2, 3]]
    assert tokens.dtype == np.int32
    assert logprobs.dtype == np.float32
    assert np.array_equal(np.isneginf(logprobs), tokens < 0)
    np.testing.assert_allclose(logprobs[3], [-0.5, -1.5, -2.0])


def test_padded_alternatives_are_cut_or_widened_to_what_is_asked():
    assert padded_alternatives(RAGGED, 1)[0].tolist() == [[-1], [5], [7], [1]]
    assert padded_alternatives(RAGGED, 5)[0][3].tolist() == [1, 2, 3, -1, -1]


def test_nothing_known_pads_to_nothing():
    tokens, logprobs = padded_alternatives(no_alternatives(4))
    assert tokens.shape == logprobs.shape == (4, 0)
    assert padded_alternatives(no_alternatives(2), 3)[0].tolist() == [[-1] * 3] * 2


def test_joined_parts_follow_each_other():
    joined = join_alternatives([no_alternatives(1), alternatives_of(np.eye(4)[[2]]), RAGGED])
    assert joined.counts.tolist() == [0, 1, 0, 2, 1, 3]
    assert joined.tokens.tolist() == [2, 5, 6, 7, 1, 2, 3]
