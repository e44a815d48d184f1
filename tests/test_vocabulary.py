from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.candidate import DraftShape
from autotune.errors import BadRequest
from autotune.sampling import SamplingSettings
from autotune.traces import Trace, Traces
from autotune.vocabulary import TrimmingEstimator, Vocabulary, check_draft_vocabularies, rank_tokens
from autotune.weights import ModelWeights
from tests.support.models import styled_weights, tiny_weights
from tests.support.reference_decoder import decoder_logits

VOCAB = 12
SHAPE = DraftShape(layers=1, heads=2, kv_heads=1, head_dim=4, hidden=8, ffn=8, vocab=VOCAB)

texts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9)


def traces_of(pairs: list[tuple[list[int], list[int]]]) -> Traces:
    """Traces of these prompts and continuations."""
    items = [
        Trace(
            np.array(prompt, np.int32),
            np.array(continuation, np.int32),
            np.zeros(len(continuation), np.float32),
            np.full(len(prompt) + len(continuation), -1, np.int32),
            "text",
        )
        for prompt, continuation in pairs
    ]
    return Traces(tuple(items), SamplingSettings(), "target", "tokenizer", 0)


def test_the_most_frequent_come_first_then_those_of_the_prompts_then_the_lower_ids() -> None:
    traces = traces_of([([9, 9, 3], [5, 5, 7]), ([3, 9, 8, 7], [2, 5])])
    order = rank_tokens(traces, VOCAB, eos_ids=(11,)).order
    assert order.tolist() == [11, 5, 7, 2, 9, 3, 8, 0, 1, 4, 6, 10]


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5), st.sets(st.integers(0, VOCAB - 1), max_size=3))
def test_every_token_is_ranked_once_and_none_before_a_more_frequent_one(
    pairs: list[tuple[list[int], list[int]]], eos_ids: set[int]
) -> None:
    order = rank_tokens(traces_of(pairs), VOCAB, tuple(eos_ids)).order
    assert sorted(order.tolist()) == list(range(VOCAB))
    assert set(order[: len(eos_ids)].tolist()) == eos_ids
    written = [token for _, continuation in pairs for token in continuation]
    given = [token for prompt, _ in pairs for token in prompt]
    keys = [(-written.count(token), -given.count(token), token) for token in order[len(eos_ids) :].tolist()]
    assert keys == sorted(keys)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5), st.randoms())
def test_the_order_of_the_traces_does_not_matter(pairs: list[tuple[list[int], list[int]]], random: object) -> None:
    one = rank_tokens(traces_of(pairs), VOCAB, (0,))
    random.shuffle(pairs)
    assert np.array_equal(rank_tokens(traces_of(pairs), VOCAB, (0,)).order, one.order)


@given(st.permutations(range(VOCAB)), st.integers(1, VOCAB - 1))
def test_larger_vocabularies_hold_the_smaller_ones_in_ascending_order(order: list[int], count: int) -> None:
    vocabulary = Vocabulary(np.array(order))
    kept = vocabulary.kept(replace(SHAPE, draft_vocab=count))
    assert kept is not None
    assert kept.tolist() == sorted(order[:count])
    more = vocabulary.kept(replace(SHAPE, draft_vocab=count + 1) if count + 1 < VOCAB else SHAPE)
    assert more is None or set(kept.tolist()) < set(more.tolist())


class WholeEstimator:
    """Knows nothing of trimmed heads."""

    name = "whole"

    def weights(self, shape: DraftShape) -> ModelWeights:
        assert shape.draft_vocab is None
        return tiny_weights(shape)


def test_a_trimmed_draft_is_the_whole_one_with_fewer_rows() -> None:
    estimator = TrimmingEstimator(WholeEstimator(), Vocabulary(np.arange(VOCAB)[::-1]))
    shape = replace(SHAPE, draft_vocab=3)
    whole, draft = estimator.whole_weights(shape), estimator.weights(shape)
    assert estimator.name == "whole"
    assert (whole.shape, draft.shape) == (SHAPE, shape)
    assert draft.token_ids is not None
    assert draft.token_ids.tolist() == [9, 10, 11]
    np.testing.assert_array_equal(draft.arrays["head"], whole.arrays["head"][9:])
    assert all(np.array_equal(draft.arrays[name], whole.arrays[name]) for name in whole.arrays.keys() - {"head"})
    assert estimator.weights(SHAPE).token_ids is None


@pytest.mark.parametrize("name", ["opt", "opt-350m"])
def test_heads_of_any_width_are_trimmed(name: str) -> None:
    """OPT-350M's head reads another width than the hidden one."""
    weights = styled_weights(name)
    shape, tokens = replace(weights.shape, draft_vocab=5), [3, 1, 4]
    draft = Vocabulary(np.array([7, 0, 90, 31, 4, *({*range(101)} - {7, 0, 90, 31, 4})])).trim(weights, shape)
    assert draft.shape == shape
    assert draft.arrays["head"].shape == (5, shape.embed_dim)
    np.testing.assert_array_equal(decoder_logits(draft, tokens), decoder_logits(weights, tokens)[:, [0, 4, 7, 31, 90]])


def test_the_eos_tokens_must_leave_room() -> None:
    check_draft_vocabularies((3, VOCAB), (0, 5))
    with pytest.raises(
        BadRequest, match=r"--draft-vocab 2: the end-of-text tokens \(2\) are always kept; ask for at least 3"
    ):
        check_draft_vocabularies((2, VOCAB), (0, 5))
