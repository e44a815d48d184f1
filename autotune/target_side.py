"""The target's side of a round: measured with its own program, extrapolated from slices of it, or the user's table."""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from autotune.cache import cached_folder, content_key, source_hashes
from autotune.candidate import DraftShape, Precision
from autotune.collective import tensor_parallel
from autotune.compile.base import CompileSettings, build_program
from autotune.compile.sandbox import Limits
from autotune.config import TuneConfig
from autotune.database.known import TuningDatabase, fresh
from autotune.database.subjects import TargetSubject, latency_versions
from autotune.devices import Device, device_lock
from autotune.errors import AutotuneError
from autotune.evaluate import WorkerLimits
from autotune.measure import TargetRequest, measure_target_sandboxed, threads_that_pay
from autotune.programs import compile_target
from autotune.progress import Observer
from autotune.request import Request
from autotune.results import MeasureSettings, Rejected, RejectReason, RunKind, TargetLatency
from autotune.score import least_s_per_token
from autotune.slices import SliceRequest, extrapolate_target
from autotune.store import RunFolder
from autotune.weights import random_weights

MOST_EVICT_BYTES = 256 << 20
"""Reading more than any cache holds would only cost memory and time."""
_USUAL_CONTEXT_TOKENS = 128
_TARGET_MIN_TIME_S = 1.5
_KEPT, _COST = 0.7, 0.1
"""Share of a draft's tokens that is kept, and steps of the target that one takes: as drafts usually have it, supposed
before any is known."""
_THREAD_ROUNDS = 3
_THREAD_MIN_TIME_S = 0.2


@dataclass(frozen=True)
class TargetSide:
    """What rounds need of the target."""

    latency: TargetLatency
    program: Path | None
    """Its compiled program; None where its weights are not here."""
    backend: str
    """The compiler it is measured with."""


def prepare_target(
    request: Request, folder: RunFolder, limits: WorkerLimits, database: TuningDatabase | None, observer: Observer
) -> TargetSide:
    """The target's side of a request; a resumed run goes on with the compiler and the latencies it began with."""
    known = folder.read_latency()
    if known is not None and known.backend is not None:
        request = replace(request, target_backends=(known.backend,))
    if request.kind is RunKind.WHOLE:
        side = _fastest(request, known, limits, database, observer)
    else:
        side = TargetSide(known or _elsewhere(request, limits, database, observer), None, request.target_backend)
    if known is None:
        folder.write_latency(side.latency)
    _tell(request, side, observer)
    return side


def _fastest(
    request: Request,
    known: TargetLatency | None,
    limits: WorkerLimits,
    database: TuningDatabase | None,
    observer: Observer,
) -> TargetSide:
    """The target as compiled by the compiler with which a token takes least, alone or drafted; some may fail.

    The drafts are not known yet, so usual ones are supposed (`_KEPT`, `_COST`).
    """
    _tell_precision(request, observer)
    sides, failure = [], None
    for backend in request.target_backends:
        candidate = replace(request, target_backends=(backend,))
        try:
            observer.phase(f"Compiling the target with {backend}")
            program = compile_target(
                request.whole_target,
                backend,
                request.context_tokens,
                device=request.device.kind,
                precision=request.target_precision,
            )
            if known is None:
                observer.phase(f"Measuring the target compiled by {backend}")
            latency = known or target_latency(candidate, program, limits.run, database)
        except AutotuneError as error:
            failure = error
            observer.note(f"{backend} drops out as the target's compiler: {error}")
            continue
        sides.append(TargetSide(latency, program, backend))
    if not sides:
        assert failure is not None
        raise failure
    least_s = {side.backend: least_s_per_token(side.latency, _KEPT, _COST) for side in sides}
    chosen = min(sides, key=lambda side: least_s[side.backend])
    for side in sides:
        if side is not chosen:
            observer.note(
                f"{chosen.backend} compiles the target: with {side.backend} a token would take "
                f"{least_s[side.backend] / least_s[chosen.backend]:.2f} times as long beside a usual draft or alone, "
                f"and a step of the target alone takes {side.latency.step_s / chosen.latency.step_s:.2f} times"
            )
    return chosen


def _tell_precision(request: Request, observer: Observer) -> None:
    if request.target_precision is not Precision.FP32:
        because = (
            "as asked"
            if request.config.target_precision
            else f"{request.target_backend} has no fp32 on {request.device.kind}"
        )
        observer.note(
            f"the target is compiled in {request.target_precision} ({because}): the pair's output is that program's"
        )


def _elsewhere(
    request: Request, limits: WorkerLimits, database: TuningDatabase | None, observer: Observer
) -> TargetLatency:
    """The latency of a target whose weights are not here."""
    if request.table is not None:
        return request.table
    observer.phase("Measuring slices of the target")
    return sliced_latency(request, limits, database, observer)


def _tell(request: Request, side: TargetSide, observer: Observer) -> None:
    latency = side.latency
    threads = latency.verify.settings.threads
    computing = f"{threads} thread{'s' if threads > 1 else ''}" if request.device.kind == "cpu" else request.device.name
    if request.latency_source == "table":
        computing = latency.verify.device
    bar = latency.verify.error_bar(1)
    between = f" ({bar[0] * 1e3:.3f} … {bar[1] * 1e3:.3f})" if bar else ""
    known = f" (tuning database, {latency.date})" if latency.date else ""
    source = f"; {latency.source}" if latency.source else ""
    observer.note(f"{computing}: {latency.step_s * 1e3:.3f} ms{between} a token without a draft{known}{source}")


def sliced_latency(
    request: Request,
    limits: WorkerLimits,
    database: TuningDatabase | None,
    observer: Observer,
    positions: int | None = None,
) -> TargetLatency:
    """The latency of a target whose weights are not here, extrapolated from slices of its true dimensions.

    positions: the longest verification; that of the run's largest lookahead if None.
    """
    config = request.config
    positions = positions or request.space.max_lookahead + 1
    asked = SliceRequest(
        backend=request.target_backend,
        precision=request.target_precision,
        device=request.device.kind,
        max_lookahead=positions - 1,
        measuring=target_measuring(request),
        sampling=config.sampling,
        thread_counts=thread_counts(config, request.device),
        parallel=tensor_parallel(
            config.target_tp,
            config.collective_latency,
            device=request.device.kind,
            hidden=request.target.shape.hidden,
            positions=positions,
        ),
        seed=config.seed,
    )
    outcome = extrapolate_target(
        request.target.shape,
        request.target.numerics,
        asked,
        build_limits=limits.build,
        run_limits=limits.run,
        database=database,
        on_progress=observer.progress,
    )
    if isinstance(outcome, Rejected):
        hint = "" if outcome.reason is RejectReason.OUT_OF_MEMORY else "; give its latencies with --target-latency"
        raise AutotuneError(f"slices of the target cannot be measured: {outcome.reason.value}, {outcome.detail}{hint}")
    return outcome


def target_latency(request: Request, program: Path, limits: Limits, database: TuningDatabase | None) -> TargetLatency:
    """The target's side of a round with the threads that suit it best, from the database or measured now.

    The target's latencies belong into the database for the sake of the drafts': a score divides one by the other, so
    a search that knows its drafts from an hour when the machine was slow must know the target from that hour too.
    And only equal scores lead the sampler along the same way, to builds that are known.
    """

    def measure() -> TargetLatency | Rejected:
        threads = choose_threads(request, program, settings, limits)
        return measure_target(request, program, replace(settings, threads=threads), limits)

    settings = target_measuring(request)
    if database is None:
        outcome = fresh(measure())
    else:
        subject = TargetSubject(
            target=request.whole_target.fingerprint,
            shape=request.target.shape,
            backend=request.target_backend,
            precision=request.target_precision,
            device=request.device.fingerprint,
            capacity_tokens=request.context_tokens,
            max_lookahead=request.space.max_lookahead,
            small_draft=request.space.smallest,
            thread_counts=thread_counts(request.config, request.device),
            measuring=settings,
            sampling=request.config.sampling,
            versions=latency_versions(request.target_backend),
        )
        outcome = database.recall(subject, TargetLatency, measure)
    if isinstance(outcome, Rejected):
        raise AutotuneError(
            f"the target cannot be measured: {outcome.reason.value}, {outcome.detail}; see --run-timeout"
        )
    return replace(outcome.value, date=outcome.date, backend=request.target_backend)


def measure_target(
    request: Request, program: Path, settings: MeasureSettings, limits: Limits
) -> TargetLatency | Rejected:
    """The target's side of a round, with the number of threads that the settings say."""
    asked = TargetRequest(
        program=str(program),
        small_draft=str(_smallest_draft(request)),
        max_lookahead=request.space.max_lookahead,
        settings=settings,
        sampling=request.config.sampling,
        seed=request.config.seed,
    )
    return measure_target_sandboxed(asked, limits, device_lock(request.device.kind))


def choose_threads(request: Request, program: Path, settings: MeasureSettings, limits: Limits) -> int:
    """The number of threads that makes the target's step fastest; more are taken only if they pay clearly.

    The candidates are measured in turn, several times over (A B A B), and judged by their medians.  Those that cannot
    be measured are left out; AutotuneError if none can.
    """
    counts = thread_counts(request.config, request.device)
    if len(counts) == 1:
        return counts[0]
    steps_s: dict[int, list[float]] = {count: [] for count in counts}
    failure: Rejected | None = None
    for _ in range(_THREAD_ROUNDS):
        for count in counts:
            brief = replace(settings, threads=count, min_time_s=_THREAD_MIN_TIME_S)
            measured = measure_target(request, program, brief, limits)
            if isinstance(measured, Rejected):
                failure = measured
            else:
                steps_s[count].append(measured.step_s)
    medians = {count: median(samples) for count, samples in steps_s.items() if samples}
    if not medians:
        raise AutotuneError(
            f"the target cannot be measured: {failure.detail if failure else 'no samples'}; see --run-timeout"
        )
    return threads_that_pay(medians)


def target_measuring(request: Request) -> MeasureSettings:
    """How the target is measured: in the middle of a usual text, or at the end of `--context`,
    and with a draft's bytes read between its runs."""
    context = request.context_tokens - request.space.max_lookahead - 1  # where the longest verification still fits
    if request.config.context is None:
        context = min(_USUAL_CONTEXT_TOKENS, context)
    foreign_bytes = _evict_bytes(request.space.smallest, request.target_precision)
    # Measured once and divided by in every score: worth more time than a draft's latencies.
    return MeasureSettings(context_tokens=context, threads=1, evict_bytes=foreign_bytes, min_time_s=_TARGET_MIN_TIME_S)


def draft_measuring(request: Request, latency: TargetLatency) -> MeasureSettings:
    """How drafts are measured: as the target was, but behind a read of as many bytes as the target's weights."""
    evict_bytes = _evict_bytes(request.target.shape, request.target_precision)
    if request.latency_source == "table":  # its threads and context are another machine's
        return replace(
            target_measuring(request),
            threads=request.config.threads or 1,
            evict_bytes=evict_bytes,
            min_time_s=MeasureSettings.min_time_s,
        )
    settings = latency.verify.settings
    return MeasureSettings(settings.context_tokens, settings.threads, evict_bytes=evict_bytes)


def _evict_bytes(shape: DraftShape, precision: Precision) -> int:
    return min(int(shape.decode_parameters * precision.weight_bytes), MOST_EVICT_BYTES)


def thread_counts(config: TuneConfig, device: Device) -> tuple[int, ...]:
    """Thread counts worth trying: what the user fixed, or powers of two up to the cores.

    A GPU computes by itself; the host's thread only starts its kernels.
    """
    if config.threads is not None:
        return (config.threads,)
    if device.kind != "cpu":
        return (1,)
    counts = {1 << power for power in range(device.cores.bit_length())} | {device.cores}
    return tuple(sorted(count for count in counts if count <= device.cores))


def _smallest_draft(request: Request) -> Path:
    """A program of the space's smallest shape with random weights, to measure the decoding loop with."""
    smallest = request.space.smallest
    backend = request.target_backend
    settings = CompileSettings(request.target_precision, request.context_tokens, request.device.kind)
    key = content_key(
        vars(smallest),
        vars(request.target.numerics),
        backend,
        request.device.fingerprint,
        vars(settings),
        source_hashes("autotune.compile"),
    )

    def make(folder: Path) -> None:
        build_program(backend, random_weights(smallest, request.target.numerics), settings, folder)

    return cached_folder("small-drafts", key, make)
