"""Latencies and acceptances with round numbers, and the results that follow from them."""

from dataclasses import replace

from autotune.candidate import Build, DraftShape, Precision
from autotune.results import (
    Acceptance,
    Evidence,
    Figure,
    Forecast,
    LatencyTable,
    Measured,
    MeasureSettings,
    Outcome,
    Rival,
    Score,
    Screened,
    TargetLatency,
    TrialRecord,
)
from autotune.score import score_lookahead

SETTINGS = MeasureSettings(context_tokens=64, threads=1)
SHAPE = DraftShape(layers=2, heads=4, kv_heads=4, head_dim=8, hidden=32, ffn=48, vocab=100)
BUILD = Build(SHAPE, "onnxruntime", Precision.FP32)


def latency(*seconds: float) -> LatencyTable:
    """A table with these medians for n = 1, 2, …, each with a sample on either side."""
    return LatencyTable(tuple((0.9 * s, s, 1.2 * s) for s in seconds), SETTINGS, "cpu:test")


def target_latency(lookaheads: int = 4) -> TargetLatency:
    """10 ms a step, 1 ms more for every further position; 0.5 ms around a round, 0.2 ms around a plain step."""
    return TargetLatency(latency(*(0.010 + 0.001 * n for n in range(lookaheads + 1))), 0.0005, 0.0002)


def constant_acceptance(kept: float, lookaheads: int = 4) -> Acceptance:
    """Two traces on which TAR(k) = 1 + kept · k."""
    rounds = tuple(1 / (1 + kept * k) for k in range(lookaheads + 1))
    return Acceptance(
        tokens=(100, 300),
        rounds=(tuple(100 * r for r in rounds), tuple(300 * r for r in rounds)),
        accepted=(kept,) * lookaheads,
        examined=(1.0,) * lookaheads,
    )


def acceptance_by_category(lookaheads: int = 4, **kept: float) -> Acceptance:
    """A trace of 100 tokens of each category, on which TAR(k) = 1 + kept · k."""
    each = [constant_acceptance(share, lookaheads) for share in kept.values()]
    return replace(
        constant_acceptance(0.5, lookaheads),
        tokens=(100,) * len(each),
        rounds=tuple(one.rounds[0] for one in each),
        categories=tuple(kept),
    )


def measured(kept: float, step_s: float, lookaheads: int = 4) -> Measured:
    """A build whose drafts cost `step_s` a token, scored for every lookahead."""
    acceptance = constant_acceptance(kept, lookaheads)
    burst = latency(*(step_s * k for k in range(1, lookaheads + 1)))
    return Measured(acceptance, burst, 0.5, scores(acceptance, burst, lookaheads))


def screened(lookaheads: int = 4) -> Screened:
    """A build that was not compiled, beaten at every lookahead but the last, which is over a limit."""

    def forecast(k: int) -> Forecast:
        round_s = 0.010 + 0.002 * k
        return Forecast(
            lookahead=k,
            tokens_per_round=Figure(1 + 0.5 * k, Evidence.ESTIMATED),
            burst_s=Figure(0.001 * k, Evidence.ESTIMATED, 0.0009 * k, 0.001 * k),
            round_s=Figure(round_s, Evidence.ESTIMATED, round_s - 0.0001 * k, round_s),
            rival=Rival(3, k, round_s - 0.0002 * k, 2.0 + 0.5 * k) if k < lookaheads else None,
        )

    return Screened(tuple(forecast(k) for k in range(1, lookaheads + 1)), margin=0.1, builds=12, gain=0.0012)


def scores(acceptance: Acceptance, burst: LatencyTable, lookaheads: int) -> tuple[Score, ...]:
    """Scores of 1 … `lookaheads` beside the target of `target_latency`."""
    target = target_latency(lookaheads)
    return tuple(score_lookahead(acceptance, burst, target, k) for k in range(1, lookaheads + 1))


def record(number: int, outcome: Outcome, build: Build = BUILD) -> TrialRecord:
    """A record of that outcome."""
    params: dict[str, int | str] = {"layers": build.shape.layers, "heads": "4/4", "precision": build.precision.value}
    return TrialRecord(number, build, build.shape.parameters, 1.5, outcome, params)
