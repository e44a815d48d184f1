"""How long a compiled program takes: the measuring protocol, and the jobs that run it in a sandboxed worker.

Every sample is: read foreign memory of the device (see `MeasureSettings.evict_bytes`), start the clock, run, stop the
clock.  Runs for n = 1 … N are interleaved round robin, so that a machine that changes speed changes all of them alike.
Sessions return only when their results are in host memory, which synchronises the device on both sides of the clock.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from filelock import FileLock
from pydantic import TypeAdapter

from autotune.candidate import Drafting
from autotune.compile.sandbox import CandidateRejected, Limits, Phase, run_sandboxed
from autotune.cuda_driver import CudaDriver
from autotune.devices import find_device
from autotune.extrapolation import fill_between, lengths_to_time
from autotune.results import LatencyTable, MeasureSettings, Rejected, RejectReason, TargetLatency
from autotune.runtime.decode import Decoder, DecodeRequest, Statistics
from autotune.runtime.drafter import ModelDrafter, Proposal
from autotune.runtime.session import SampledBurst, Session, open_session
from autotune.runtime.speculate import verify_greedy, verify_sampled
from autotune.sampling import SamplingSettings

SLOW_STEP_S = 0.03
"""Where one step takes longer, not every length is timed (see `autotune.extrapolation.lengths_to_time`)."""
THREAD_GAIN = 0.9
"""More threads are taken only if they cut a step's time below this share."""
MAX_SAMPLES = 400
"""More would tell no more; for the shortest bursts, reading foreign memory between samples takes most of the time."""
BURST_MARGIN = 1.05
"""How many times faster than calls a burst in one program must be to be chosen: below that, the two are level within
the noise of a measurement, and calls need neither the memory nor the loading time of the further programs."""
_FEWEST_SAMPLES = 3
_SLOW_MAX_TIME_S = 10.0
"""Bursts of slow drafts are sampled for this long, or three times each."""
_OVERHEAD_TOKENS, _FEWEST_OVERHEAD_TOKENS = 48, 4
_OVERHEAD_TIME_S = 0.5
_OVERHEAD_REPEATS = 5


@dataclass(frozen=True)
class BurstRequest:
    """Measure bursts of 1 … `max_lookahead` steps of a draft program."""

    program: str
    max_lookahead: int
    settings: MeasureSettings
    sampling: SamplingSettings
    seed: int = 0


@dataclass(frozen=True)
class TargetRequest:
    """Measure verifications of 1 … `max_lookahead` + 1 positions, and the loop around a small draft program."""

    program: str
    small_draft: str
    max_lookahead: int
    settings: MeasureSettings
    sampling: SamplingSettings
    seed: int = 0


def sample_seconds(
    runs: Sequence[Callable[[], object]],
    settings: MeasureSettings,
    device: str = "cpu",
    before: Sequence[Callable[[], object]] | None = None,
) -> tuple[tuple[float, ...], ...]:
    """Seconds of every sample of every run, interleaved until `min_time_s` and `min_samples` are both reached.

    before: what really precedes each run, to be run untimed in place of the read of foreign memory that stands for it.
    """
    preceding = before or [foreign_reader(device, settings.evict_bytes)] * len(runs)
    for run in runs:
        _warm_up(run, settings, settings.max_time_s / (4 * len(runs)))
    samples: list[list[float]] = [[] for _ in runs]
    measured_s = 0.0
    while len(samples[0]) < MAX_SAMPLES:
        for run, precede, seconds in zip(runs, preceding, samples, strict=True):
            precede()
            began = perf_counter()
            run()
            seconds.append(perf_counter() - began)
            measured_s += seconds[-1]
        count = len(samples[0])
        if measured_s >= settings.min_time_s and count >= settings.min_samples:
            break
        if measured_s >= settings.max_time_s and count >= _FEWEST_SAMPLES:
            break
    return tuple(tuple(seconds) for seconds in samples)


def foreign_reader(device: str, size_bytes: int) -> Callable[[], object]:
    """A function that passes that much memory of no other use through the device's caches, and waits for it."""
    if device == "cuda" and size_bytes:
        return CudaDriver().copier(-(-size_bytes // 2)).copy  # a copy reads one half and writes the other
    return np.ones(size_bytes // 8).sum


def _warm_up(run: Callable[[], object], settings: MeasureSettings, most_s: float) -> None:
    """Run a few times, or until `most_s` is over."""
    began = perf_counter()
    for _ in range(settings.warmup_runs):
        run()
        if perf_counter() - began > most_s:
            return


def measure_bursts(session: Session, request: BurstRequest) -> LatencyTable:
    """Latency of bursts of 1 … `max_lookahead` draft steps behind `context_tokens` cached positions.

    They are drafted the faster way, which the table names and the session keeps.
    """
    context = _fill(session, request.settings.context_tokens, request.seed)
    position = len(context) - 1
    rng = np.random.default_rng(request.seed)

    def burst(count: int) -> Callable[[], object]:
        if request.sampling.greedy:
            return lambda: session.burst(context[-1:], position, count)
        noise = rng.random(count).tolist()
        return lambda: session.sampled_burst(context[-1:], position, count, request.sampling, noise)

    session.drafting, device = Drafting.CALLS, find_device(session.program.device)
    if is_slow(burst(1)):
        # Calls cost a slow draft next to nothing: whether it drafts in one program need not be asked.
        largest = request.max_lookahead
        timed = tuple(sorted({1, (largest + 1) // 2, largest}))
        brief = replace(request.settings, warmup_runs=0, max_time_s=min(request.settings.max_time_s, _SLOW_MAX_TIME_S))
        rounds = sample_seconds([burst(count) for count in timed], brief, session.program.device)
        samples_s = fill_between(dict(zip(timed, rounds, strict=True)), largest)
        return LatencyTable(
            samples_s, request.settings, device.fingerprint, drafting=session.drafting, timed=_noted(timed, largest)
        )
    longest = min(session.program.longest_burst, request.max_lookahead)
    session.drafting = _faster(session, burst(longest), request.settings) if longest else Drafting.CALLS
    runs = [burst(count) for count in range(1, request.max_lookahead + 1)]
    measure = sample_seconds if session.drafting is Drafting.CALLS else _one_after_the_other
    samples_s = measure(runs, request.settings)
    return LatencyTable(samples_s, request.settings, device.fingerprint, drafting=session.drafting)


def is_slow(step: Callable[[], object]) -> bool:
    """Whether a step takes longer than `SLOW_STEP_S`, even the faster of two; leaves the program warm."""
    seconds = []
    for _ in range(2):
        began = perf_counter()
        step()
        seconds.append(perf_counter() - began)
    return min(seconds) > SLOW_STEP_S


def threads_that_pay(seconds: Mapping[int, float]) -> int:
    """The number of threads to take, of those whose step takes these seconds: more only if they pay clearly."""
    chosen = min(seconds)
    for count in sorted(seconds):
        if seconds[count] < THREAD_GAIN * seconds[chosen]:
            chosen = count
    return chosen


def _noted(timed: tuple[int, ...], largest: int) -> tuple[int, ...] | None:
    """The lengths timed as a table says them: None if they are all there are."""
    return None if len(timed) == largest else timed


def _one_after_the_other(
    runs: Sequence[Callable[[], object]], settings: MeasureSettings
) -> tuple[tuple[float, ...], ...]:
    """As `sample_seconds`, but all samples of one run before those of the next.

    Bursts of every length may be programs with their own copies of the weights.  A pair uses one length; taking turns
    with the others, it would find its weights driven out of the caches by theirs.
    """
    part = replace(settings, min_time_s=settings.min_time_s / len(runs), max_time_s=settings.max_time_s / len(runs))
    return tuple(sample_seconds([run], part)[0] for run in runs)


def _faster(session: Session, draft: Callable[[], object], settings: MeasureSettings) -> Drafting:
    """The faster way to `draft`, both timed in turn; calls unless one program beats them by `BURST_MARGIN`."""

    def drafting(way: Drafting) -> Callable[[], object]:
        def run() -> None:
            session.drafting = way
            draft()

        return run

    calls_s, bursts_s = sample_seconds([drafting(Drafting.CALLS), drafting(Drafting.BURST)], settings)
    ratio = np.median([call_s / burst_s for call_s, burst_s in zip(calls_s, bursts_s, strict=True)])
    return Drafting.BURST if ratio > BURST_MARGIN else Drafting.CALLS


def measure_verifications(session: Session, request: TargetRequest) -> LatencyTable:
    """Latency of verifying 1 … `max_lookahead` + 1 positions, the comparison with the drafted tokens included."""
    settings, device = request.settings, session.program.device
    runs = verifications(session, request.max_lookahead, settings.context_tokens, request.sampling, request.seed)
    largest = len(runs)
    timed = lengths_to_time(largest) if is_slow(runs[0]) else tuple(range(1, largest + 1))
    rounds = sample_seconds([runs[n - 1] for n in timed], settings, device)
    samples_s = fill_between(dict(zip(timed, rounds, strict=True)), largest)
    return LatencyTable(samples_s, settings, find_device(device).fingerprint, timed=_noted(timed, largest))


def verifications(
    session: Session, max_lookahead: int, context_tokens: int, sampling: SamplingSettings, seed: int
) -> list[Callable[[], object]]:
    """Calls that verify 0 … `max_lookahead` drafted tokens behind that many cached positions.

    Greedy ones verify random tokens.  Sampled ones verify what the target itself would say and keep all of it, which
    takes longest: behind a rejected token, no probabilities are computed.
    """
    context = _fill(session, context_tokens, seed)
    position = len(context) - 1
    vocab = session.program.shape.vocab
    rng = np.random.default_rng(seed)
    if sampling.greedy or not max_lookahead:
        likely = rng.integers(vocab, size=max_lookahead).tolist()
    else:
        likely = session.burst(context[-1:], position, max_lookahead)

    def verify(drafted: list[int]) -> Callable[[], object]:
        if sampling.greedy:
            return lambda: verify_greedy(session, context[-1], drafted, position)
        burst = SampledBurst(drafted, [0.0] * len(drafted), lambda _: np.zeros(vocab))
        proposal = Proposal(drafted, burst)
        return lambda: verify_sampled(session, context[-1], proposal, position, sampling, rng)

    return [verify(likely[:count]) for count in range(max_lookahead + 1)]


def measure_overheads(target: Session, draft: Session, request: TargetRequest, step_s: float) -> tuple[float, float]:
    """Seconds outside the models: per speculative round, and per step of the target alone (medians of repeats).

    `step_s`: about what one step of the target takes; a slow target decodes fewer tokens.
    """
    lookahead = min(4, request.max_lookahead)
    tokens = int(np.clip(_OVERHEAD_TIME_S / step_s, _FEWEST_OVERHEAD_TOKENS, _OVERHEAD_TOKENS))
    prompt = _tokens(request.settings.context_tokens // 2 + 1, target.program.shape.vocab, request.seed)
    decode = DecodeRequest(prompt, tokens, request.sampling, request.seed)

    def per_round(decoder: Decoder) -> float:
        repeats: list[Statistics] = [decoder.decode(decode)[1] for _ in range(_OVERHEAD_REPEATS)]
        return float(np.median([statistics.overhead_s / statistics.rounds for statistics in repeats]))

    return per_round(Decoder(target, ModelDrafter(draft), lookahead)), per_round(Decoder(target, None, 0))


def measure_bursts_sandboxed(request: BurstRequest, limits: Limits, lock: FileLock) -> LatencyTable | Rejected:
    """A draft program's burst latencies, measured in a worker that may hang or crash."""
    outcome = _run("burst_job", request, request.settings.threads, limits, lock)
    return outcome if isinstance(outcome, Rejected) else TypeAdapter(LatencyTable).validate_python(outcome)


def measure_target_sandboxed(request: TargetRequest, limits: Limits, lock: FileLock) -> TargetLatency | Rejected:
    """A target program's side of a round, measured in a worker that may hang or crash."""
    outcome = _run("target_job", request, request.settings.threads, limits, lock)
    return outcome if isinstance(outcome, Rejected) else TypeAdapter(TargetLatency).validate_python(outcome)


def burst_job(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sandbox entry: a `BurstRequest` as JSON to a `LatencyTable` as JSON; rejects programs that yield NaN.

    The faster way of drafting is noted in the program.
    """
    parsed = TypeAdapter(BurstRequest).validate_python(request)
    session = open_session(Path(parsed.program), parsed.settings.threads)
    reject_not_a_number(session, parsed.seed)
    table = measure_bursts(session, parsed)
    if session.program.drafting is not session.drafting:
        session.program.draft_by(session.drafting, Path(parsed.program))
    return _dump(table)


def target_job(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sandbox entry: a `TargetRequest` as JSON to a `TargetLatency` as JSON."""
    parsed = TypeAdapter(TargetRequest).validate_python(request)
    target = open_session(Path(parsed.program), parsed.settings.threads)
    draft = open_session(Path(parsed.small_draft), parsed.settings.threads)
    verify = measure_verifications(target, parsed)
    overhead_s, plain_overhead_s = measure_overheads(target, draft, parsed, verify.seconds(1))
    return _dump(TargetLatency(verify, overhead_s, plain_overhead_s))


def reject_not_a_number(session: Session, seed: int) -> None:
    """Reject a program whose logits for a few random tokens are not all finite."""
    count = min(16, session.program.capacity_tokens)
    logits = session.logits(_tokens(count, session.program.shape.vocab, seed), 0)
    if not np.isfinite(logits).all():
        share = 1 - float(np.isfinite(logits).mean())
        raise CandidateRejected(
            RejectReason.NOT_A_NUMBER, f"{share:.1%} of the compiled program's logits are not finite"
        )


def _run(
    job: str, request: BurstRequest | TargetRequest, threads: int, limits: Limits, lock: FileLock
) -> object | Rejected:
    return run_sandboxed(f"{__name__}:{job}", asdict(request), Phase.RUN, limits, threads=threads, lock=lock)


def _fill(session: Session, count: int, seed: int) -> list[int]:
    """Random tokens, all but the last taken for cached: a large program would take minutes to compute them."""
    tokens = _tokens(count, session.program.shape.vocab, seed)
    session.pretend_cached(len(tokens) - 1)
    return tokens


def _tokens(count: int, vocab: int, seed: int) -> list[int]:
    drawn: list[int] = np.random.default_rng(seed).integers(vocab, size=max(count, 1)).tolist()
    return drawn


def _dump(value: LatencyTable | TargetLatency) -> Mapping[str, Any]:
    dumped: Mapping[str, Any] = TypeAdapter(type(value)).dump_python(value, mode="json")
    return dumped
