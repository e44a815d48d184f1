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

    @property
    def flags(self) -> str:
        """The settings as a command line has them."""
        return f"--temperature {self.temperature:g} --top-k {self.top_k} --top-p {self.top_p:g}"


def distribution(logits: NDArray[np.float32], settings: SamplingSettings) -> NDArray[np.float64]:
    """Probabilities `[..., vocab]` that `settings` draws tokens with, from `logits [..., vocab]`.

    Greedy settings give the one-hot distribution of the first maximum.  Order of the filters: temperature,
    top-k, top-p (the smallest set of most likely tokens whose mass reaches `top_p`), then renormalisation.
    """
    if settings.greedy:
        hot = np.zeros(logits.shape, np.float64)
        np.put_along_axis(hot, logits.argmax(-1)[..., None], 1.0, -1)
        return hot
    weights = np.divide(logits, settings.temperature, dtype=np.float64)
    weights -= weights.max(-1, keepdims=True)
    vocab = logits.shape[-1]
    if 0 < settings.top_k < vocab:
        threshold = np.partition(weights, vocab - settings.top_k, -1)[..., vocab - settings.top_k, None]
        weights[weights < threshold] = -np.inf
    np.exp(weights, out=weights)
    weights /= weights.sum(-1, keepdims=True)
    if settings.top_p < 1.0:
        for row in np.ndindex(weights.shape[:-1]):
            _drop_tail(weights[row], settings.top_p)
        weights /= weights.sum(-1, keepdims=True)
    return weights


def _drop_tail(weights: NDArray[np.float64], top_p: float) -> None:
    """Set `weights [vocab]`, which sum to 1, to 0 in place but for the smallest set whose mass reaches `top_p`."""
    # All tokens below this together hold at most half of what is to be dropped: sorting the others is enough.
    likely = np.flatnonzero(weights >= 0.5 * (1.0 - top_p) / len(weights))
    order = likely[np.argsort(-weights[likely], kind="stable")]
    ordered = weights[order]
    kept = order[ordered.cumsum() - ordered < top_p]
    values = weights[kept]
    weights[:] = 0.0
    weights[kept] = values


def draw(probabilities: NDArray[np.float64], rng: np.random.Generator) -> int:
    """One token id drawn from `probabilities [vocab]` by inversion (one uniform number per draw)."""
    return draw_at(probabilities, rng.random())


def draw_at(probabilities: NDArray[np.float64], uniform: float) -> int:
    """The token id at `uniform` (in [0, 1)) of the cumulated `probabilities [vocab]`, whatever they add up to."""
    cumulative = probabilities.cumsum()
    index = int(cumulative.searchsorted(uniform * cumulative[-1], side="right"))
    if index < len(cumulative):
        return index
    return int(np.flatnonzero(probabilities)[-1])  # the product was rounded up to the whole
