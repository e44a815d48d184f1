"""Stopping rules and plans for tests."""

import numpy as np

from autotune.sampling import SamplingSettings
from autotune.stopping import CONFIDENCE_BINS, AdaptivePlan, StopRule

BIN_MIDDLES = (np.arange(CONFIDENCE_BINS) + 0.5) / CONFIDENCE_BINS


def plan_of(
    most: int = 6,
    sampling: SamplingSettings | None = None,
    *,
    lookahead: int = 2,
    onward: float = 0.6,
    draft_s: float = 0.2,
    verify_s: float = 0.1,
    tokens_per_s: float = 1.0,
    power: float = 1.0,
) -> AdaptivePlan:
    """A plan of equal costs a token, which takes a confidence to that power for the acceptance."""
    return AdaptivePlan(
        sampling=sampling or SamplingSettings(),
        lookahead=lookahead,
        acceptance=tuple((BIN_MIDDLES**power).tolist()),
        onward=onward,
        draft_s=tuple(draft_s * n for n in range(1, most + 1)),
        verify_s=tuple(1.0 + verify_s * n for n in range(most + 1)),
        tokens_per_s=tokens_per_s,
    )


def rule_of(most: int, *, goes_on_from: float, worth_from: float = 0.0) -> StopRule:
    """Goes on while the product of confidences is so large, and drops a last token if it is not so large."""
    limits, worth = (np.full(most, np.log(max(each, 1e-30)), np.float32) for each in (goes_on_from, worth_from))
    return StopRule(np.log(BIN_MIDDLES).astype(np.float32), limits, worth)


def fixed_rule(most: int, lookahead: int) -> StopRule:
    """Drafts and proposes so many tokens, whatever the confidence."""
    limits = np.full(most, -1e9, np.float32)
    limits[lookahead - 1] = np.inf
    return StopRule(np.log(BIN_MIDDLES).astype(np.float32), limits, np.full(most, -1e9, np.float32))
