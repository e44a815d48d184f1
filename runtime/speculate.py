"""One round of speculative decoding: draft a burst, verify it, keep what the target would have said.

Greedy rounds keep the longest prefix of the burst that equals the target's own arg-max tokens.  Sampled rounds accept a
drafted token x with probability min(1, p(x)/q(x)) and replace the first rejected one by a draw from the normalised
max(p - q, 0), which leaves the target's distribution unchanged (Leviathan et al. 2211.17192).
"""

from typing import NamedTuple

import numpy as np

from autotune.runtime.session import Probabilities, SampledBurst, Session
from autotune.sampling import SamplingSettings, distribution, draw


class Verdict(NamedTuple):
    """What a verification decided."""

    kept: int
    """Drafted tokens kept."""
    token: int
    """The target's own token behind them."""


def verify_greedy(target: Session, last: int, drafted: list[int], position: int) -> Verdict:
    """The verdict on a greedy burst; `last` is the newest token of the sequence, at `position`."""
    chosen = target.greedy([last, *drafted], position).tolist()
    kept = 0
    for token in drafted:
        if token != chosen[kept]:
            break
        kept += 1
    return Verdict(kept, chosen[kept])


def verify_sampled(
    target: Session,
    last: int,
    burst: SampledBurst | None,
    position: int,
    settings: SamplingSettings,
    rng: np.random.Generator,
) -> Verdict:
    """The verdict on a sampled burst; without one, a draw of the target's own."""
    drafted = burst.tokens if burst else []
    target_probabilities = distribution(target.logits([last, *drafted], position), settings)
    for kept, token in enumerate(drafted):
        assert burst is not None
        p = target_probabilities[kept]
        if rng.random() * burst.probabilities[kept] >= p[token]:  # accept with probability min(1, p/q)
            return Verdict(kept, draw(_residual(p, burst.distribution(kept)), rng))
    return Verdict(len(drafted), draw(target_probabilities[-1], rng))


def _residual(p: Probabilities, q: Probabilities) -> Probabilities:
    """The distribution a rejected token is redrawn from: max(p - q, 0) normalised, or p where rounding leaves none."""
    rest: Probabilities = np.maximum(p - q, 0.0)
    total = rest.sum()
    return rest / total if total > 0.0 else p
