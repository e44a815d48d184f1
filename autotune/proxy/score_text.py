"""How well a model predicts text that others wrote: its accuracy as a language model."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from autotune.proxy.network import head_logits, hidden_states, network_of
from autotune.proxy.training import torch_threads
from autotune.weights import ModelWeights


def next_token_accuracy(weights: ModelWeights, texts: Sequence[NDArray[np.int32]], *, threads: int = 1) -> float:
    """Share of the tokens of the texts `[P]` (P ≥ 2) that are the model's most likely one, given those before.

    The head must cover the whole vocabulary (ValueError).
    """
    if weights.token_ids is not None:
        raise ValueError("a trimmed head cannot be compared by accuracy over the whole vocabulary")
    network = network_of(weights)
    right = total = 0
    with torch_threads(threads), torch.inference_mode():
        for text in texts:
            tokens = torch.from_numpy(text.astype(np.int64))
            guesses = head_logits(network, hidden_states(network, tokens[None, :-1]))[0].argmax(-1)
            right += int((guesses == tokens[1:]).sum())
            total += len(text) - 1
    return right / total
