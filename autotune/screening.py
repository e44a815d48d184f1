"""Screening: which builds need no compiling, because even an optimistic latency would not move the front.

A build's tokens per round are known exactly before it is compiled; only its burst's seconds are missing, and the cost
model bounds them from below.  A build is ruled out if, at its optimistic seconds,

* no lookahead is faster in tokens/s than the fastest one measured by `LEAST_SPEEDUP`, so no winner is missed that a
  contest could tell from it, and
* all its lookaheads together would add less than `LEAST_GAIN` to the area that the front dominates (its hypervolume).

A strict front is crowded: most builds would add a point between two others, nearer to both than the clock can tell.
The two constants say what a build must add to be worth a compilation; `benchmarks.screening` measures what that costs.
What a run has measured is all that goes in, so a resumed run screens as one that was never stopped.
"""

from collections.abc import Iterable, Sequence

from autotune.candidate import Build
from autotune.cost_model import CostModel, Observation, Prediction
from autotune.objective import MEAN, Objective
from autotune.pareto import Point, hypervolume, pareto_front
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
from autotune.score import weakest
from autotune.search_space.constraints import Constraints, violated

LEAST_SPEEDUP = 1.01
"""Times the tokens/s of the fastest build so far that a build must be able to reach, wherever the front is."""
LEAST_GAIN = 0.0015
"""Share of the front's hypervolume that a build must be able to add; the reference is a round that emits one token and
takes `REFERENCE` times as long as the longest in question."""
REFERENCE = 1.1


class Screener:
    """Judges builds by the measured ones it was shown; call it as a `Screen`."""

    def __init__(self, target: TargetLatency, constraints: Constraints, objective: Objective = MEAN) -> None:
        self._objective = objective
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
        forecasts = tuple(self._forecast(prediction, acceptance, lookahead) for lookahead in lookaheads)
        allowed = [each for each in forecasts if each.rival is not None]
        if any(each.most_tokens_per_s > LEAST_SPEEDUP * self._most_tokens_per_s for each in allowed):
            return None
        gain = self._gain([(each.shortest_round_s, each.tokens_per_round.value) for each in allowed])
        return Screened(forecasts, prediction.margin, prediction.builds, gain) if gain < LEAST_GAIN else None

    def _forecast(self, prediction: Prediction, acceptance: Acceptance, lookahead: int) -> Forecast:
        burst_s, shortest_burst_s = prediction.burst_s[lookahead - 1], prediction.optimistic_s(lookahead)
        round_s = self._target.round_s(burst_s, lookahead)
        shortest_s = self._target.round_s(shortest_burst_s, lookahead)
        over_a_limit = violated(self._constraints.after_measuring(shortest_s))
        return Forecast(
            lookahead=lookahead,
            tokens_per_round=Figure(self._objective.tokens_per_round(acceptance, lookahead), acceptance.evidence),
            burst_s=Figure(burst_s, Evidence.ESTIMATED, shortest_burst_s, burst_s),
            round_s=Figure(round_s, weakest(Evidence.ESTIMATED, self._target.verify.evidence), shortest_s, round_s),
            rival=None if over_a_limit else self._rival(shortest_s),
        )

    def _gain(self, points: list[Point]) -> float:
        """Share of its hypervolume that the front would gain by these points."""
        if not points:
            return 0.0
        front = [(score.round_s.value, score.tokens_per_round.value) for _, score in self._front]
        longest_s = REFERENCE * max(round_s for round_s, _ in [*front, *points])
        return hypervolume([*front, *points], longest_s) / hypervolume(front, longest_s) - 1

    def _rival(self, round_s: float) -> Rival:
        """The richest round of the front that is no longer than this one; the shortest, if all are longer."""
        within = [point for point in self._front if point[1].round_s.value <= round_s]
        record, score = within[-1] if within else self._front[0]  # the front ascends in both
        return Rival(record.number, score.lookahead, score.round_s.value, score.tokens_per_round.value)
