"""When to stop drafting: optimal stopping by the draft's own confidence (NumPy only).

The confidence c_n of a draft step is the largest probability of the distribution that its token is drawn from (greedy:
of the softmax of its logits).  It is known before the token is, so that rounds which stop by it stay lossless: whether
a token is proposed never depends on which token it is.

Let a(c) be the share of drafted tokens of confidence c that are accepted, S_n = a(c_1) … a(c_n) the probability that
the first n drafted tokens all are, and C(n) the seconds of a round that drafts and verifies n tokens.  A second is
worth λ tokens elsewhere.  Having drafted n tokens, m further ones are expected to yield S_n (ā + … + ā^m) tokens, where
ā is the mean acceptance of a token behind an accepted one.  So it pays to go on while, for some m,

    S_n > λ (C(n + m) - C(n)) / (ā + … + ā^m),

and otherwise the last token is still worth proposing if S_n > λ (V(n) - V(n - 1)), its own share of the verification:
to draft it is paid for already.  Both bounds depend on n alone and are computed once.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autotune.sampling import SamplingSettings

Vector = NDArray[np.float64]

CONFIDENCE_BINS = 64
"""Equal parts of 0 … 1 that confidences are told apart by."""
_SMALLEST = 1e-30
_LEAST_ACCEPTANCE = 1e-4


@dataclass(frozen=True)
class AdaptivePlan:
    """What a drafter must know to choose how many tokens to propose, round by round."""

    sampling: SamplingSettings
    """What it was calibrated for; with other settings, `lookahead` tokens are drafted in every round."""
    lookahead: int
    """The best k for all rounds."""
    acceptance: tuple[float, ...]
    """`[CONFIDENCE_BINS]` the share of drafted tokens of such a confidence that are accepted; it never falls."""
    onward: float
    """The mean acceptance of a token behind an accepted one."""
    draft_s: tuple[float, ...]
    """`[K]` seconds of drafting 1 … K tokens with a look at each confidence."""
    verify_s: tuple[float, ...]
    """`[K + 1]` seconds of verifying 0 … K drafted tokens."""
    tokens_per_s: float
    """λ: what a second is worth."""

    def __post_init__(self) -> None:
        if len(self.acceptance) != CONFIDENCE_BINS or not self.draft_s or len(self.verify_s) != len(self.draft_s) + 1:
            raise ValueError(
                f"an adaptive plan has {CONFIDENCE_BINS} acceptances, K seconds of drafting and K + 1 of verifying"
            )
        if not 1 <= self.lookahead <= self.most:
            raise ValueError(f"the fixed lookahead of an adaptive plan must lie in 1 … {self.most}")

    @property
    def most(self) -> int:
        """K, the most tokens of a round."""
        return len(self.draft_s)


@dataclass(frozen=True, eq=False)
class StopRule:
    """The bounds of a plan, on the logarithmic scale."""

    log_acceptance: NDArray[np.float32] = field(repr=False)
    """`[CONFIDENCE_BINS]` log a(c)."""
    limits: NDArray[np.float32]
    """`[K]` drafting goes on behind n tokens while log S_n is at least `limits[n - 1]`; the last one ends it."""
    worth: NDArray[np.float32]
    """`[K]` the n-th token, if it is the last, is proposed if log S_n is at least `worth[n - 1]`."""

    @property
    def most(self) -> int:
        """K, the most tokens of a round."""
        return len(self.limits)

    def proposed(self, drafted: int, survival: float) -> int:
        """How many of the drafted tokens to propose; survival: log S of all of them."""
        return drafted if survival >= self.worth[drafted - 1] else drafted - 1


class Pace:
    """Follows one burst, step by step, and says when it ends."""

    def __init__(self, rule: StopRule) -> None:
        self._rule = rule
        self._drafted = 0
        self.survival = 0.0
        """log S_n."""

    def goes_on(self, confidence: float) -> bool:
        """Whether another token is to be drafted behind one of this confidence."""
        rule = self._rule
        self.survival += float(rule.log_acceptance[min(int(confidence * CONFIDENCE_BINS), CONFIDENCE_BINS - 1)])
        self._drafted += 1
        return bool(self.survival >= rule.limits[self._drafted - 1])


def bins_of(confidence: Vector) -> NDArray[np.int64]:
    """The bin of each confidence."""
    return np.minimum((np.asarray(confidence) * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)


def calibrate(confidence: Vector, acceptance: Vector) -> Vector:
    """a(c) `[CONFIDENCE_BINS]`, which never falls, from tokens' confidences and acceptance probabilities `[T]`.

    The isotonic regression, least squares weighted by the number of tokens (pool adjacent violators: Ayer et al. 1955).
    A bin without a token takes over from the one below it, or else from the lowest that has any.
    """
    if not len(confidence):
        raise ValueError("there is no token to calibrate with")
    bins = bins_of(confidence)
    counts = np.bincount(bins, minlength=CONFIDENCE_BINS)
    sums = np.bincount(bins, weights=acceptance, minlength=CONFIDENCE_BINS)
    blocks: list[tuple[float, int, int]] = []
    """Of each block of bins: what was accepted, tokens, and the first bin."""
    for first in np.flatnonzero(counts).tolist():
        accepted, tokens = float(sums[first]), int(counts[first])
        while blocks and blocks[-1][0] * tokens >= accepted * blocks[-1][1]:
            before, count, first = blocks.pop()
            accepted, tokens = accepted + before, tokens + count
        blocks.append((accepted, tokens, first))
    table = np.full(CONFIDENCE_BINS, blocks[0][0] / blocks[0][1])
    for accepted, tokens, first in blocks:
        table[first:] = accepted / tokens
    return table.clip(_LEAST_ACCEPTANCE, 1.0)


def stop_rule(plan: AdaptivePlan) -> StopRule:
    """The bounds of a plan."""
    verify_s = np.array(plan.verify_s)
    round_s = np.concatenate([[0.0], plan.draft_s]) + verify_s
    hoped = np.cumsum(np.maximum(plan.onward, _SMALLEST) ** np.arange(1, plan.most + 1))
    """`[K]` tokens expected of m further ones, where all before them are accepted."""
    limits = np.full(plan.most, np.inf)
    for drafted in range(1, plan.most):
        further_s = round_s[drafted + 1 :] - round_s[drafted]
        limits[drafted - 1] = (plan.tokens_per_s * further_s / hoped[: len(further_s)]).min()
    worth = plan.tokens_per_s * np.diff(verify_s)
    return StopRule(_log(np.array(plan.acceptance)), _log(limits), _log(worth))


def _log(values: Vector) -> NDArray[np.float32]:
    logarithms: NDArray[np.float32] = np.log(np.maximum(values, _SMALLEST)).astype(np.float32)
    return logarithms
