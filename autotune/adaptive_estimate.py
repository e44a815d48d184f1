"""What drafting until it does not pay any more would come to, estimated along traces (NumPy only).

As in `autotune.acceptance`, one teacher-forced pass gives r_t, the probability that a token drafted at t is accepted,
and here also c_t, the draft's confidence there.  A round that starts at t drafts and proposes as many tokens as the
rule makes of c_t, c_{t+1}, …: numbers D_t and M_t.  With s_t = P(a round starts at t),

    s_{t+n+1} += s_t r_t … r_{t+n-1} (1 - r_{t+n})   for n < M_t,        s_{t+M_t+1} += s_t r_t … r_{t+M_t-1},

and the trace takes Σ s_t (draft_s(D_t) + verify_s(M_t) + overhead_s).  Of equal confidences this is the mathematics of
a fixed lookahead.  It is exact but for one thing: behind the first rejected token of a round the draft goes on with its
own continuation, whose confidences are unknown, so those along the trace stand in for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autotune.acceptance import expected_rounds
from autotune.adaptive_results import AdaptiveEstimate
from autotune.results import Evidence, Figure
from autotune.sampling import SamplingSettings
from autotune.stopping import AdaptivePlan, StopRule, bins_of, calibrate, stop_rule

Vector = NDArray[np.float64]

PRICES = tuple(0.05 * n for n in range(16, 33))
"""λ that are tried, as multiples of the best fixed lookahead's tokens/s."""


@dataclass(frozen=True)
class Observed:
    """A trace as the draft sees it."""

    acceptance: Vector
    """r_t `[T]`."""
    confidence: Vector
    """c_t `[T]`."""


@dataclass(frozen=True)
class RoundLatencies:
    """Seconds of a round's parts, for up to K drafted tokens."""

    burst_s: tuple[float, ...]
    """`[K]` drafting 1 … K tokens without a look at confidences."""
    stopping_s: tuple[float, ...]
    """`[K]` the same with a look at each."""
    verify_s: tuple[float, ...]
    """`[K + 1]` verifying 0 … K drafted tokens."""
    overhead_s: float
    """The loop around both."""

    @property
    def most(self) -> int:
        """K."""
        return len(self.burst_s)


class Course(NamedTuple):
    """What rounds come to on every trace, `[traces]` each."""

    tokens: Vector
    rounds: Vector
    seconds: Vector
    drafted: Vector
    """Tokens drafted in all rounds."""


def make_plan(
    observed: Sequence[Observed],
    latencies: RoundLatencies,
    sampling: SamplingSettings,
    lookahead: int | None = None,
) -> AdaptivePlan:
    """The plan that does best on these traces.

    lookahead: the fixed one to fall back on, where it is decided already; the best of these traces if not.
    """
    lookaheads = np.arange(latencies.most + 1)
    speeds = [_speed(fixed_course(observed, latencies, k)) for k in lookaheads.tolist()]
    acceptance = np.concatenate([trace.acceptance for trace in observed])
    confidence = np.concatenate([trace.confidence for trace in observed])
    plan = AdaptivePlan(
        sampling=sampling,
        lookahead=int(np.argmax(speeds[1:])) + 1 if lookahead is None else lookahead,
        acceptance=tuple(calibrate(confidence, acceptance).tolist()),
        onward=_onward(observed),
        draft_s=latencies.stopping_s,
        verify_s=latencies.verify_s,
        tokens_per_s=max(speeds),
    )
    priced = [replace(plan, tokens_per_s=plan.tokens_per_s * factor) for factor in PRICES]
    return max(priced, key=lambda each: _speed(adaptive_course(observed, latencies, stop_rule(each))))


def estimate(
    observed: Sequence[Observed],
    latencies: RoundLatencies,
    sampling: SamplingSettings,
    *,
    resamples: int = 500,
    seed: int = 0,
) -> AdaptiveEstimate:
    """What adaptive lookahead comes to on these traces (at least two), beside the fixed one that is best on them.

    Every other trace is judged by the plan that the rest make, so that none is judged by a plan it had a part in.
    """
    fixed = [fixed_course(observed, latencies, k) for k in range(latencies.most + 1)]
    best = int(np.argmax([_speed(course) for course in fixed]))
    halves = observed[::2], observed[1::2]
    plans = [make_plan(half, latencies, sampling) for half in reversed(halves)]
    judged = [adaptive_course(half, latencies, stop_rule(plan)) for half, plan in zip(halves, plans, strict=True)]
    after = Course(*(_interleaved(*parts) for parts in zip(*judged, strict=True)))
    return _compare(fixed[best], best, after, resamples, seed)


def _compare(before: Course, lookahead: int, after: Course, resamples: int, seed: int) -> AdaptiveEstimate:
    traces, rounds = len(before.tokens), after.rounds.sum()
    picks = np.random.default_rng(seed).integers(traces, size=(resamples, traces))
    speeds = [course.tokens[picks].sum(1) / course.seconds[picks].sum(1) for course in (before, after)]
    return AdaptiveEstimate(
        lookahead=lookahead,
        fixed_tokens_per_s=_figure(_speed(before), speeds[0]),
        tokens_per_s=_figure(_speed(after), speeds[1]),
        gain=_figure(_speed(after) / _speed(before), speeds[1] / speeds[0]),
        tokens_per_round=float(after.tokens.sum() / rounds),
        drafted_per_round=float(after.drafted.sum() / rounds),
    )


def fixed_course(observed: Sequence[Observed], latencies: RoundLatencies, lookahead: int) -> Course:
    """Rounds of a fixed lookahead."""
    lengths, rounds = expected_rounds([trace.acceptance for trace in observed], lookahead)
    burst_s = latencies.burst_s[lookahead - 1] if lookahead else 0.0
    round_s = burst_s + latencies.verify_s[lookahead] + latencies.overhead_s
    count = rounds[:, lookahead]
    return Course(lengths.astype(np.float64), count, count * round_s, count * lookahead)


def adaptive_course(observed: Sequence[Observed], latencies: RoundLatencies, rule: StopRule) -> Course:
    """Rounds that draft as the rule says.  Behind a trace's end, the confidence is taken to stay as it was there."""
    most, lengths = rule.most, np.array([len(trace.acceptance) for trace in observed])
    places = int(lengths.max())
    acceptance, confidence = np.ones((len(observed), places + most)), np.ones((len(observed), places + most))
    for row, trace in enumerate(observed):
        acceptance[row, : lengths[row]] = trace.acceptance
        confidence[row, : lengths[row]] = trace.confidence
        confidence[row, lengths[row] :] = trace.confidence[-1]
    drafted, proposed = _bursts(confidence, rule, places)
    cost_s = np.concatenate([[0.0], latencies.stopping_s])[drafted] + np.array(latencies.verify_s)[proposed]
    cost_s += latencies.overhead_s
    starts = _starts(acceptance, proposed)
    starts[np.arange(places) >= lengths[:, None]] = 0.0
    return Course(
        tokens=lengths.astype(np.float64),
        rounds=starts.sum(1),
        seconds=(starts * cost_s).sum(1),
        drafted=(starts * drafted).sum(1),
    )


def _bursts(confidence: Vector, rule: StopRule, places: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens drafted and proposed `[traces, places]` by rounds that start at each place."""
    logarithms = rule.log_acceptance[bins_of(confidence)].astype(np.float64)
    survival, going = np.zeros((len(confidence), places)), np.ones((len(confidence), places), bool)
    drafted, proposed = np.zeros(going.shape, np.int64), np.zeros(going.shape, np.int64)
    for step in range(rule.most):
        survival += logarithms[:, step : step + places]
        last = going & ((survival < rule.limits[step]) | (step == rule.most - 1))
        drafted[last] = step + 1
        proposed[last] = step + (survival[last] >= rule.worth[step])
        going &= ~last
    return drafted, proposed


def _starts(acceptance: Vector, proposed: NDArray[np.int64]) -> Vector:
    """s_t `[traces, places]`; acceptance: `[traces, places + K]`."""
    traces, places = proposed.shape
    most = acceptance.shape[1] - places
    starts = np.zeros((traces, places + most + 1))
    starts[:, 0] = 1.0
    for place in range(places):
        reach = starts[:, place].copy()
        for kept in range(most + 1):
            here = acceptance[:, place + kept] if kept < most else np.zeros(traces)
            onward = np.where(kept < proposed[:, place], reach * here, 0.0)
            starts[:, place + kept + 1] += reach - onward
            reach = onward
            if not reach.any():
                break
    return starts[:, :places]


def _onward(observed: Sequence[Observed]) -> float:
    """The mean acceptance of a token behind an accepted one."""
    pairs = [(trace.acceptance[:-1], trace.acceptance[1:]) for trace in observed]
    behind = sum(float(first.sum()) for first, _ in pairs)
    both = sum(float((first * second).sum()) for first, second in pairs)
    return both / behind if behind else 0.0


def _interleaved(even: Vector, odd: Vector) -> Vector:
    whole = np.empty(len(even) + len(odd))
    whole[::2], whole[1::2] = even, odd
    return whole


def _speed(course: Course) -> float:
    return float(course.tokens.sum() / course.seconds.sum())


def _figure(value: float, resampled: Vector) -> Figure:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Figure(value, Evidence.ESTIMATED, float(low), float(high))
