"""What a candidate is worth: tokens per round over seconds per round (pure; touches no clock and no device)."""

from autotune.acceptance import bootstrap_interval
from autotune.results import Acceptance, Evidence, Figure, LatencyTable, Score, TargetLatency


def score_lookahead(acceptance: Acceptance, burst: LatencyTable, target: TargetLatency, lookahead: int) -> Score:
    """Predicted speed with lookahead k: throughput(k) = TAR(k) / (burst_s(k) + verify_s(k+1) + overhead_s).

    The speed-up is over the target alone: throughput(k) · step_s.  Intervals come from resampling the traces.
    """
    tokens = acceptance.tokens_per_round(lookahead)
    low, high = bootstrap_interval(acceptance, lookahead)
    round_s = target.round_s(burst.seconds(lookahead), lookahead)
    # A sum of measured parts is an estimate of the round: nobody timed a round as a whole yet.
    round_evidence = _weakest(Evidence.ESTIMATED, burst.evidence, target.verify.evidence)
    speed_evidence = _weakest(acceptance.evidence, round_evidence)

    def derived(factor: float) -> Figure:
        return Figure(tokens * factor, speed_evidence, low * factor, high * factor)

    return Score(
        lookahead=lookahead,
        tokens_per_round=Figure(tokens, acceptance.evidence, low, high),
        round_s=Figure(round_s, round_evidence),
        tokens_per_s=derived(1 / round_s),
        speedup=derived(target.step_s / round_s),
    )


def score_target_alone(target: TargetLatency) -> Score:
    """The score of k = 0: one token a step, by which everything else is judged."""
    evidence = _weakest(Evidence.ESTIMATED, target.verify.evidence)
    return Score(
        lookahead=0,
        tokens_per_round=Figure(1.0, evidence),
        round_s=Figure(target.step_s, evidence),
        tokens_per_s=Figure(1 / target.step_s, evidence),
        speedup=Figure(1.0, evidence),
    )


def _weakest(*evidence: Evidence) -> Evidence:
    """The evidence of a number that is computed from numbers of these (`Evidence` lists the strongest first)."""
    return max(evidence, key=list(Evidence).index)
