"""What a candidate is worth: tokens per round over seconds per round (pure; touches no clock and no device)."""

import math
from dataclasses import replace

from autotune.acceptance import bootstrap_interval
from autotune.objective import MEAN, Objective
from autotune.results import (
    Acceptance,
    Evidence,
    Figure,
    LatencyTable,
    Measured,
    Rejected,
    Score,
    TargetLatency,
    TrialRecord,
)


def score_lookahead(
    acceptance: Acceptance,
    burst: LatencyTable,
    target: TargetLatency,
    lookahead: int,
    objective: Objective = MEAN,
) -> Score:
    """Predicted speed with lookahead k: throughput(k) = TAR(k) / (burst_s(k) + verify_s(k+1) + overhead_s).

    TAR(k) is the objective's, as then are all figures that follow; a round's seconds do not depend on the category.
    The speed-up is over the target alone: throughput(k) · step_s.  It breaks even at TAR = round_s / step_s.  Intervals
    come from resampling the traces and, where the target's latency is extrapolated, from its error bars; the two err
    independently, so their deviations add up in quadrature on the logarithmic scale.
    """
    tokens_low, tokens_high = bootstrap_interval(acceptance, lookahead, objective)
    # A sum of measured parts is an estimate of the round: nobody timed a round as a whole yet.
    round_evidence = weakest(Evidence.ESTIMATED, burst.evidence, target.verify.evidence)
    tokens = Figure(objective.tokens_per_round(acceptance, lookahead), acceptance.evidence, tokens_low, tokens_high)
    burst_s = burst.seconds(lookahead)
    round_s = Figure(target.round_s(burst_s, lookahead), round_evidence, *_round_bar(burst_s, target, lookahead))
    even = Figure(round_s.value / target.step_s, round_evidence, *_even_bar(burst_s, target, lookahead))
    return Score(
        lookahead=lookahead,
        tokens_per_round=tokens,
        round_s=round_s,
        tokens_per_s=quotient(tokens, round_s),
        speedup=quotient(tokens, even),
        break_even=even,
    )


def rescored(
    record: TrialRecord, acceptance: Acceptance | Rejected, target: TargetLatency, objective: Objective = MEAN
) -> TrialRecord:
    """The record of a measured build with another acceptance, at the lookaheads it has scores for; latencies stay."""
    outcome = record.outcome
    assert isinstance(outcome, Measured)
    if isinstance(acceptance, Rejected):
        return replace(record, outcome=acceptance)
    scores = (score_lookahead(acceptance, outcome.burst, target, each.lookahead, objective) for each in record.scores)
    return replace(record, outcome=replace(outcome, acceptance=acceptance, scores=tuple(scores)))


def quotient(numerator: Figure, denominator: Figure) -> Figure:
    """A quotient of two figures that err independently, with the weaker one's evidence.

    Its interval has their relative deviations added in quadrature, on the logarithmic scale; none if neither has one.
    """
    value = numerator.value / denominator.value
    evidence = weakest(numerator.evidence, denominator.evidence)
    if numerator.low is None and denominator.low is None:
        return Figure(value, evidence)
    below, above = _deviations(numerator)
    less, more = _deviations(denominator)
    low, high = value * math.exp(-math.hypot(below, more)), value * math.exp(math.hypot(above, less))
    return Figure(value, evidence, low, high)


def needed_to_match(score: Score, rival: Score) -> Figure:
    """Tokens per round with which a draft would be as fast as its rival: TAR_B > TAR_A · round_B / round_A beats it."""
    value = rival.tokens_per_s.value * score.round_s.value
    return Figure(value, weakest(rival.tokens_per_s.evidence, score.round_s.evidence))


def least_s_per_token(target: TargetLatency, kept: float, cost: float) -> float:
    """Seconds a token that the target would come to at the fastest lookahead, k = 0 included, beside a supposed draft.

    Each of its tokens takes `cost` times a step of the target and is kept with the probability `kept`, so that
    TAR(k) = Σ kept^i for i = 0 … k.
    """
    fastest, tokens = target.step_s, 1.0
    for lookahead in range(1, target.verify.largest):
        tokens += kept**lookahead
        burst_s = lookahead * cost * target.verify.seconds(1)
        fastest = min(fastest, target.round_s(burst_s, lookahead) / tokens)
    return fastest


def score_target_alone(target: TargetLatency) -> Score:
    """The score of k = 0: one token a step, by which everything else is judged."""
    evidence = weakest(Evidence.ESTIMATED, target.verify.evidence)
    bar = target.verify.error_bar(1)
    low_s, high_s = (None, None) if bar is None else (each + target.plain_overhead_s for each in bar)
    step_s = Figure(target.step_s, evidence, low_s, high_s)
    one = Figure(1.0, evidence)
    return Score(
        lookahead=0,
        tokens_per_round=one,
        round_s=step_s,
        tokens_per_s=quotient(one, step_s),
        speedup=one,
        break_even=one,
    )


def _round_bar(burst_s: float, target: TargetLatency, lookahead: int) -> tuple[float | None, float | None]:
    """The interval of a round's seconds that an extrapolated verification leaves; none where it was measured."""
    bar = target.verify.error_bar(lookahead + 1)
    if bar is None:
        return None, None
    low_s, high_s = (burst_s + each + target.overhead_s for each in bar)
    return low_s, high_s


def _even_bar(burst_s: float, target: TargetLatency, lookahead: int) -> tuple[float | None, float | None]:
    """The interval of round_s / step_s: replicates of one number are of all, so their errors partly cancel."""
    if target.verify.error_bar(lookahead + 1) is None:
        return None, None
    steps_s, verifications_s = target.verify.samples_s[0], target.verify.samples_s[lookahead]
    if len(steps_s) != len(verifications_s):
        return None, None
    ratios = sorted(
        (burst_s + verify_s + target.overhead_s) / (step_s + target.plain_overhead_s)
        for step_s, verify_s in zip(steps_s, verifications_s, strict=True)
    )
    return ratios[int(0.025 * len(ratios))], ratios[int(0.975 * (len(ratios) - 1))]


def _deviations(figure: Figure) -> tuple[float, float]:
    """How far the interval reaches below and above the figure, on the logarithmic scale."""
    if figure.low is None or figure.high is None:
        return 0.0, 0.0
    return max(math.log(figure.value / figure.low), 0.0), max(math.log(figure.high / figure.value), 0.0)


def weakest(*evidence: Evidence) -> Evidence:
    """The evidence of a number that is computed from numbers of these (`Evidence` lists the strongest first)."""
    return max(evidence, key=list(Evidence).index)
