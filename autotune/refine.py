"""Successive refinement: estimation traces are spent on the builds whose place is not decided yet.

The search scores every build on a part of the traces (`autotune.trace_levels`).  Afterwards the builds that stand on
the front, and those that may still be finalists, are scored on the next level's traces, and those of which this still
holds on all; the others are settled.  Racing of this kind is successive halving (Jamieson and Talwalkar,
1502.07943) with a statistical test instead of a fixed share (Maron and Moore, 1993).

A build may be a finalist if the interval of its speed relative to the slowest finalist's holds 1 or more, each at its
best lookahead.  All builds at a level were scored on the same traces, so the interval is paired
(`autotune.paired_acceptance`).

Figures from different traces do not compare: a quarter of the demo's traces is 4 % easier or harder than all of them.
So whatever stands on the front in the end is scored on all, until nothing else does.  Settled builds keep the figures,
and the wider intervals, of their own level; they are dominated by others on the same traces.

Every step follows from the records of the search and from `refined.jsonl`, which only saves work: a run that was killed
anywhere goes on as if it had not been.
"""

from collections.abc import Sequence
from itertools import pairwise

from autotune.evaluate import Evaluator
from autotune.finalists import choose_finalists
from autotune.objective import MEAN, Objective
from autotune.paired_acceptance import Speeds, joined, ratio_interval, resampled_speeds
from autotune.pareto import pareto_front
from autotune.progress import Observer
from autotune.refinement import Level, Refined, Refinement
from autotune.results import Acceptance, Measured, Rejected, Score, Screened, TrialRecord
from autotune.score import rescored
from autotune.store import RunFolder
from autotune.trace_levels import ScoringLevels
from autotune.tuner import SearchResult


def refine(
    found: SearchResult,
    evaluator: Evaluator,
    levels: ScoringLevels,
    finalists: int,
    folder: RunFolder,
    observer: Observer,
) -> SearchResult:
    """The result with the tokens per round of as many traces as matter; latencies stay.

    The search has scored on the first level; finalists: how many builds the run goes on with.  A result that was
    interrupted, or is interrupted here, is left as the search made it: all on the same traces.
    """
    if found.interrupted:
        return found
    race = _Race(evaluator, levels, finalists, folder, observer)
    try:
        race.run([record for record in found.records if isinstance(record.outcome, Measured)])
    except KeyboardInterrupt:
        return SearchResult(found.records, interrupted=True)
    records = [race.latest.get(record.build.key(), record) for record in found.records]
    return SearchResult(records, interrupted=False)


def account(records: Sequence[TrialRecord], levels: ScoringLevels) -> Refinement:
    """How many builds rest on which level's traces; screened ones were scored by the search, too."""
    resting = [_traces(record) for record in records if isinstance(record.outcome, Measured)]
    resting += [levels.sizes[0] for record in records if isinstance(record.outcome, Screened)]
    return Refinement(
        tuple(
            Level(size, tokens, resting.count(size)) for size, tokens in zip(levels.sizes, levels.tokens, strict=True)
        )
    )


def undecided(records: Sequence[TrialRecord], finalists: int, objective: Objective = MEAN) -> list[TrialRecord]:
    """Of measured builds scored on the same traces: those on the front, and those that may be finalists."""
    front = _front(records)
    chosen = choose_finalists(front, finalists)
    if not chosen:
        return []
    standing, last = {record.build.key() for record, _ in front}, _speeds(chosen[-1], objective)

    def may_be_faster(record: TrialRecord) -> bool:
        return ratio_interval(_speeds(record, objective), last)[1] >= 1.0

    return [record for record in records if record.build.key() in standing or may_be_faster(record)]


class _Race:
    """One refinement; `latest` holds every build as it was scored last, by its key."""

    def __init__(
        self, evaluator: Evaluator, levels: ScoringLevels, finalists: int, folder: RunFolder, observer: Observer
    ) -> None:
        self.latest: dict[str, TrialRecord] = {}
        self._evaluator = evaluator
        self._levels = levels
        self._finalists = finalists
        self._folder = folder
        self._observer = observer
        self._known = {(entry.build, entry.traces): entry.outcome for entry in folder.refined()}

    def run(self, entrants: Sequence[TrialRecord]) -> None:
        """Raise the entrants, scored on the first level, as far as they matter."""
        self.latest = {record.build.key(): record for record in entrants}
        field = list(entrants)
        for size, more in pairwise(self._levels.sizes):
            # Where one cannot be scored, those behind it matter: hence again, with it gone.
            while waiting := [
                each for each in self._undecided(field) if _traces(self.latest[each.build.key()]) == size
            ]:
                self._raise(waiting, more)
                field = [each for each in field if self._has_score(each)]
            field = [each for each in map(self._now, field) if _traces(each) == more]
        everything = self._levels.sizes[-1]
        while waiting := self._standing_below(everything):
            self._raise(waiting, everything)

    def _undecided(self, field: Sequence[TrialRecord]) -> list[TrialRecord]:
        return undecided(field, self._finalists, self._evaluator.objective)

    def _standing_below(self, traces: int) -> list[TrialRecord]:
        """Builds that stand on the front of all though they were scored on fewer traces."""
        on_front = {record.build.key(): record for record, _ in _front(list(self.latest.values()))}
        return [record for record in on_front.values() if _traces(record) < traces]

    def _raise(self, records: Sequence[TrialRecord], traces: int) -> None:
        """Score these builds on the first so many traces."""
        missing = sum((record.build.key(), traces) not in self._known for record in records)
        if missing:
            total = self._levels.sizes[-1]
            builds = "1 build that matters" if missing == 1 else f"{missing} builds that matter"
            self._observer.phase(f"Scoring {builds} on {traces} of {total} traces")
        for done, record in enumerate(records):
            name = record.build.key(), traces
            if name not in self._known:
                self._observer.progress(done / len(records))
                self._known[name] = self._score(record, traces)
                self._folder.append_refined(Refined(*name, self._known[name]))
            self.latest[record.build.key()] = rescored(
                record, self._known[name], self._evaluator.target, self._evaluator.objective
            )

    def _score(self, record: TrialRecord, traces: int) -> Acceptance | Rejected:
        """What the build comes to on the first so many traces; only those it does not rest on yet are scored."""
        assert isinstance(record.outcome, Measured)  # as everything in the race
        source = self._levels.part(_traces(record), traces)
        found = source.acceptance(record.build, self._evaluator.drafts.weights(record.build.shape))
        return found if isinstance(found, Rejected) else joined(record.outcome.acceptance, found.value)

    def _now(self, record: TrialRecord) -> TrialRecord:
        return self.latest[record.build.key()]

    def _has_score(self, record: TrialRecord) -> bool:
        return isinstance(self._now(record).outcome, Measured)


def _front(records: Sequence[TrialRecord]) -> list[tuple[TrialRecord, Score]]:
    return pareto_front([(record, score) for record in records for score in record.scores], lambda item: item[1])


def _speeds(record: TrialRecord, objective: Objective) -> Speeds:
    assert isinstance(record.outcome, Measured)
    round_s = {score.lookahead: score.round_s.value for score in record.scores}
    return resampled_speeds(record.outcome.acceptance, round_s, objective)


def _traces(record: TrialRecord) -> int:
    """Traces that the tokens per round of a measured build rest on; 0 where it has none."""
    return len(record.outcome.acceptance.tokens) if isinstance(record.outcome, Measured) else 0
