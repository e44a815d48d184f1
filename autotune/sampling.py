"""How a token is drawn from logits: one definition for traces, proxies and the runtime (NumPy only)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.errors import BadRequest


@dataclass(frozen=True)
class SamplingSettings:
    """Temperature 0 is greedy decoding; `top_k` 0 and `top_p` 1 switch those filters off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 100.0:
            raise BadRequest(f"temperature must lie in 0 … 100, not {self.temperature}")
        if self.top_k < 0:
            raise BadRequest(f"top_k must be 0 (off) or a positive count, not {self.top_k}")
        if not 0.0 < self.top_p <= 1.0:
            raise BadRequest(f"top_p must lie in (0, 1], not {self.top_p}")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0


def distribution(logits: NDArray[np.float32], settings: SamplingSettings) -> NDArray[np.float64]:
    """Probabilities `[..., vocab]` that `settings` draws tokens with, from `logits [..., vocab]`.

    Greedy settings give the one-hot distribution of the first maximum.  Order of the filters: temperature,
    top-k, top-p (the smallest set of most likely tokens whose mass reaches `top_p`), then renormalisation.
    """
    if settings.greedy:
        hot = np.zeros(logits.shape, np.float64)
        np.put_along_axis(hot, logits.argmax(-1)[..., None], 1.0, -1)
        return hot
    scaled = logits.astype(np.float64) / settings.temperature
    scaled -= scaled.max(-1, keepdims=True)
    vocab = logits.shape[-1]
    if 0 < settings.top_k < vocab:
        threshold = np.partition(scaled, vocab - settings.top_k, -1)[..., vocab - settings.top_k, None]
        scaled = np.where(scaled < threshold, -np.inf, scaled)
    weights = np.exp(scaled)
    weights /= weights.sum(-1, keepdims=True)
    if settings.top_p < 1.0:
        order = np.argsort(-weights, axis=-1, kind="stable")
        ordered = np.take_along_axis(weights, order, -1)
        mass_before = ordered.cumsum(-1) - ordered
        ordered[mass_before >= settings.top_p] = 0.0
        np.put_along_axis(weights, order, ordered, -1)
        weights /= weights.sum(-1, keepdims=True)
    return weights


def draw(probabilities: NDArray[np.float64], rng: np.random.Generator) -> int:
    """One token id drawn from `probabilities [vocab]` by inversion (one uniform number per draw)."""
    return draw_at(probabilities, rng.random())


def draw_at(probabilities: NDArray[np.float64], uniform: float) -> int:
    """The token id at `uniform` (in [0, 1)) of the cumulated `probabilities [vocab]`."""
    cumulative = probabilities.cumsum()
    index = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return min(index, int(np.flatnonzero(probabilities)[-1]))
