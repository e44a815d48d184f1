import numpy as np
import pytest

from autotune.candidate import Precision
from autotune.paper.agreement import Draft, agreement, score_drafts, spread_shapes
from autotune.proxy.score_text import next_token_accuracy
from autotune.proxy.units import prefix
from autotune.sampling import SamplingSettings
from autotune.search_space.space import Ranges, make_space
from autotune.shape import DraftShape
from autotune.traces import Trace, Traces
from autotune.weights import ModelWeights, trimmed
from tests.support.models import tiny_weights
from tests.support.reference_decoder import decoder_logits

SHAPE = DraftShape(layers=3, heads=4, kv_heads=4, head_dim=8, hidden=32, ffn=64, vocab=40)


class Sliced:
    name = "sliced"

    def weights(self, shape: DraftShape) -> ModelWeights:
        return prefix(tiny_weights(SHAPE), shape)


def text(seed: int, length: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 40, length).astype(np.int32)


def test_accuracy_counts_the_most_likely_tokens() -> None:
    weights = tiny_weights(SHAPE)
    tokens = [3]
    for _ in range(8):  # a text of the model's own is predicted whole
        tokens.append(int(decoder_logits(weights, tokens)[-1].argmax()))
    own = np.array(tokens, np.int32)
    assert next_token_accuracy(weights, [own]) == 1.0
    wrong = own.copy()
    wrong[-1] = (wrong[-1] + 1) % 40
    assert next_token_accuracy(weights, [own, wrong]) == pytest.approx(15 / 16)
    with pytest.raises(ValueError, match="trimmed"):
        next_token_accuracy(trimmed(weights, np.arange(7)), [own])


def test_every_end_of_every_axis_is_scored() -> None:
    space = make_space(SHAPE, Ranges(), ("onnxruntime",), (Precision.FP32,))
    shapes = spread_shapes(space)
    assert {shape.layers for shape in shapes} == {1, 2, 3}
    assert {shape.heads for shape in shapes} == {1, 3, 4}
    assert len(set(shapes)) == len(shapes) == 3 * 3 * 2
    own = text(1)
    trace = Trace(own[:4], own[4:], np.zeros(8, np.float32), np.concatenate([[-1], own[1:]]).astype(np.int32), "text")
    traces = Traces((trace, trace), SamplingSettings(), "target", "tokenizer", 0)
    told: list[float] = []
    drafts = score_drafts(shapes[:3], Sliced(), traces, [text(2)], told.append)
    assert [draft.shape for draft in drafts] == shapes[:3]
    assert all(1 <= draft.tokens_per_round <= 5 and 0 <= draft.accuracy <= 1 for draft in drafts)
    assert told[-1] == 1.0


@pytest.mark.parametrize(
    ("tokens", "words"), [((1.1, 1.2, 1.4), "accuracy does tell"), ((1.4, 1.2, 1.3), "tells little")]
)
def test_the_finding_follows_the_correlation(tokens: tuple[float, ...], words: str) -> None:
    drafts = [Draft(SHAPE, 0.1 * place, value) for place, value in enumerate(tokens)]
    experiment = agreement(drafts, 0.5)
    assert words in experiment.finding
    assert "50% of the target's continuations loop" in experiment.notes[0]
