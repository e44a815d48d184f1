"""Everything a run needs before the first trial: models, device, traces, the target's latency, the proxy."""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import psutil

from autotune.backends import check_kernel_tuning, with_usable_backends
from autotune.cache import cache_root, cached_folder, content_key, source_hashes
from autotune.candidate import DraftShape, Precision
from autotune.compile.base import CompileSettings, build_program, load_backend
from autotune.compile.sandbox import Limits
from autotune.config import TuneConfig
from autotune.database.known import TuningDatabase, fresh
from autotune.database.subjects import TargetSubject, latency_versions
from autotune.devices import Device, device_lock, find_device
from autotune.errors import AutotuneError, BadRequest
from autotune.evaluate import Evaluator, WorkerLimits
from autotune.measure import TargetRequest, measure_target_sandboxed
from autotune.memory import check_memory, source_bytes
from autotune.precisions import draft_precisions, target_precision
from autotune.programs import compile_target
from autotune.progress import Observer
from autotune.proxy.base import Axes, Estimator, Preparation, prepare_estimator
from autotune.proxy.parts import budget_tokens, mean_parameters, training_steps
from autotune.recording import Recorder, WorkloadTraces, workload_key
from autotune.results import MeasureSettings, Rejected, TargetLatency
from autotune.runtime.session import open_session
from autotune.search_space.constraints import Constraints
from autotune.search_space.space import SearchSpace, make_space
from autotune.store import RunFolder
from autotune.targets import Target, check_same_tokenizer, resolve_target
from autotune.traces import Traces
from autotune.vocabulary import TrimmingEstimator, check_draft_vocabularies, rank_tokens
from autotune.weights import random_weights

MOST_CONTEXT_TOKENS = 4096
"""Programs are compiled for the target's context, but for no more than this: their caches are preallocated."""
MOST_EVICT_BYTES = 256 << 20
"""Reading more than any cache holds would only cost memory and time."""
TRACED_SHARE = 0.1
"""Distinct continuation tokens to record for training, as a share of the training tokens."""
_USUAL_CONTEXT_TOKENS = 128
_TARGET_MIN_TIME_S = 1.5
_THREAD_ROUNDS = 3
_THREAD_MIN_TIME_S = 0.2
_THREAD_GAIN = 0.9
"""More threads are taken only if they cut a step's time below this share."""


@dataclass(frozen=True)
class Request:
    """A configuration resolved against this machine: models, device and space exist and fit each other."""

    config: TuneConfig
    target: Target
    source: Target
    device: Device
    space: SearchSpace
    context_tokens: int
    workload: str
    """Content key of the prompts or traces."""
    precision: tuple[Precision, ...]
    """Of drafts."""
    target_precision: Precision

    @property
    def training_threads(self) -> int:
        """Threads for training: what the user fixed, or one, so that equal runs train equal weights on any machine."""
        return self.config.threads or 1

    def identity(self) -> dict[str, object]:
        """What makes it this run and no other; budgets may change when a run is resumed."""
        free = {
            "out",
            "trials",
            "time_budget",
            "resume",
            "download",
            "validate_top",
            "finish",
            "tune_kernels",
            "worker_memory",
            "database",
        }
        asked = self.config.model_dump(mode="json", exclude=free)
        return asked | {
            "target_fingerprint": self.target.fingerprint,
            "source_fingerprint": self.source.fingerprint,
            "device_fingerprint": self.device.fingerprint,
            "workload": self.workload,
            "precision": [precision.value for precision in self.precision],
            "target_precision": self.target_precision.value,
        }


@dataclass(frozen=True)
class Workbench:
    """A request with everything measured and trained that its trials have in common."""

    request: Request
    program: Path
    """The target's compiled program."""
    traces: WorkloadTraces
    latency: TargetLatency
    estimator: TrimmingEstimator
    evaluator: Evaluator

    @property
    def threads(self) -> int:
        """Threads of every program of this run."""
        return self.latency.verify.settings.threads


def resolve(config: TuneConfig) -> Request:
    """The request behind a configuration; what can be refused is refused here, before anything is written."""
    device = find_device(config.device)
    config = with_usable_backends(config, device.kind)
    check_kernel_tuning(config)
    supported = {name: load_backend(name, device.kind).precisions(device.kind) for name in config.backend}
    precision = draft_precisions(config.precision, device.kind, supported)
    exact = target_precision(config.target_precision, device.kind, supported)
    target = resolve_target(config.target, download=config.download)
    source = target if config.source is None else resolve_target(config.source, download=config.download)
    if source != target:
        check_same_tokenizer(target, source)
    space = make_space(source.shape, config.ranges, config.backend, precision, supported)
    context = min(target.numerics.context_tokens, source.numerics.context_tokens, MOST_CONTEXT_TOKENS)
    if space.max_lookahead + 2 > context:
        raise BadRequest(f"--lookahead {config.lookahead}: such bursts do not fit into the context of {context} tokens")
    check_draft_vocabularies(space.draft_vocab.values, target.eos_ids)
    _check_budgets(config, source.shape, search_axes(space))
    workload = workload_key(
        target, config.sampling, config.prompts, config.traces, context_tokens=context, seed=config.seed
    )
    return Request(config, target, source, device, space, context, workload, precision, exact)


def prepare(request: Request, folder: RunFolder, observer: Observer) -> Workbench:
    """The workbench of a request; a resumed run goes on with the target's latencies it began with."""
    config, target = request.config, request.target
    observer.phase("Compiling the target")
    if request.target_precision is not Precision.FP32:
        because = "as asked" if config.target_precision else f"{config.backend[0]} has no fp32 on {request.device.kind}"
        observer.note(
            f"the target is compiled in {request.target_precision} ({because}): the pair's output is that program's"
        )
    program = compile_target(
        target,
        config.backend[0],
        request.context_tokens,
        device=request.device.kind,
        precision=request.target_precision,
    )
    limits = worker_limits(config)
    database = TuningDatabase() if config.database else None
    latency = folder.read_latency()
    if latency is None:
        observer.phase("Measuring the target")
        latency = target_latency(request, program, limits.run, database)
        folder.write_latency(latency)
    threads = latency.verify.settings.threads
    computing = f"{threads} thread{'s' if threads > 1 else ''}" if request.device.kind == "cpu" else request.device.name
    known = f" (tuning database, {latency.date})" if latency.date else ""
    observer.note(f"{computing}: {latency.step_s * 1e3:.3f} ms a token without a draft{known}")
    observer.phase("Recording the target's traces")
    traces = record_workload(request, program, threads, observer)
    vocabulary = rank_tokens(traces.train, target.shape.vocab, target.eos_ids)
    estimator = TrimmingEstimator(train_estimator(request, traces.train, observer), vocabulary)
    evaluator = Evaluator(
        estimator=estimator,
        traces=traces.estimate,
        target=latency,
        constraints=Constraints(
            context_tokens=request.context_tokens,
            max_memory_bytes=config.max_memory,
            max_parameters=config.max_parameters,
            max_round_s=config.max_latency,
        ),
        lookaheads=request.space.lookahead.values,
        measuring=draft_measuring(latency, target, request.target_precision),
        limits=limits,
        device=request.device.kind,
        work=folder.work,
        database=database,
    )
    return Workbench(request, program, traces, latency, estimator, evaluator)


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
            target=request.target.fingerprint,
            shape=request.target.shape,
            backend=request.config.backend[0],
            precision=Precision.FP32,
            device=request.device.fingerprint,
            capacity_tokens=request.context_tokens,
            max_lookahead=request.space.max_lookahead,
            small_draft=request.space.smallest,
            thread_counts=thread_counts(request.config, request.device),
            measuring=settings,
            sampling=request.config.sampling,
            versions=latency_versions(request.config.backend[0]),
        )
        outcome = database.recall(subject, TargetLatency, measure)
    if isinstance(outcome, Rejected):
        raise AutotuneError(
            f"the target cannot be measured: {outcome.reason.value}, {outcome.detail}; see --run-timeout"
        )
    return replace(outcome.value, date=outcome.date)


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
    chosen = min(medians)
    for count in sorted(medians):
        if medians[count] < _THREAD_GAIN * medians[chosen]:
            chosen = count
    return chosen


def record_workload(request: Request, program: Path, threads: int, observer: Observer) -> WorkloadTraces:
    """The run's traces, from the user's file, the cache, or the target itself."""
    config = request.config
    recorder = Recorder(
        target=request.target,
        settings=config.sampling,
        max_new_tokens=config.max_new_tokens,
        context_tokens=request.context_tokens,
        seed=config.seed,
        open_model=lambda: open_session(program, threads),
        on_progress=lambda done, total: observer.progress(done / total),
        computed_by=f"{request.device.kind} {request.target_precision}",
    )
    wanted = int(training_tokens(request) * TRACED_SHARE)
    if config.traces is not None:
        return recorder.from_file(config.traces, wanted)
    return recorder.from_prompts(config.prompts, wanted)


def train_estimator(request: Request, traces: Traces, observer: Observer) -> Estimator:
    """The estimator the run asked for; a training that was done before, or begun, is taken up."""
    config = request.config
    axes = search_axes(request.space)
    key = content_key(
        config.proxy,
        request.source.fingerprint,
        [trace.tokens.tolist() for trace in traces.items],
        vars(traces.settings),
        vars(axes),
        config.elastic_budget,
        config.seed,
        source_hashes("autotune.proxy"),
    )
    check_memory(
        source_bytes(request.source.shape, config.proxy == "elastic"), f"cutting drafts from {request.source.id}"
    )
    observer.phase("Training the elastic source" if config.proxy == "elastic" else "Preparing the pruned proxy")
    preparation = Preparation(
        source=request.source.read_weights(),
        traces=traces,
        axes=axes,
        budget_s=config.elastic_budget,
        folder=cache_root() / "proxies" / key,
        seed=config.seed,
        threads=request.training_threads,
        on_progress=observer.progress,
    )
    return prepare_estimator(config.proxy, preparation)


def training_tokens(request: Request) -> int:
    """Training tokens the proxy's budget buys; 0 where it does not train."""
    if request.config.proxy != "elastic":
        return 0
    parameters = mean_parameters(request.source.shape, search_axes(request.space))
    return budget_tokens(request.config.elastic_budget, parameters)


def search_axes(space: SearchSpace) -> Axes:
    """The sub-shapes of the search, as the proxy's training knows them."""
    return Axes(space.layers.values, space.attention, space.ffn.values, space.hidden.values)


def target_measuring(request: Request) -> MeasureSettings:
    """How the target is measured: in the middle of a usual text, and with a draft's bytes read between its runs."""
    context = min(_USUAL_CONTEXT_TOKENS, request.context_tokens - request.space.max_lookahead - 1)
    foreign_bytes = _evict_bytes(request.space.smallest, request.target_precision)
    # Measured once and divided by in every score: worth more time than a draft's latencies.
    return MeasureSettings(context_tokens=context, threads=1, evict_bytes=foreign_bytes, min_time_s=_TARGET_MIN_TIME_S)


def draft_measuring(latency: TargetLatency, target: Target, precision: Precision) -> MeasureSettings:
    """How drafts are measured: as the target was, but behind a read of as many bytes as the target's weights."""
    settings = latency.verify.settings
    return MeasureSettings(settings.context_tokens, settings.threads, evict_bytes=_evict_bytes(target.shape, precision))


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


def worker_limits(config: TuneConfig) -> WorkerLimits:
    """Limits of sandboxed builds and measurements."""
    memory = config.worker_memory or psutil.virtual_memory().total // 2
    return WorkerLimits(Limits(config.build_timeout, memory), Limits(config.run_timeout, memory))


def _smallest_draft(request: Request) -> Path:
    """A program of the space's smallest shape with random weights, to measure the decoding loop with."""
    smallest = request.space.smallest
    backend = request.config.backend[0]
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


def _check_budgets(config: TuneConfig, source: DraftShape, axes: Axes) -> None:
    """BadRequest if a training is asked for that could not make a single step."""
    if config.proxy == "elastic":
        parameters = mean_parameters(source, axes)
        training_steps(budget_tokens(config.elastic_budget, parameters), parameters, "--elastic-budget")
    if config.finish:
        parameters = source.decode_parameters
        training_steps(budget_tokens(config.finish, parameters), parameters, "--finish")
