"""A small source with grouped heads, and traces that it wrote itself."""

import numpy as np
import pytest
import torch

from autotune.candidate import DraftShape
from autotune.proxy.base import Axes
from autotune.proxy.network import head_logits, hidden_states, network_of
from autotune.sampling import SamplingSettings, distribution, draw
from autotune.traces import Trace, Traces
from autotune.weights import ModelWeights
from tests.support.models import tiny_weights

SOURCE_SHAPE = DraftShape(layers=3, heads=4, kv_heads=2, head_dim=4, hidden=16, ffn=24, vocab=48)


@pytest.fixture(scope="session")
def source() -> ModelWeights:
    return tiny_weights(SOURCE_SHAPE)


@pytest.fixture(scope="session")
def axes() -> Axes:
    return Axes(layers=(1, 2, 3), heads=((1, 1), (2, 1), (2, 2), (4, 2)), ffn=(8, 16, 24), hidden=(8, 16))


@pytest.fixture(scope="session")
def greedy_traces(source: ModelWeights) -> Traces:
    return write_traces(source, SamplingSettings())


@pytest.fixture(scope="session")
def sampled_traces(source: ModelWeights) -> Traces:
    return write_traces(source, SamplingSettings(temperature=0.8, top_k=20, top_p=0.95))


def write_traces(model: ModelWeights, settings: SamplingSettings, count: int = 24) -> Traces:
    """Continuations of random prompts of unequal lengths by the model itself, without any cache."""
    network, rng = network_of(model), np.random.default_rng(5)
    items = []
    for index in range(count):
        prompt = rng.integers(1, model.shape.vocab, int(rng.integers(1, 12)))
        tokens, top, logprobs = prompt.tolist(), [-1], []
        for _ in range(int(rng.integers(1, 10))):
            logits = head_logits(network, hidden_states(network, torch.tensor([tokens])))[0, -1].numpy()
            probabilities = distribution(logits, settings)
            token = draw(probabilities, rng)
            logprobs.append(np.log(probabilities[token]))
            tokens.append(token)
        logits = head_logits(network, hidden_states(network, torch.tensor([tokens])))[0].numpy()
        top += logits[:-1].argmax(-1).tolist()
        items.append(
            Trace(
                prompt.astype(np.int32),
                np.array(tokens[len(prompt) :], np.int32),
                np.array(logprobs, np.float32),
                np.array(top, np.int32),
                f"kind {index % 2}",
            )
        )
    return Traces(tuple(items), settings, "target", "tokenizer", 0)
