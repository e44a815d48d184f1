"""Which builds are scored on more traces, and what becomes of the others; over made-up acceptances of every trace."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.candidate import Build
from autotune.compile.sandbox import Limits
from autotune.database.known import Known, fresh
from autotune.evaluate import Evaluator, RandomDrafts, WorkerLimits
from autotune.objective import WORST
from autotune.refine import account, refine
from autotune.refinement import Level
from autotune.results import Acceptance, Measured, Rejected, RejectReason, TrialRecord
from autotune.sampling import SamplingSettings
from autotune.search_space.constraints import Constraints
from autotune.store import RunFolder
from autotune.trace_levels import ScoringLevels
from autotune.tuner import SearchResult
from autotune.weights import ModelWeights
from tests.support.evaluators import SilentObserver
from tests.support.figures import BUILD, SETTINGS, SHAPE, latency, record, screened, target_latency
from tests.support.models import NUMERICS

SIZES = (8, 16, 32)
LOOKAHEADS = 2
TOKENS = 100

Kept = Callable[[int], float]
"""The share of drafted tokens that is kept on trace i."""


def build_of(ffn: int) -> Build:
    return replace(BUILD, shape=replace(SHAPE, ffn=ffn))


BEST, RIVAL, POOR = build_of(48), build_of(40), build_of(32)
STEADY: dict[Build, Kept] = {BEST: lambda i: 0.70, POOR: lambda i: 0.40}


def uneven(i: int) -> float:
    """A little less than the best on the whole, and now more, now less."""
    return 0.69 + (0.1 if i % 2 else -0.1)


class Levels:
    """The acceptances of `kept`, and a list of what was scored."""

    def __init__(self, kept: dict[Build, Kept], failing: Build | None = None, interrupt_at: int = -1) -> None:
        self.kept = kept
        self.scored: list[tuple[Build, int, int]] = []
        self._failing = failing
        self._interrupt_at = interrupt_at
        self.levels = ScoringLevels(SIZES, tuple(TOKENS * size for size in SIZES), lambda a, b: _Part(self, a, b))

    def acceptance(self, build: Build, begin: int, end: int) -> Acceptance:
        shares = [self.kept[build](i) for i in range(begin, end)]
        return Acceptance(
            tokens=(TOKENS,) * len(shares),
            rounds=tuple(tuple(TOKENS / (1 + share * k) for k in range(LOOKAHEADS + 1)) for share in shares),
            accepted=(sum(shares),) * LOOKAHEADS,
            examined=(float(len(shares)),) * LOOKAHEADS,
            categories=tuple("code" if i % 4 < 2 else "chat" for i in range(begin, end)),
        )

    def score(self, build: Build, begin: int, end: int) -> Acceptance | Rejected:
        if len(self.scored) == self._interrupt_at:
            raise KeyboardInterrupt
        self.scored.append((build, begin, end))
        if build == self._failing:
            return Rejected(RejectReason.NOT_A_NUMBER, "the logits are no numbers")
        return self.acceptance(build, begin, end)


class _Part:
    def __init__(self, levels: Levels, begin: int, end: int) -> None:
        self._levels, self._begin, self._end = levels, begin, end

    def acceptance(self, build: Build, weights: ModelWeights) -> Known[Acceptance] | Rejected:
        assert weights.shape == build.shape
        found = self._levels.score(build, self._begin, self._end)
        return found if isinstance(found, Rejected) else fresh(found)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def evaluator_of(levels: Levels) -> Evaluator:
    return Evaluator(
        drafts=RandomDrafts(NUMERICS),
        acceptances=levels.levels.part(0, SIZES[-1]),
        target=target_latency(LOOKAHEADS),
        constraints=Constraints(context_tokens=NUMERICS.context_tokens),
        lookaheads=(1, 2),
        measuring=SETTINGS,
        sampling=SamplingSettings(),
        limits=WorkerLimits(Limits(60.0), Limits(60.0)),
        device="cpu",
        work=Path("nowhere"),
    )


def searched(levels: Levels, evaluator: Evaluator) -> SearchResult:
    """Every build as the search scored it; all take equally long."""
    records = []
    for number, build in enumerate(levels.kept):
        acceptance, burst = levels.acceptance(build, 0, SIZES[0]), latency(0.001, 0.002)
        scores = tuple(evaluator.scores(acceptance, burst, [1, 2]))
        records.append(record(number, Measured(acceptance, burst, 0.5, scores), build))
    records.append(record(len(records), screened(LOOKAHEADS), build_of(24)))
    return SearchResult(records, interrupted=False)


def refined(levels: Levels, folder: RunFolder, finalists: int = 1, evaluator: Evaluator | None = None) -> SearchResult:
    evaluator = evaluator or evaluator_of(levels)
    return refine(searched(levels, evaluator), evaluator, levels.levels, finalists, folder, SilentObserver())


def rests_on(result: SearchResult) -> dict[Build, int]:
    """Traces of every measured build."""
    return {each.build: len(outcome(each).acceptance.tokens) for each in result.records[:-1]}


def outcome(each: TrialRecord) -> Measured:
    assert isinstance(each.outcome, Measured)
    return each.outcome


def test_what_may_be_a_finalist_is_scored_on_all_traces_and_nothing_else(folder: RunFolder) -> None:
    levels = Levels(STEADY | {RIVAL: uneven})
    result = refined(levels, folder)
    assert levels.scored == [(BEST, 8, 16), (RIVAL, 8, 16), (BEST, 16, 32), (RIVAL, 16, 32)]
    assert rests_on(result) == {BEST: 32, POOR: 8, RIVAL: 32}


def test_what_is_decided_is_not_scored_any_further(folder: RunFolder) -> None:
    levels = Levels(STEADY | {RIVAL: lambda i: uneven(i) if i < 8 else 0.4})
    assert rests_on(refined(levels, folder)) == {BEST: 32, POOR: 8, RIVAL: 16}


def test_as_many_builds_as_go_on_are_scored_on_all_traces_if_they_are_on_the_front(folder: RunFolder) -> None:
    """With two finalists the poor build is compared with the slowest of the front, which has one build only."""
    assert rests_on(refined(Levels(STEADY), folder, finalists=2)) == {BEST: 32, POOR: 8}


def test_a_refined_build_is_what_it_is_on_all_traces_and_its_latencies_stay(folder: RunFolder) -> None:
    levels = Levels(STEADY | {RIVAL: uneven})
    evaluator = evaluator_of(levels)
    before, after = searched(levels, evaluator), refined(levels, folder)
    for old, new in zip(before.records[:-1], after.records[:-1], strict=True):
        assert outcome(new).burst == outcome(old).burst
        assert [each.round_s for each in new.scores] == [each.round_s for each in old.scores]
        if new.build == POOR:
            assert new == old
            continue
        whole = levels.acceptance(new.build, 0, 32)
        assert outcome(new).acceptance.rounds == whole.rounds
        assert outcome(new).acceptance.categories == whole.categories
        assert outcome(new).acceptance.accepted == pytest.approx(whole.accepted)
        assert new.scores == tuple(evaluator.scores(whole, outcome(new).burst, [1, 2]))
    assert after.records[-1] == before.records[-1]


def test_whatever_stands_on_the_front_in_the_end_rests_on_all_traces(folder: RunFolder) -> None:
    """The first traces are easy: what was settled on them looks better than the best draft on all traces."""
    easy = {BEST: lambda i: 0.9 if i < 8 else 0.5, RIVAL: lambda i: 0.85 if i < 8 else 0.45, POOR: lambda i: 0.3}
    levels = Levels(easy)
    result = refined(levels, folder)
    assert levels.scored == [(BEST, 8, 16), (BEST, 16, 32), (RIVAL, 8, 32)]
    assert {each.build for each, _ in result.front} == {BEST}
    assert rests_on(result) == {BEST: 32, RIVAL: 32, POOR: 8}


def test_where_a_build_fails_on_more_traces_those_behind_it_are_scored(folder: RunFolder) -> None:
    levels = Levels(STEADY, failing=BEST)
    result = refined(levels, folder)
    assert [each.state.value for each in result.records] == ["rejected", "measured", "screened"]
    assert levels.scored == [(BEST, 8, 16), (POOR, 8, 16), (POOR, 16, 32)]


def test_builds_are_compared_by_the_objective(folder: RunFolder) -> None:
    """The rival is as good as the best on chat, which is the worse category of both, but poor on code."""
    kept = {BEST: lambda i: 0.9 if i % 4 < 2 else 0.5, RIVAL: lambda i: 0.6 if i % 4 < 2 else 0.545 - 0.1 * (i % 2)}
    mean, worst = Levels(dict(kept)), Levels(dict(kept))
    assert rests_on(refined(mean, folder)) == {BEST: 32, RIVAL: 8}
    by_worst = replace(evaluator_of(worst), objective=WORST)
    other = RunFolder(folder.path / "worst")
    other.path.mkdir()
    assert rests_on(refined(worst, other, evaluator=by_worst)) == {BEST: 32, RIVAL: 32}


@pytest.mark.parametrize("scored", range(4))
def test_an_interrupted_refinement_goes_on_as_if_it_had_not_been(
    folder: RunFolder, tmp_path: Path, scored: int
) -> None:
    kept = STEADY | {RIVAL: uneven}
    stopped = Levels(kept, interrupt_at=scored)
    left = refined(stopped, folder)
    assert left == replace_interrupted(searched(stopped, evaluator_of(stopped)))
    resumed, whole = Levels(kept), Levels(kept)
    other = RunFolder(tmp_path / "whole")
    other.path.mkdir()
    assert refined(resumed, folder) == refined(whole, other)
    assert stopped.scored + resumed.scored == whole.scored
    assert folder.refined() == other.refined()


def replace_interrupted(result: SearchResult) -> SearchResult:
    return SearchResult(result.records, interrupted=True)


def test_an_interrupted_search_is_not_refined(folder: RunFolder) -> None:
    levels = Levels(STEADY)
    evaluator = evaluator_of(levels)
    found = replace_interrupted(searched(levels, evaluator))
    assert refine(found, evaluator, levels.levels, 1, folder, SilentObserver()) == found
    assert not levels.scored


def test_the_account_says_how_many_tokens_were_scored(folder: RunFolder) -> None:
    levels = Levels(STEADY | {RIVAL: lambda i: uneven(i) if i < 8 else 0.4})
    spent = account(refined(levels, folder).records, levels.levels)
    assert spent.levels == (Level(8, 800, 2), Level(16, 1600, 1), Level(32, 3200, 1))
    assert spent.spent_tokens == 2 * 800 + 1600 + 3200
    assert spent.whole_tokens == 4 * 3200
