from dataclasses import replace

import numpy as np
import pytest

from autotune.candidate import DraftShape
from autotune.number_formats import Precision
from autotune.proxy.score_traces import NotANumber, acceptance_of
from autotune.quantization import dequantised
from autotune.sampling import SamplingSettings, distribution
from autotune.traces import Traces
from autotune.weights import ModelWeights, trimmed
from tests.proxy.conftest import write_traces
from tests.proxy.test_network import logits_of
from tests.support.models import STYLED, styled_weights, tiny_weights


@pytest.fixture(scope="module")
def draft() -> ModelWeights:
    return tiny_weights(DraftShape(layers=1, heads=2, kv_heads=1, head_dim=4, hidden=8, ffn=8, vocab=48), seed=3)


def test_a_target_accepts_all_of_its_own_tokens(
    source: ModelWeights, greedy_traces: Traces, sampled_traces: Traces
) -> None:
    for trace, ratios in zip(greedy_traces.items, acceptance_of(source, greedy_traces), strict=True):
        assert ratios.shape == trace.continuation.shape
        assert ratios.min() == 1.0
    for ratios in acceptance_of(source, sampled_traces):
        np.testing.assert_allclose(ratios, 1.0, atol=1e-4)


def test_greedy_acceptance_is_agreement_with_the_continuation(draft: ModelWeights, greedy_traces: Traces) -> None:
    agreed = 0.0
    for trace, ratios in zip(greedy_traces.items, acceptance_of(draft, greedy_traces), strict=True):
        logits = logits_of(draft, trace.tokens.tolist())[len(trace.prompt) - 1 : -1]
        np.testing.assert_array_equal(ratios, logits.argmax(-1) == trace.continuation)
        agreed += ratios.sum()
    assert 0 < agreed < greedy_traces.tokens


def test_sampled_acceptance_is_the_ratio_of_probabilities(draft: ModelWeights, sampled_traces: Traces) -> None:
    for trace, ratios in zip(sampled_traces.items, acceptance_of(draft, sampled_traces), strict=True):
        logits = logits_of(draft, trace.tokens.tolist())[len(trace.prompt) - 1 : -1]
        own = distribution(logits, sampled_traces.settings)[np.arange(len(logits)), trace.continuation]
        np.testing.assert_allclose(ratios, np.minimum(1.0, own / np.exp(trace.logprobs)), rtol=1e-4, atol=1e-7)


KEPT = np.array([0, 3, 4, 9, 17, 18, 30, 31, 32, 47])


def test_greedy_acceptance_of_a_trimmed_draft_is_agreement_of_the_best_kept_token(
    draft: ModelWeights, greedy_traces: Traces
) -> None:
    accepted = acceptance_of(trimmed(draft, KEPT), greedy_traces)
    for trace, ratios in zip(greedy_traces.items, accepted, strict=True):
        logits = logits_of(draft, trace.tokens.tolist())[len(trace.prompt) - 1 : -1]
        np.testing.assert_array_equal(ratios, KEPT[logits[:, KEPT].argmax(-1)] == trace.continuation)
        assert not ratios[~np.isin(trace.continuation, KEPT)].any()
    assert 0 < sum(ratios.sum() for ratios in accepted) < greedy_traces.tokens


def test_sampled_acceptance_of_a_trimmed_draft_is_the_ratio_over_the_kept_tokens(
    draft: ModelWeights, sampled_traces: Traces
) -> None:
    outside = 0
    for trace, ratios in zip(sampled_traces.items, acceptance_of(trimmed(draft, KEPT), sampled_traces), strict=True):
        logits = logits_of(draft, trace.tokens.tolist())[len(trace.prompt) - 1 : -1]
        q = np.zeros(logits.shape)
        q[:, KEPT] = distribution(logits[:, KEPT], sampled_traces.settings)
        own = q[np.arange(len(q)), trace.continuation]
        np.testing.assert_allclose(ratios, np.minimum(1.0, own / np.exp(trace.logprobs)), rtol=1e-4, atol=1e-7)
        outside += (~np.isin(trace.continuation, KEPT)).sum()
    assert 0 < outside < sampled_traces.tokens


def test_trimming_away_nothing_that_is_written_can_only_help(source: ModelWeights, greedy_traces: Traces) -> None:
    """The target itself, trimmed to what it wrote, still agrees with all it wrote."""
    written = np.unique(np.concatenate([trace.continuation for trace in greedy_traces.items])).astype(np.int64)
    assert len(written) < source.shape.vocab
    for ratios in acceptance_of(trimmed(source, written), greedy_traces):
        assert ratios.min() == 1.0


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("name", STYLED)
def test_a_precision_counts_as_the_weights_it_stores(name: str, precision: Precision) -> None:
    weights = styled_weights(name)
    traces = write_traces(styled_weights(name, seed=1), SamplingSettings(temperature=0.8), count=3)
    stored = acceptance_of(dequantised(weights, precision), traces)
    for one, other in zip(acceptance_of(weights, traces, precision=precision), stored, strict=True):
        np.testing.assert_array_equal(one, other)


def test_order_and_batching_of_traces_do_not_matter(draft: ModelWeights, sampled_traces: Traces) -> None:
    backwards = replace(sampled_traces, items=sampled_traces.items[::-1])
    for one, other in zip(acceptance_of(draft, sampled_traces), acceptance_of(draft, backwards)[::-1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["head", "layers.0.ffn.down"])
def test_logits_that_are_no_numbers_are_reported(
    draft: ModelWeights, greedy_traces: Traces, sampled_traces: Traces, poison: float, name: str
) -> None:
    arrays = {key: array.copy() for key, array in draft.arrays.items()}
    arrays[name][0, 0] = poison
    for traces in (greedy_traces, sampled_traces):
        with pytest.raises(NotANumber, match="NaN or infinite"):
            acceptance_of(replace(draft, arrays=arrays), traces)
