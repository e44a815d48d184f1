from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from pydantic import TypeAdapter

from autotune import measure
from autotune.candidate import Drafting
from autotune.compile.sandbox import CandidateRejected, Limits, Phase
from autotune.measure import (
    BurstRequest,
    TargetRequest,
    burst_job,
    measure_bursts,
    measure_bursts_sandboxed,
    measure_overheads,
    measure_target_sandboxed,
    measure_verifications,
    reject_not_a_number,
    sample_seconds,
    threads_that_pay,
)
from autotune.program import Program
from autotune.results import LatencyTable, MeasureSettings, Rejected, RejectReason
from autotune.runtime.session import Tokens
from autotune.sampling import SamplingSettings
from tests.support.figures import latency, target_latency
from tests.support.sessions import VOCAB, PairwiseSession, random_table

SETTINGS = MeasureSettings(context_tokens=12, threads=1, min_time_s=0.0, min_samples=3, warmup_runs=2)
BURSTS = BurstRequest("program", 4, SETTINGS, SamplingSettings())
VERIFICATIONS = TargetRequest("program", "draft", 4, SETTINGS, SamplingSettings())
SAMPLED = SamplingSettings(1.0)


class Clock:
    """A clock that only the measured runs move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self.ran: list[str] = []
        monkeypatch.setattr(measure, "perf_counter", lambda: self.now_s)

    def run(self, name: str, *seconds: float) -> Callable[[], None]:
        """A run that takes these seconds, one after the other and then over again."""
        calls = iter(range(10**6))

        def timed() -> None:
            self.ran.append(name)
            self.now_s += seconds[next(calls) % len(seconds)]

        return timed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_runs_are_warmed_up_and_then_interleaved(clock: Clock) -> None:
    unhurried = replace(SETTINGS, max_time_s=100.0)
    samples = sample_seconds([clock.run("a", 1.0), clock.run("b", 2.0)], unhurried)
    assert "".join(clock.ran) == "aabb" + "ab" * 3
    assert samples == ((1.0,) * 3, (2.0,) * 3)


def test_slow_runs_are_measured_a_few_times_only(clock: Clock) -> None:
    hurried = replace(SETTINGS, max_time_s=15.0, min_samples=20, warmup_runs=5)
    samples = sample_seconds([clock.run("a", 10.0), clock.run("b", 20.0)], hurried)
    assert "".join(clock.ran) == "ab" + "ab" * 3
    assert samples == ((10.0,) * 3, (20.0,) * 3)


def test_every_sample_is_kept(clock: Clock) -> None:
    samples = sample_seconds([clock.run("a", 1.0, 5.0, 2.0)], replace(SETTINGS, min_samples=6, warmup_runs=0))
    assert samples == ((1.0, 5.0, 2.0, 1.0, 5.0, 2.0),)


def test_sampling_goes_on_until_the_time_is_reached_too(clock: Clock) -> None:
    runs = [clock.run("a", 0.5), clock.run("b", 0.25)]
    samples = sample_seconds(runs, replace(SETTINGS, min_time_s=4.0))
    assert [len(each) for each in samples] == [6, 6]


def test_sampling_ends_somewhere_even_if_nothing_takes_time(clock: Clock) -> None:
    samples = sample_seconds([clock.run("a", 0.0)], replace(SETTINGS, min_time_s=1.0))
    assert len(samples[0]) == measure.MAX_SAMPLES


def test_foreign_memory_is_read_before_every_sample_and_never_timed(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Foreign:
        def sum(self) -> None:
            clock.ran.append("-")
            clock.now_s += 1000.0

    sizes: list[int] = []
    monkeypatch.setattr(np, "ones", lambda size: (sizes.append(size), Foreign())[1])
    settings = replace(SETTINGS, evict_bytes=800, warmup_runs=1)
    samples = sample_seconds([clock.run("a", 1.0), clock.run("b", 2.0)], settings)
    assert sizes == [100]
    assert "".join(clock.ran) == "ab" + "-a-b" * 3
    assert samples == ((1.0,) * 3, (2.0,) * 3)


class Spy(PairwiseSession):
    """Writes down what it is asked for, once its cache has been filled."""

    def __init__(self) -> None:
        super().__init__(random_table(0))
        self.bursts: list[tuple[list[int], int, int]] = []
        self.greedies: list[tuple[int, int]] = []

    def burst(self, tokens: Tokens, start: int, count: int) -> list[int]:
        self.bursts.append((list(map(int, tokens)), start, count))
        return super().burst(tokens, start, count)

    def logits(self, tokens: Tokens, start: int) -> np.ndarray:
        self.greedies.append((len(tokens), start))
        return super().logits(tokens, start)


def test_bursts_run_behind_the_context() -> None:
    session = Spy()
    table = measure_bursts(session, BURSTS)
    assert table.largest == 4
    assert table.settings == SETTINGS
    assert all(len(samples) >= 3 and min(samples) > 0 for samples in table.samples_s)
    assert session.greedies[0] == (1, 11)
    assert [count for _, _, count in session.bursts] == [1, 1, *[1, 1, 2, 2, 3, 3, 4, 4], *[1, 2, 3, 4] * 3]
    assert {(len(tokens), start) for tokens, start, _ in session.bursts} == {(1, 11)}


class TwoWays(PairwiseSession):
    """Takes so many milliseconds for a burst, by the way it drafts."""

    def __init__(self, clock: Clock, longest_burst: int, **seconds: float) -> None:
        super().__init__(random_table(0))
        self.program = replace(self.program, longest_burst=longest_burst, drafting=Drafting.CALLS)
        self.drafted: list[tuple[Drafting, int]] = []
        self._clock, self._seconds = clock, seconds

    def burst(self, tokens: Tokens, start: int, count: int) -> list[int]:
        self.drafted.append((self.drafting, count))
        self._clock.now_s += self._seconds[self.drafting.name.lower()] * 1e-3
        return [0] * count


@pytest.mark.parametrize(
    ("calls_s", "burst_s", "expected"),
    [(2.0, 1.0, Drafting.BURST), (1.0, 2.0, Drafting.CALLS), (1.0, 1.0, Drafting.CALLS), (1.01, 1.0, Drafting.CALLS)],
)
def test_the_faster_way_of_drafting_is_measured_and_kept(
    clock: Clock, calls_s: float, burst_s: float, expected: Drafting
) -> None:
    session = TwoWays(clock, 3, calls=calls_s, burst=burst_s)
    table = measure_bursts(session, replace(BURSTS, settings=replace(SETTINGS, max_time_s=1000.0)))
    assert table.drafting is session.drafting is expected
    chosen_s = burst_s if expected is Drafting.BURST else calls_s
    assert [table.seconds(count) for count in range(1, 5)] == pytest.approx([chosen_s * 1e-3] * 4)
    assert session.drafted[:2] == [(Drafting.CALLS, 1)] * 2  # is it slow?
    compared = 2 + 2 * (SETTINGS.warmup_runs + SETTINGS.min_samples)
    assert {count for _, count in session.drafted[2:compared]} == {3}
    assert {way for way, _ in session.drafted[2:compared]} == set(Drafting)
    assert {way for way, _ in session.drafted[compared:]} == {expected}


def test_of_a_slow_draft_a_few_lengths_are_timed_and_its_way_of_drafting_is_not_asked(clock: Clock) -> None:
    class Slow(TwoWays):
        def burst(self, tokens: Tokens, start: int, count: int) -> list[int]:
            self.drafted.append((self.drafting, count))
            clock.now_s += 0.3 * count
            return [0] * count

    session = Slow(clock, 8, calls=0.0, burst=0.0)
    table = measure_bursts(session, replace(BURSTS, max_lookahead=8, settings=MeasureSettings(12, 1)))
    assert table.timed == (1, 4, 8)
    assert [table.seconds(n) for n in range(1, 9)] == pytest.approx([0.3 * n for n in range(1, 9)])
    assert {len(samples) for samples in table.samples_s} == {3}
    assert {way for way, _ in session.drafted} == {Drafting.CALLS}
    assert clock.now_s - 100.0 < 15.0


def test_of_a_slow_target_a_few_lengths_are_timed(clock: Clock) -> None:
    class Slow(PairwiseSession):
        def logits(self, tokens: Tokens, start: int) -> np.ndarray:
            clock.now_s += 0.1 + 0.01 * len(tokens)
            return super().logits(tokens, start)

    table = measure_verifications(Slow(random_table(0)), replace(VERIFICATIONS, max_lookahead=10))
    assert table.timed == (1, 2, 3, 5, 9, 11)
    assert [table.seconds(n) for n in range(1, 12)] == pytest.approx([0.1 + 0.01 * n for n in range(1, 12)])


def test_a_program_without_bursts_is_not_compared(clock: Clock) -> None:
    session = TwoWays(clock, 0, calls=1.0, burst=0.1)
    assert measure_bursts(session, BURSTS).drafting is Drafting.CALLS
    assert {way for way, _ in session.drafted} == {Drafting.CALLS}


def test_verifications_name_no_way_of_drafting() -> None:
    assert measure_verifications(Spy(), VERIFICATIONS).drafting is None


def test_the_burst_job_notes_the_way_of_drafting_in_the_program(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session = TwoWays(clock, 4, calls=2.0, burst=1.0)
    session.program.write(tmp_path)
    monkeypatch.setattr(measure, "open_session", lambda folder, threads: session)
    answer = burst_job(asdict(replace(BURSTS, program=str(tmp_path))))
    assert answer["drafting"] == Drafting.BURST
    assert Program.read(tmp_path).drafting is Drafting.BURST


def test_sampled_bursts_draw_token_by_token() -> None:
    session = Spy()
    measure_bursts(session, replace(BURSTS, sampling=SAMPLED))
    assert not session.bursts
    last_round = session.greedies[-10:]
    assert last_round == [(1, 11 + step) for count in range(1, 5) for step in range(count)]


@pytest.mark.parametrize("sampling", [SamplingSettings(), SAMPLED])
def test_verifications_compute_one_position_more_than_drafted(sampling: SamplingSettings) -> None:
    session = Spy()
    table = measure_verifications(session, replace(VERIFICATIONS, sampling=sampling))
    assert table.largest == 5
    assert session.greedies[0] == (1, 11)
    assert session.greedies[-5:] == [(count, 11) for count in range(1, 6)]


@pytest.mark.parametrize("context_tokens", [1, 2, 12])
def test_the_smallest_contexts_can_be_measured(context_tokens: int) -> None:
    settings = replace(SETTINGS, context_tokens=context_tokens, min_samples=1)
    assert measure_bursts(Spy(), replace(BURSTS, settings=settings)).largest == 4
    verifications = replace(VERIFICATIONS, settings=settings)
    assert measure_verifications(Spy(), verifications).largest == 5
    assert min(measure_overheads(Spy(), Spy(), verifications, step_s=1e-3)) > 0


@pytest.mark.parametrize("sampling", [SamplingSettings(), SAMPLED])
def test_overheads_are_what_a_round_takes_outside_the_models(sampling: SamplingSettings) -> None:
    target, draft = Spy(), Spy()
    overhead_s, plain_overhead_s = measure_overheads(
        target, draft, replace(VERIFICATIONS, sampling=sampling), step_s=1e-3
    )
    assert 0 < plain_overhead_s < 0.01
    assert 0 < overhead_s < 0.01
    assert draft.greedies


class Broken(PairwiseSession):
    """Gives a few logits that are not finite."""

    def __init__(self, value: float) -> None:
        super().__init__(random_table(0))
        self.value = value

    def logits(self, tokens: Tokens, start: int) -> np.ndarray:
        logits = super().logits(tokens, start).copy()
        logits[-1, 3] = self.value
        return logits


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_program_whose_logits_are_not_finite_is_rejected(value: float) -> None:
    share = f"{1 / (16 * VOCAB):.1%}"
    with pytest.raises(CandidateRejected, match=f"{share} of the compiled program's logits are not finite") as caught:
        reject_not_a_number(Broken(value), seed=0)
    assert caught.value.reason is RejectReason.NOT_A_NUMBER


def test_a_sound_program_is_not_rejected() -> None:
    session = Spy()
    reject_not_a_number(session, seed=0)
    assert session.greedies == [(16, 0)]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, int]]:
    """The programs a job has opened, with their threads."""
    calls: list[tuple[Path, int]] = []

    def open_session(folder: Path, threads: int) -> PairwiseSession:
        calls.append((folder, threads))
        return Broken(np.nan) if folder.name == "broken" else Spy()

    monkeypatch.setattr(measure, "open_session", open_session)
    return calls


def test_the_burst_job_speaks_json(opened: list[tuple[Path, int]]) -> None:
    answer = burst_job(asdict(replace(BURSTS, settings=replace(SETTINGS, threads=2))))
    assert opened == [(Path("program"), 2)]
    assert TypeAdapter(LatencyTable).validate_python(answer).largest == 4


@pytest.mark.usefixtures("opened")
def test_the_burst_job_rejects_a_broken_program_before_it_is_measured() -> None:
    with pytest.raises(CandidateRejected):
        burst_job(asdict(replace(BURSTS, program="broken")))


def test_the_target_job_speaks_json(opened: list[tuple[Path, int]]) -> None:
    answer = measure.target_job(asdict(VERIFICATIONS))
    assert opened == [(Path("program"), 1), (Path("draft"), 1)]
    assert set(answer) == {"verify", "overhead_s", "plain_overhead_s", "date", "source", "by_context", "backend"}
    assert len(answer["verify"]["samples_s"]) == 5


def test_jobs_run_in_a_sandbox_with_their_threads_limits_and_lock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limits, lock = Limits(time_s=3.0), FileLock(tmp_path / "lock")
    bursts, target = latency(0.001, 0.002), target_latency()
    answers = {
        "autotune.measure:burst_job": measure._dump(bursts),
        "autotune.measure:target_job": measure._dump(target),
    }

    def sandbox(entry: str, request: Mapping[str, Any], phase: Phase, *given: object, **named: object) -> object:
        assert request["settings"]["threads"] == 1
        assert phase is Phase.RUN
        assert given == (limits,)
        assert named == {"threads": 1, "lock": lock}
        return answers[entry]

    monkeypatch.setattr(measure, "run_sandboxed", sandbox)
    assert measure_bursts_sandboxed(BURSTS, limits, lock) == bursts
    assert measure_target_sandboxed(VERIFICATIONS, limits, lock) == target
    rejected = Rejected(RejectReason.RUN_TIMEOUT, "killed after 3 s", "…")
    answers = dict.fromkeys(answers, rejected)
    assert measure_bursts_sandboxed(BURSTS, limits, lock) is rejected
    assert measure_target_sandboxed(VERIFICATIONS, limits, lock) is rejected


def test_more_steps_take_longer_on_a_session_whose_cost_is_its_steps(clock: Clock) -> None:
    class Costly(PairwiseSession):
        def logits(self, tokens: Tokens, start: int) -> np.ndarray:
            clock.now_s += 0.001 * len(tokens)
            return super().logits(tokens, start)

    table = measure_bursts(Costly(random_table(0)), BURSTS)
    seconds = [table.seconds(n) for n in range(1, 5)]
    assert seconds == pytest.approx([0.001, 0.002, 0.003, 0.004])
    assert all(before < after for before, after in pairwise(seconds))


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [({1: 1.0}, 1), ({1: 1.0, 2: 0.95}, 1), ({1: 1.0, 2: 0.6, 4: 0.58}, 2), ({2: 1.0, 4: 0.5, 8: 0.2}, 8)],
)
def test_more_threads_must_pay_clearly(seconds: dict[int, float], chosen: int) -> None:
    assert threads_that_pay(seconds) == chosen
