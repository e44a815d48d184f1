"""A made-up but plausible run on a small target, as the tuner would hand it to the reports."""

import numpy as np

from autotune.candidate import Build, DraftShape, Precision
from autotune.reports.facts import RunFacts
from autotune.results import (
    Acceptance,
    Evidence,
    Figure,
    LatencyTable,
    Measured,
    MeasureSettings,
    Rejected,
    RejectReason,
    Score,
    TargetLatency,
    TrialRecord,
    Validated,
)

STEP_S, OVERHEAD_S, LOOKAHEADS = 1.1e-3, 3e-5, range(1, 9)
SETTINGS = MeasureSettings(context_tokens=128, threads=1)


def synthetic_facts(builds: int = 40, speed: float = 1.0, validated: int = 3, choose: bool = True) -> RunFacts:
    """A made-up run; `speed` scales how fast the drafts are."""
    rng = np.random.default_rng(3)
    verify = table([STEP_S * (1 + 0.03 * n) for n in range(9)])
    records = [record(number, rng, verify, speed) for number in range(builds)]
    points = [(each, score) for each in records for score in each.scores]
    front = [
        point
        for point in points
        if not any(
            other[1].round_s.value < point[1].round_s.value
            and other[1].tokens_per_round.value >= point[1].tokens_per_round.value
            for other in points
        )
    ]
    front.sort(key=lambda point: point[1].round_s.value)
    fastest = sorted(front, key=lambda point: -point[1].tokens_per_s.value)[:validated]
    decoded = [validate(each, score) for each, score in fastest]
    best = max(decoded, key=lambda draft: draft.speedup_measured.value, default=None)
    return RunFacts(
        target="demo",
        source="demo",
        device="cpu:Example CPU:2 cores:avx512f",
        latency=TargetLatency(verify, OVERHEAD_S, 0.0),
        baseline=Figure(1 / STEP_S, Evidence.MEASURED, 0.97 / STEP_S, 1.02 / STEP_S),
        records=records,
        front=front,
        validated=decoded,
        chosen=best if choose else None,
        wall_s=161.3,
        seed=0,
        command=("autotune", "run", "--trials", "40"),
        versions={"draft-autotune": "0.1.0", "onnxruntime": "1.31.1"},
        looping_share=0.41,
    )


def record(number: int, rng: np.random.Generator, verify: LatencyTable, speed: float) -> TrialRecord:
    heads, hidden = int(rng.integers(1, 5)), int(rng.choice([64, 96, 128]))
    shape = DraftShape(int(rng.integers(1, 9)), heads, heads, 32, hidden, int(rng.choice([88, 176, 264, 352])), 2048)
    build = Build(shape, "onnxruntime", Precision(rng.choice(["fp32", "int8"])))
    outcome: Measured | Rejected
    if number % 13 == 7:
        outcome = Rejected(RejectReason.BUILD_TIMEOUT, "killed after 60 s | while optimising", "Traceback\nboom\n")
    else:
        outcome = measured(build, rng, verify, speed)
    return TrialRecord(number, build, shape.parameters, 2.5, outcome)


def measured(build: Build, rng: np.random.Generator, verify: LatencyTable, speed: float) -> Measured:
    shape = build.shape
    step_s = (2.5e-5 + 1.05e-4 * shape.layers * (0.5 + 0.5 * shape.hidden * shape.ffn / (128 * 352))) / speed
    step_s *= 0.75 if build.precision is Precision.INT8 else 1.0
    kept = 0.9 - 0.13 / shape.layers - 0.1 * (1 - shape.ffn / 352) - 0.1 * (1 - shape.hidden / 128)
    kept += rng.normal(0, 0.01)
    burst = table([n * step_s for n in LOOKAHEADS])
    scores = []
    for k in LOOKAHEADS:
        tokens = float(sum(kept**n for n in range(k + 1)))
        round_s = burst.seconds(k) + verify.seconds(k + 1) + OVERHEAD_S
        scores.append(
            Score(
                k,
                Figure(tokens, Evidence.ESTIMATED, tokens * 0.98, tokens * 1.02),
                Figure(round_s, Evidence.MEASURED),
                Figure(tokens / round_s, Evidence.ESTIMATED),
                Figure(tokens / round_s * STEP_S, Evidence.ESTIMATED),
            )
        )
    acceptance = Acceptance((100,), ((100.0, 60.0),), (40.0,), (60.0,))
    return Measured(acceptance, burst, 1.2, tuple(scores))


def validate(each: TrialRecord, score: Score) -> Validated:
    tar, seconds = score.tokens_per_round.value * 0.985, score.round_s.value * 1.03
    speed = tar / seconds
    verify_s = STEP_S * (1 + 0.03 * score.lookahead) * 1.02
    return Validated(
        build=each.build,
        lookahead=score.lookahead,
        tar_estimated=score.tokens_per_round,
        tar_measured=Figure(tar, Evidence.MEASURED, tar * 0.97, tar * 1.03),
        tokens_per_s_predicted=score.tokens_per_s,
        tokens_per_s_measured=Figure(speed, Evidence.MEASURED, speed * 0.96, speed * 1.03),
        speedup_predicted=score.speedup,
        speedup_measured=Figure(speed * STEP_S, Evidence.MEASURED, speed * STEP_S * 0.96, speed * STEP_S * 1.03),
        rounds=1200,
        burst_s=seconds - verify_s - 4e-5,
        verify_s=verify_s,
        overhead_s=4e-5,
    )


def table(seconds: list[float]) -> LatencyTable:
    samples = tuple((0.98 * s, s, 1.03 * s) for s in seconds)
    return LatencyTable(samples, SETTINGS, "cpu:Example CPU")
