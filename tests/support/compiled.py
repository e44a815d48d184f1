"""What a backend's suites share: a compiled model with its expected logits, and how the two are compared."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.candidate import Precision
from autotune.compile.base import CompileSettings
from autotune.program import Drafting
from autotune.runtime.session import Session, open_session
from autotune.sampling import SamplingSettings, distribution, draw_at
from autotune.weights import ModelWeights, TokenIds

CAPACITY = 48
PROMPT = 9
LENGTH = 30
LONGEST_BURST = 4

SAMPLINGS = {
    "temperature": SamplingSettings(0.7),
    "top-k": SamplingSettings(1.0, top_k=5),
    "top-p": SamplingSettings(1.3, top_p=0.8),
    "top-k and top-p": SamplingSettings(0.9, top_k=12, top_p=0.7),
}
QUANTISED_ERROR = {Precision.INT8: 0.1, Precision.INT4: 0.1, Precision.FP16: 0.01, Precision.BF16: 0.05}
"""Largest relative root-mean-square error of logits against the weights as stored: what activations may add."""


@dataclass(frozen=True)
class Compiled:
    """A model, its compiled program, and what transformers says of one token sequence."""

    weights: ModelWeights
    folder: Path
    tokens: list[int]
    expected: NDArray[np.float32]
    """Logits `[LENGTH, head_rows]`."""


def assert_close(actual: NDArray[np.float32], expected: NDArray[np.float32], relative: float = 1e-4) -> None:
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= relative * np.abs(expected).max()


class BackendSuite:
    """The backend and the device that a suite is about, and how closely their results are held to the reference."""

    backend: str
    device = "cpu"
    exact = Precision.FP32
    tolerance = 1e-4
    """Largest error of a logit at the precision `exact`, relative to the largest logit."""
    agreement = 1e-4
    """Largest difference of a probability between calls of different widths; more where activations are rounded."""

    @classmethod
    def settings(cls, precision: Precision) -> CompileSettings:
        return CompileSettings(precision, CAPACITY, cls.device, LONGEST_BURST)

    def close(self, actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        assert_close(actual, expected, self.tolerance)

    def check_sampled(
        self,
        compiled: Compiled,
        session: Session,
        drafting: Drafting,
        sampling: SamplingSettings,
        given: int,
        count: int,
    ) -> None:
        """The burst's tokens, probabilities and distributions against `autotune.sampling` on the program's logits."""
        session.drafting = drafting
        prompt, vocab = compiled.tokens[:PROMPT], compiled.weights.shape.vocab
        noise = np.random.default_rng([count, given]).random(count).tolist()
        session.greedy(prompt, 0)
        burst = session.sampled_burst(prompt[-given:], PROMPT - given, count, sampling, noise)
        drawn = [burst.distribution(place).copy() for place in range(count)]
        assert len(burst.tokens) == len(burst.probabilities) == count
        assert all(type(token) is int for token in burst.tokens)

        other = open_session(compiled.folder, threads=1)
        other.greedy(prompt, 0)
        for place, token in enumerate(burst.tokens):
            before = [*prompt, *burst.tokens[:place]]
            logits = other.logits(before[-1:], len(before) - 1)[0]
            expected = np.zeros(vocab)
            expected[ids_of(compiled)] = distribution(logits, sampling)
            assert drawn[place].shape == (vocab,)
            assert np.abs(drawn[place] - expected).max() < self.agreement
            assert burst.probabilities[place] == pytest.approx(expected[token], abs=self.agreement)
            assert burst.probabilities[place] > 0
            shifts = (-self.agreement, 0.0, self.agreement)
            assert token in {draw_at(expected, min(max(noise[place] + shift, 0.0), 1 - 1e-12)) for shift in shifts}
        # All but the last token entered the cache.
        end = PROMPT + count - 1
        self.close(session.logits(burst.tokens[-1:], end), other.logits(burst.tokens[-1:], end))
        with pytest.raises(ValueError, match="start"):
            session.greedy([0], end + 2)
        other.close()


def ids_of(compiled: Compiled) -> TokenIds:
    """The tokens of the head's rows."""
    ids = compiled.weights.token_ids
    return np.arange(compiled.weights.shape.vocab) if ids is None else ids
