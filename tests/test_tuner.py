import itertools
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from autotune import samplers, tuner
from autotune.candidate import Build
from autotune.errors import BadRequest
from autotune.objective import MEAN, WORST, Objective, weighted
from autotune.results import Measured, Rejected, RejectReason, TrialRecord
from autotune.results import TrialState as Ending
from autotune.score import score_lookahead
from autotune.screening import Screener
from autotune.search_space.constraints import Constraints
from autotune.store import RunFolder
from autotune.time_left import TimeLeft
from autotune.tuner import Budget, Search
from tests.support import evaluators
from tests.support.evaluators import LOOKAHEADS, outcome_of, tiny_space
from tests.support.figures import acceptance_by_category, screened, target_latency
from tests.support.searches import Bench
from tests.support.spaces import all_builds

AXES = ("layers", "heads", "ffn", "hidden", "draft-vocab")


@pytest.fixture
def storage() -> optuna.storages.InMemoryStorage:
    """A study in memory: what SQLite would keep, a hundred times faster."""
    return optuna.storages.InMemoryStorage()


@pytest.fixture
def bench(tmp_path: Path, storage: optuna.storages.BaseStorage) -> Bench:
    return Bench(tmp_path / "run", storage=storage)


@pytest.fixture
def sqlite_bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "run", tiny_space(layers="1:2"))


def keys(builds: list[Build]) -> list[str]:
    return [build.key() for build in builds]


def every_lookahead(builds: list[Build]) -> set[tuple[str, int]]:
    return set(itertools.product(keys(builds), range(1, LOOKAHEADS + 1)))


def interrupt_at(nth: int) -> Callable[[int, Build], None]:
    def before(n: int, build: Build) -> None:
        if n == nth:
            raise KeyboardInterrupt

    return before


def test_the_whole_space_is_searched_without_repeats(bench: Bench) -> None:
    result = bench.search()
    assert not result.interrupted
    assert len(bench.evaluated) == bench.space.size == 12
    assert set(bench.evaluated) == set(all_builds(bench.space))
    assert [record.number for record in result.records] == list(range(12))
    assert [record.build for record in result.records] == bench.evaluated


def test_the_draft_vocabulary_is_searched_like_any_axis(bench: Bench) -> None:
    bench.space = tiny_space(layers="1", heads="4", draft_vocab="20,60,full")  # not evenly spaced: a choice
    bench.search()
    assert {build.shape.draft_vocab for build in bench.evaluated} == {20, 60, None}
    assert len(bench.evaluated) == bench.space.size == 6
    assert bench.told() == every_lookahead(all_builds(bench.space))


def test_seeds_come_first(bench: Bench) -> None:
    seeds = [seed.build for seed in bench.space.seeds()]
    result = bench.search(Budget(len(seeds), 60.0))
    assert [record.build for record in result.records] == seeds


def test_every_lookahead_of_an_evaluated_build_enters_the_study(bench: Bench) -> None:
    result = bench.search(Budget(5, 60.0))
    assert bench.told() == every_lookahead(bench.evaluated)
    values = {
        (trial.user_attrs["build"], trial.params["lookahead"]): trial.values
        for trial in bench.trials
        if trial.state == TrialState.COMPLETE
    }
    for record, score in result.scored:
        expected = [score.round_s.value, score.tokens_per_round.value]
        assert values[record.build.key(), score.lookahead] == pytest.approx(expected)
    for trial in bench.trials:
        if trial.state == TrialState.COMPLETE:
            assert set(trial.params) == {*AXES, "backend", "precision", "lookahead"}
            assert all(excess <= 0 for excess in trial.constraints.values())


def test_the_records_hold_what_was_suggested(bench: Bench) -> None:
    for record in bench.search(Budget(3, 60.0)).records:
        assert "lookahead" not in record.params
        assert record.params["layers"] == record.build.shape.layers
        assert record.parameters == record.build.shape.parameters
        assert record.outcome == outcome_of(record.build)


def test_a_search_of_one_lookahead_and_one_build_ends(bench: Bench) -> None:
    bench.space = tiny_space(layers="1", heads="4", ffn="96", lookahead="2")
    result = bench.search()
    assert len(result.records) == bench.space.size == 1


@pytest.mark.parametrize("objective", [MEAN, WORST, weighted({"chat": 9, "code": 1})])
def test_the_objective_over_categories_is_what_is_searched(bench: Bench, objective: Objective) -> None:
    """Depth helps with code and harms chat, so the best of the mean is deep, and the best of the worst shallow."""

    def outcome(n: int, build: Build) -> Measured:
        layers = build.shape.layers
        acceptance = acceptance_by_category(LOOKAHEADS, code=0.1 + 0.3 * layers, chat=0.5 - 0.05 * layers)
        burst = outcome_of(bench.space.seeds()[0].build).burst  # all take as long
        scores = [score_lookahead(acceptance, burst, target_latency(), k, objective) for k in range(1, LOOKAHEADS + 1)]
        return Measured(acceptance, burst, 0.5, tuple(scores))

    result = bench.search(before=outcome)
    best, score = max(result.scored, key=lambda item: item[1].tokens_per_s.value)
    assert best.build.shape.layers == (3 if objective == MEAN else 1)
    assert isinstance(best.outcome, Measured)
    wanted = objective.tokens_per_round(best.outcome.acceptance, score.lookahead)
    assert score.tokens_per_round.value == pytest.approx(wanted)
    told = {
        (trial.user_attrs["build"], trial.params["lookahead"]): trial.values[1]
        for trial in bench.trials
        if trial.state == TrialState.COMPLETE
    }
    assert told[best.build.key(), score.lookahead] == pytest.approx(wanted)
    assert [record.build.shape.layers for record, _ in result.front] == [best.build.shape.layers] * len(result.front)


def test_the_trial_budget_counts_builds(bench: Bench) -> None:
    assert len(bench.search(Budget(3, 60.0)).records) == 3
    assert len(bench.search(Budget(3, 60.0)).records) == 3
    assert len(bench.search(Budget(4, 60.0)).records) == 4
    assert len(bench.evaluated) == 4


def test_the_time_budget_ends_the_search_between_builds(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr(tuner, "time", SimpleNamespace(monotonic=lambda: now_s[0]))  # this module's clock alone

    def take_time(n: int, build: Build) -> None:
        now_s[0] += 10.0

    result = bench.search(Budget(100, 25.0), take_time)
    assert len(result.records) == 3
    assert not result.interrupted
    assert bench.observer.notes == ["the time budget is spent"]
    lefts = [status.left for status in bench.observer.statuses]
    assert lefts == [TimeLeft(None, 15.0), TimeLeft(None, 5.0), TimeLeft(None, 0.0)]


def test_no_time_is_time_for_nothing(bench: Bench) -> None:
    assert bench.search(Budget(10, 0.0)).records == []


def test_the_status_counts(bench: Bench) -> None:
    rejected = Rejected(RejectReason.CRASHED, "died of SIGSEGV")
    result = bench.search(Budget(4, 60.0), lambda n, build: rejected if n == 1 else None)
    first, *_, last = bench.observer.statuses
    assert (first.evaluated, first.planned, first.rejected, first.best, first.front_size) == (1, 4, 1, None, 0)
    assert (last.evaluated, last.planned, last.rejected) == (4, 4, 1)
    assert last.front_size == len(result.front)
    assert last.left == TimeLeft(0.0, 0.0)
    assert last.best[1].tokens_per_s.value == max(score.tokens_per_s.value for _, score in result.scored)


@pytest.mark.parametrize("reason", [reason for reason in RejectReason if reason is not RejectReason.CONSTRAINT])
def test_a_rejected_build_fails_its_trials_and_the_search_goes_on(bench: Bench, reason: RejectReason) -> None:
    rejected = Rejected(reason, "no luck", "stderr")
    result = bench.search(before=lambda n, build: rejected if n == 2 else None)
    assert len(result.records) == bench.space.size
    assert [record.number for record in result.records if record.outcome == rejected] == [1]
    victim = bench.evaluated[1]
    assert bench.told() == every_lookahead(bench.evaluated) - every_lookahead([victim])
    states = {trial.state for trial in bench.trials if trial.user_attrs.get("build") == victim.key()}
    assert states == {TrialState.FAIL}


def test_what_breaks_a_limit_is_pruned_and_infeasible(bench: Bench) -> None:
    rejected = Rejected(RejectReason.CONSTRAINT, "over the limit of memory")
    bench.search(before=lambda n, build: rejected if n == 1 else None)
    victim = bench.evaluated[0].key()
    trials = [trial for trial in bench.trials if trial.user_attrs.get("build") == victim]
    assert {trial.params["lookahead"] for trial in trials} == {1, 2, 3}
    for trial in trials:
        assert trial.state == TrialState.PRUNED
        assert any(excess > 0 for excess in trial.constraints.values())


def test_lookaheads_over_the_limit_are_infeasible_and_the_others_count(bench: Bench) -> None:
    def only_short(n: int, build: Build) -> Measured:
        whole = outcome_of(build)
        return Measured(whole.acceptance, whole.burst, whole.build_s, whole.scores[:2])

    result = bench.search(Budget(4, 60.0), only_short)
    assert {score.lookahead for _, score in result.scored} == {1, 2}
    assert bench.told() == {pair for pair in every_lookahead(bench.evaluated) if pair[1] < 3}
    over = [trial for trial in bench.trials if trial.params.get("lookahead") == 3]
    assert over
    assert {trial.state for trial in over} == {TrialState.PRUNED}


def test_a_search_in_which_everything_fails_has_no_front(bench: Bench) -> None:
    result = bench.search(before=lambda n, build: Rejected(RejectReason.BUILD_ERROR, "no"))
    assert len(result.records) == 12
    assert (result.front, result.scored) == ([], [])


@pytest.mark.parametrize("nth", [1, 2, 9])
def test_an_interrupted_search_ends_cleanly_and_is_continued(bench: Bench, nth: int) -> None:
    stopped = bench.search(before=interrupt_at(nth))
    assert stopped.interrupted
    assert len(stopped.records) == nth - 1
    cut_short = bench.evaluated.pop()
    resumed = bench.search()
    assert not resumed.interrupted
    assert resumed.records[: nth - 1] == stopped.records
    assert set(keys(bench.evaluated)) == set(keys(all_builds(bench.space)))
    assert len(bench.evaluated) == 12
    assert cut_short in bench.evaluated
    assert bench.told() == every_lookahead(bench.evaluated)
    assert not [trial for trial in bench.trials if trial.state in (TrialState.RUNNING, TrialState.WAITING)]


@pytest.mark.parametrize("nth", [1, 3])
def test_what_was_cut_short_is_tried_again(bench: Bench, nth: int) -> None:
    seeds = [seed.build for seed in bench.space.seeds()]
    for _ in range(3):
        bench.search(before=interrupt_at(nth))
        nth = 1
    bench.evaluated.clear()
    result = bench.search(Budget(len(seeds), 60.0))
    assert {record.build for record in result.records} == set(seeds)


def test_a_proposal_of_the_sampler_that_was_cut_short_is_tried_next(bench: Bench) -> None:
    seeds = bench.space.seeds()
    bench.search(before=interrupt_at(len(seeds) + 1))
    cut_short = bench.evaluated[-1]
    assert cut_short not in [seed.build for seed in seeds]
    bench.evaluated.clear()
    bench.search(Budget(len(seeds) + 1, 60.0))
    assert bench.evaluated == [cut_short]


class Dies(BaseException):
    """Stands for the end of the process: nothing catches it."""


@pytest.mark.parametrize("method", ["_tell", "_add_siblings", "_add"])
def test_a_record_the_study_never_heard_of_is_told_on_resume(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    original, calls = getattr(Search, method), itertools.count(1)

    def die_at_second_call(self: Search, *arguments: object, **named: object) -> object:
        if next(calls) == 2:
            raise Dies
        return original(self, *arguments, **named)

    monkeypatch.setattr(Search, method, die_at_second_call)
    with pytest.raises(Dies):
        bench.search()
    monkeypatch.setattr(Search, method, original)
    bench.search()
    assert max(Counter(keys(bench.evaluated)).values()) == 1
    assert bench.told() == every_lookahead(bench.evaluated) == every_lookahead(all_builds(bench.space))


def test_seeds_that_a_kill_kept_from_the_queue_are_queued_on_resume(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Search._queue, itertools.count(1)

    def die_at_third_call(self: Search, candidate: object) -> None:
        if next(calls) == 3:
            raise Dies
        original(self, candidate)

    monkeypatch.setattr(Search, "_queue", die_at_third_call)
    with pytest.raises(Dies):
        bench.search()
    monkeypatch.setattr(Search, "_queue", original)
    seeds = [seed.build for seed in bench.space.seeds()]
    bench.search(Budget(len(seeds), 60.0))
    assert bench.evaluated == seeds


def test_a_kill_9_in_the_middle_of_an_evaluation_loses_and_repeats_nothing(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    program = [sys.executable, "-m", evaluators.__name__, str(bench.path), "4"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    killed = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with RunFolder.open(bench.path, {}, resume=True) as folder:
        before = folder.records()
    assert len(before) == 3
    result = bench.search()
    assert result.records[:3] == before
    assert keys(bench.evaluated).count(killed.stdout.strip()) == 1
    assert len(bench.evaluated) == bench.space.size - 3
    assert {record.build for record in result.records} == set(all_builds(bench.space))
    assert bench.told() == every_lookahead([record.build for record in result.records])


def test_a_lost_study_is_rebuilt_from_the_records(sqlite_bench: Bench) -> None:
    sqlite_bench.search(Budget(3, 60.0))
    (sqlite_bench.path / "study.db").unlink()
    sqlite_bench.search(Budget(4, 60.0))
    assert len(sqlite_bench.evaluated) == 4
    assert sqlite_bench.told() == every_lookahead(sqlite_bench.evaluated)


def test_a_resumed_study_is_not_told_twice(bench: Bench) -> None:
    bench.search(Budget(6, 60.0))
    before = len(bench.trials)
    bench.search(Budget(6, 60.0))
    assert len(bench.trials) == before


def test_the_same_seed_gives_the_same_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "STARTUP_BUILDS", 4)  # so that the sampler's model is asked too
    space, memory = tiny_space(ffn="16:96:16"), optuna.storages.InMemoryStorage
    first, again, other = (Bench(tmp_path / name, space, memory()) for name in ("first", "again", "other"))
    for bench, seed in ((first, 3), (again, 3), (other, 4)):
        bench.search(Budget(14, 60.0), seed=seed)
    assert keys(first.evaluated) == keys(again.evaluated) != keys(other.evaluated)


def test_a_damaged_study_is_refused_in_one_line(sqlite_bench: Bench) -> None:
    sqlite_bench.search(Budget(1, 60.0))
    study = sqlite_bench.path / "study.db"
    study.write_bytes(b"no database" * 100)
    with pytest.raises(BadRequest, match=r"cannot use .*study\.db \(.*not a database\): .* delete it") as caught:
        sqlite_bench.search(Budget(2, 60.0))
    assert "\n" not in str(caught.value)
    study.unlink()
    assert len(sqlite_bench.search(Budget(2, 60.0)).records) == 2


def screened_in(records: list[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if record.state is Ending.SCREENED]


def test_a_screened_build_is_complete_with_its_prediction_and_counts_as_a_trial(bench: Bench) -> None:
    result = bench.search(Budget(3, 60.0), lambda n, build: screened(3) if n == 2 else None)
    assert len(result.records) == 3
    (record,) = screened_in(result.records)
    assert record not in [each for each, _ in result.scored]
    assert bench.observer.statuses[-1].screened == 1
    assert bench.observer.statuses[-1].rejected == 0
    told = [trial for trial in bench.trials if trial.user_attrs.get("build") == record.build.key()]
    states = {trial.params["lookahead"]: trial.state for trial in told}
    assert states == {1: TrialState.COMPLETE, 2: TrialState.COMPLETE, 3: TrialState.PRUNED}
    values = {trial.params["lookahead"]: trial.values for trial in told}
    assert values[1] == pytest.approx([0.012, 1.5])
    before = len(bench.trials)
    bench.search(Budget(3, 60.0))
    assert len(bench.trials) == before


def test_a_resumed_search_screens_by_what_was_measured_before(bench: Bench) -> None:
    first = bench.search(Budget(7, 60.0), screen=True)
    resumed = bench.search(screen=True)
    assert len(resumed.records) == bench.space.size
    assert max(Counter(keys(bench.evaluated)).values()) == 1
    again = Screener(target_latency(LOOKAHEADS), Constraints(context_tokens=64))
    for record in resumed.records:
        outcome = outcome_of(record.build)
        judged = again(record.build, outcome.acceptance, range(1, LOOKAHEADS + 1))
        assert record.outcome == (judged or outcome)
        again.learn([record])
    assert resumed.records[:7] == first.records
