"""The losses a draft can be distilled with, by name, and which of them is best for a workload (no torch)."""

from collections.abc import Sequence
from enum import StrEnum

from autotune.sampling import SamplingSettings


class Loss(StrEnum):
    """What is minimised, on average over positions (see `autotune.proxy.losses`)."""

    CE = "ce"
    """Cross-entropy with the target's own token."""
    KL = "kl"
    """Forward Kullback-Leibler divergence KL(p ‖ q)."""
    TV = "tv"
    """Total variation: the probability that a drafted token is rejected."""
    LOG = "log"
    """-log(1 - TV)."""
    SHARP = "sharp"
    """KL of p and q both sharpened (their logits divided by 0.5): between KL and what greedy decoding makes of them."""
    CE_KL = "ce+kl"
    """The mean of the two."""
    CE_TV = "ce+tv"
    """The sum of the two."""
    KL_TV = "kl+tv"
    """λ KL + (1 - λ) TV with λ = exp(-3 (1 - TV)) of each position, through which no gradient flows."""


BEST_LOSS = {"greedy": Loss.KL, "sampled": Loss.TV}
"""By measurement: `python -m benchmarks.distillation`.

By the mean acceptance: at temperature 0.7 total variation is better than KL for drafts that lost much (.325 for .292,
.532 for .517) and worse for one that is little pruned (.855 for .861); at 1 they are level.  Greedy, KL
is the best for one that is little pruned (.916; ce+kl .907), and level with ce+kl for others.
"""


def best_loss(settings: SamplingSettings, taught: Sequence[bool]) -> Loss:
    """The loss to distil with; taught: whether each trace has alternatives to the tokens drawn.

    A token that was drawn says what the target's distribution is through cross-entropy alone, which KL is where there
    are no alternatives; total variation would have the draft certain of it.
    """
    if not any(taught):
        return Loss.CE
    if not all(taught):
        return Loss.KL
    return BEST_LOSS["greedy" if settings.greedy else "sampled"]
