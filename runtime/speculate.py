"""One round of speculative decoding: draft a burst, verify it, keep what the target would have said.

Greedy rounds keep the longest prefix of the burst that equals the target's own arg-max tokens.  Sampled rounds accept a
drafted token x with probability min(1, p(x)/q(x)) and replace the first rejected one by a draw from the normalised
max(p - q, 0), which leaves the target's distribution unchanged (Leviathan et al. 2211.17192).  Of the target's
probabilities, those behind the first rejected token are never computed.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from autotune.runtime.drafter import Proposal
from autotune.runtime.session import Probabilities, Tokens
from autotune.sampling import SamplingSettings, distribution, draw


class Verifier(Protocol):
    """What a verification needs of the target's session."""

    def logits(self, tokens: Tokens, start: int) -> NDArray[np.float32]:
        """Logits `[n, vocab]` after each of the n tokens."""

    def greedy(self, tokens: Tokens, start: int) -> NDArray[np.int64]:
        """The arg-max token `[n]` after each of the n tokens."""


class Verdict(NamedTuple):
    """What a verification decided."""

    kept: int
    """Drafted tokens kept."""
    token: int
    """The target's own token behind them."""


def verify_greedy(target: Verifier, last: int, drafted: list[int], position: int) -> Verdict:
    """The verdict on a greedy burst; `last` is the newest token of the sequence, at `position`."""
    chosen = target.greedy([last, *drafted], position).tolist()
    kept = 0
    for token in drafted:
        if token != chosen[kept]:
            break
        kept += 1
    return Verdict(kept, chosen[kept])


def verify_sampled(
    target: Verifier,
    last: int,
    proposal: Proposal,
    position: int,
    settings: SamplingSettings,
    rng: np.random.Generator,
) -> Verdict:
    """The verdict on tokens that were drawn; on none, a draw of the target's own."""
    drafted, drawn = proposal.tokens, proposal.drawn
    logits = target.logits([last, *drafted], position)
    for kept, token in enumerate(drafted):
        assert drawn is not None
        p = distribution(logits[kept], settings)
        if rng.random() * drawn.probabilities[kept] >= p[token]:  # accept with probability min(1, p/q)
            return Verdict(kept, draw(_residual(p, drawn.distribution(kept)), rng))
    return Verdict(len(drafted), draw(distribution(logits[-1], settings), rng))


def _residual(p: Probabilities, q: Probabilities) -> Probabilities:
    """What a rejected token is redrawn from: max(p - q, 0), not normalised, or p where rounding leaves none of it."""
    rest = p - q
    np.maximum(rest, 0.0, out=rest)
    return rest if rest.any() else p
