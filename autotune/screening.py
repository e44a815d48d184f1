"""Screening: which builds need no compiling, because even an optimistic latency would not move the front.

A build's tokens per round are known exactly before it is compiled; only its burst's seconds are missing, and the cost
model bounds them from below.  A build is ruled out if, at its optimistic seconds,

* no lookahead has more tokens/s than the fastest one measured, so the winner is never at stake, and
* every lookahead has a rival on the front: a round that is not poorer and not longer, up to a tolerance.

A strict front is crowded: most builds would add a point between two others, nearer to both than the clock can tell.
The tolerances say what a point must gain to be worth a compilation; `benchmarks.screening` measures what they cost.
What a run has measured is all that goes in, so a resumed run screens as one that was never stopped.
"""

from collections.abc import Iterable, Sequence

from autotune.candidate import Build
from autotune.cost_model import CostModel, Observation, Prediction
from autotune.pareto import pareto_front
from autotune.results import (
    Acceptance,
    Evidence,
    Figure,
    Forecast,
    Measured,
    Rival,
    Score,
    Screened,
    TargetLatency,
    TrialRecord,
)
from autotune.search_space.constraints import Constraints, violated

ROUND_TOLERANCE = 0.04
"""A lookahead whose round cannot be shorter than a rival's by more than this share of it gains nothing in time."""
TOKENS_TOLERANCE = 0.005
"""A lookahead that is not richer than a rival by more than this share of it gains nothing in tokens per round."""


class Screener:
    """Judges builds by the measured ones it was shown; call it as a `Screen`."""

    def __init__(self, target: TargetLatency, constraints: Constraints) -> None:
        self._target = target
        self._constraints = constraints
        self._observations: list[Observation] = []
        self._front: list[tuple[TrialRecord, Score]] = []
        self._most_tokens_per_s = 0.0
        self._model: CostModel | None = None

    def learn(self, records: Iterable[TrialRecord]) -> None:
        """Take in what was measured; other records tell nothing about latency."""
        for record in records:
            if isinstance(record.outcome, Measured):
                burst = record.outcome.burst
                seconds = tuple(burst.seconds(count) for count in range(1, burst.largest + 1))
                self._observations.append(Observation(record.build, seconds))
                scored = [(record, score) for score in record.scores]
                self._front = pareto_front([*self._front, *scored], lambda item: item[1])
                self._most_tokens_per_s = max(
                    [self._most_tokens_per_s, *(score.tokens_per_s.value for score in record.scores)]
                )
                self._model = None

    def predict(self, build: Build, lookaheads: int) -> Prediction | None:
        """The burst seconds that the builds measured so far make likely; None if they are too few."""
        if self._model is None:
            self._model = CostModel(self._observations, self._target.verify.settings.context_tokens)
        return self._model.predict(build, lookaheads)

    def __call__(self, build: Build, acceptance: Acceptance, lookaheads: Sequence[int]) -> Screened | None:
        """The forecasts that rule the build out; None if it may be worth compiling, or nothing can be predicted yet."""
        prediction = self.predict(build, max(lookaheads))
        if prediction is None:
            return None
        forecasts = []
        for lookahead in lookaheads:
            forecast = self._forecast(prediction, acceptance, lookahead)
            if forecast is None:
                return None
            forecasts.append(forecast)
        return Screened(tuple(forecasts), prediction.margin, prediction.builds)

    def _forecast(self, prediction: Prediction, acceptance: Acceptance, lookahead: int) -> Forecast | None:
        """What rules the lookahead out; None if it could be worth a compilation."""
        burst_s, shortest_burst_s = prediction.burst_s[lookahead - 1], prediction.optimistic_s(lookahead)
        round_s = self._target.round_s(burst_s, lookahead)
        shortest_s = self._target.round_s(shortest_burst_s, lookahead)
        tokens = acceptance.tokens_per_round(lookahead)
        if violated(self._constraints.after_measuring(shortest_s)):
            rival = None
        else:
            rival = self._rival(shortest_s, tokens)
            if rival is None or tokens / shortest_s > self._most_tokens_per_s:
                return None
        return Forecast(
            lookahead=lookahead,
            tokens_per_round=Figure(tokens, acceptance.evidence),
            burst_s=Figure(burst_s, Evidence.ESTIMATED, shortest_burst_s, burst_s),
            round_s=Figure(round_s, Evidence.ESTIMATED, shortest_s, round_s),
            rival=rival,
        )

    def _rival(self, round_s: float, tokens: float) -> Rival | None:
        """The richest round of the front that is no longer than this, if it is no poorer either; with tolerance."""
        within = [point for point in self._front if point[1].round_s.value <= round_s * (1 + ROUND_TOLERANCE)]
        if not within:
            return None
        record, score = within[-1]  # the front ascends in both
        richest = score.tokens_per_round.value
        if richest * (1 + TOKENS_TOLERANCE) < tokens:
            return None
        return Rival(record.number, score.lookahead, score.round_s.value, richest)
