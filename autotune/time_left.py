"""How long a search may still take, from the builds it has finished: a range, or no more than its budget's end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

FEWEST_BUILDS = 4
"""Fewer say nothing: the first are often looked up, or the slowest."""

_QUANTILE = 1.28
"""Standard deviations on either side that hold four in five of a normal distribution."""


@dataclass(frozen=True)
class TimeLeft:
    """Seconds until a search ends."""

    low_s: float | None
    """The near end of what is likely; None if too little is known to say more than `high_s`."""
    high_s: float
    """The far end of what is likely, never beyond the end of the budget."""


def time_left(finished_s: Sequence[float], todo: int, budget_s: float) -> TimeLeft:
    """The time that `todo` more builds take, four times in five, if they are like those finished, within the budget.

    finished_s: seconds of each build finished so far; budget_s: seconds until no further build is begun.  The sum of
    m builds of mean μ and standard deviation σ, both estimated from n, has the variance m σ² (1 + m / n).
    """
    budget_s = max(budget_s, 0.0)
    if todo <= 0:
        return TimeLeft(0.0, 0.0)
    if len(finished_s) < FEWEST_BUILDS:
        return TimeLeft(None, budget_s)
    middle_s = todo * fmean(finished_s)
    spread_s = _QUANTILE * math.sqrt(todo * variance(finished_s) * (1 + todo / len(finished_s)))
    return TimeLeft(min(max(middle_s - spread_s, 0.0), budget_s), min(middle_s + spread_s, budget_s))


def time_left_text(left: TimeLeft) -> str:
    """The range for people, its ends rounded outwards to steps that grow with them, so that it does not flicker."""
    high, high_s = _rounded(left.high_s, up=True)
    if left.low_s is None:
        return f"at most {high} left"
    low, low_s = _rounded(left.low_s, up=False)
    if high_s <= 10:
        return "a few seconds left"
    if high_s - low_s <= _step(left.high_s):
        return f"about {high} left"
    if not low_s:
        return f"up to {high} left"
    same = low.rpartition(" ")[2] == high.rpartition(" ")[2] and low.count(" ") == high.count(" ") == 1
    return f"{low.rpartition(' ')[0] if same else low} … {high} left"


def _step(seconds: float) -> int:
    """The step that a duration is rounded to: about a tenth of it, and one that people count in."""
    steps = ((60, 10), (600, 60), (3600, 300), (6 * 3600, 1800))
    return next((step for limit, step in steps if seconds <= limit), 3600)


def _rounded(seconds: float, *, up: bool) -> tuple[str, int]:
    """The duration rounded up or down, as text and in seconds."""
    step = _step(seconds)
    whole = (math.ceil if up else math.floor)(seconds / step) * step
    hours, minutes = divmod(whole // 60, 60)
    if whole < 60:
        return f"{whole} s", whole
    if not hours:
        return f"{minutes} min", whole
    return f"{hours} h {minutes} min" if minutes else f"{hours} h", whole
