"""The latency of a target too big for the machine: slices of it are compiled and measured, the rest is arithmetic.

Slices have the target's true dimensions and random weights, which latency does not depend on and which take no memory
before they are compiled.  See `autotune.extrapolation` for the arithmetic, `autotune.slice_job` for the measuring.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np

from autotune.cache import cache_root
from autotune.candidate import DraftShape, Precision
from autotune.compile.base import CompileSettings
from autotune.compile.build_job import BuildRequest, build_sandboxed
from autotune.compile.sandbox import Limits
from autotune.database.known import TuningDatabase, fresh
from autotune.database.subjects import SliceSubject, slice_versions
from autotune.devices import device_lock, find_device
from autotune.extrapolation import SliceGroup, Slicing, slices_of, whole_seconds
from autotune.measure import threads_that_pay
from autotune.memory import available_bytes
from autotune.results import Evidence, LatencyTable, MeasureSettings, Rejected, RejectReason, TargetLatency
from autotune.sampling import SamplingSettings
from autotune.slice_job import GroupRequest, GroupSamples, measure_group_sandboxed, measure_loop_sandboxed
from autotune.tensor_parallel import TensorParallel, shard
from autotune.weights import Numerics, random_weights
from autotune.weights_io import save_weights

PREFERRED = (Slicing.TRIMMED_PAIR, Slicing.SINGLE)
"""Ways to slice, the first that fits being taken.  Samples of a pair with the whole head scatter more than these (see
`benchmarks.slices`), for more memory; it is there to be asked for."""
_MOST_PAIR_BYTES = 4 << 30
"""A pair that takes more is not preferred: of large layers, one alone says as much, for a third of the weights."""
MEMORY_PER_WEIGHT = {"onnxruntime": 1.1, "tvm": 1.15}
"""Memory of a running program on the CPU over its weights' bytes (see `benchmarks.true_size`); ONNX Runtime packs a
copy of its own, but lets go of the mapped file it was packed from."""
_WORKER_BYTES = 500 << 20
"""What a worker takes without any weights."""
_EVICT_BYTES = 128 << 20
"""Foreign memory read between runs: as the rest of the target would pass through the caches between two layers."""
_LEAST_SHARE = 0.01
"""Replicates below this share of their median are noise; latencies are positive."""
_GPU_SHARE = 0.92
_MIN_TIME_S, _MIN_SAMPLES, _MAX_TIME_S = 0.5, 40, 60.0
_SIDE_MAX_TIME_S = 15.0
"""Most seconds of measuring at each further context."""
_FEWEST_RUN_S = 600.0
_FEWEST_BUILD_S = 300.0
_THREAD_ROUNDS, _THREAD_TIME_S = 2, 0.2
_SMALL = DraftShape(layers=1, heads=1, kv_heads=1, head_dim=32, hidden=64, ffn=64, vocab=256)
"""What the decoding loop is measured with; it costs the same whatever the models' sizes."""


@dataclass(frozen=True)
class SliceRequest:
    """How a target's side of a round is to be extrapolated."""

    backend: str
    precision: Precision
    device: str
    max_lookahead: int
    measuring: MeasureSettings
    """Its `context_tokens` is the run's main context; its threads are overruled by `thread_counts`."""
    sampling: SamplingSettings = SamplingSettings()
    contexts: tuple[int, ...] = ()
    """Further numbers of cached positions to give a table for, in `TargetLatency.by_context`."""
    thread_counts: tuple[int, ...] = (1,)
    """Numbers of threads to try; the fastest is taken, more only if they pay clearly."""
    parallel: TensorParallel = field(default_factory=TensorParallel)
    slicing: Slicing | None = None
    """How to slice; the first of `PREFERRED` that fits into memory if None."""
    seed: int = 0


def extrapolate_target(
    shape: DraftShape,
    numerics: Numerics,
    request: SliceRequest,
    *,
    build_limits: Limits,
    run_limits: Limits,
    database: TuningDatabase | None = None,
    on_progress: Callable[[float], object] = lambda share: None,
) -> TargetLatency | Rejected:
    """The target's side of a round, extrapolated over its layers from slices measured on this machine.

    `verify` (and each of `by_context`) has Evidence.EXTRAPOLATED: its samples are bootstrap replicates, so
    `error_bar(n)` is a 95 % interval of the sampling error.  `source` says what was measured.  The limits' times are
    raised to what slices of large models take.  Rejected (out-of-memory) with the bytes needed if not even one layer
    fits; BadRequest if the target cannot be split as asked.  A result known to the database is returned at once.
    """
    part = shard(shape, request.parallel.degree)  # refused before anything is looked up

    def measure() -> TargetLatency | Rejected:
        return _Extrapolation(shape, part, numerics, request, build_limits, run_limits, on_progress).result()

    if database is None:
        outcome = fresh(measure())
    else:
        subject = SliceSubject(
            shape=shape,
            numerics=numerics,
            backend=request.backend,
            precision=request.precision,
            device=find_device(request.device).fingerprint,
            max_lookahead=request.max_lookahead,
            contexts=request.contexts,
            thread_counts=request.thread_counts,
            parallel_degree=request.parallel.degree,
            collective_s=request.parallel.collective_s,
            slicing=request.slicing,
            measuring=request.measuring,
            sampling=request.sampling,
            versions=slice_versions(request.backend),
        )
        outcome = database.recall(subject, TargetLatency, measure)
    return outcome if isinstance(outcome, Rejected) else replace(outcome.value, date=outcome.date)


def slice_memory_bytes(shape: DraftShape, request: SliceRequest, slicing: Slicing) -> int:
    """Memory a worker needs to measure the slices of a (part of a) model: of its largest group."""
    return max(
        sum(_program_bytes(each.shape, request) for each in group) + _WORKER_BYTES + _EVICT_BYTES
        for group in slices_of(shape, slicing)
    )


def choose_slicing(shape: DraftShape, request: SliceRequest, memory_bytes: int) -> Slicing | Rejected:
    """The preferred way to slice a model that fits into that much memory; Rejected with the bytes the least needs."""
    ways = PREFERRED if request.slicing is None else (request.slicing,)
    for slicing in ways:
        most = min(memory_bytes, _MOST_PAIR_BYTES) if slicing is not ways[-1] else memory_bytes
        if slice_memory_bytes(shape, request, slicing) <= most:
            return slicing
    least = min(slice_memory_bytes(shape, request, slicing) for slicing in ways)
    return Rejected(
        RejectReason.OUT_OF_MEMORY,
        f"measuring slices of the target needs {least / 2**30:.1f} GiB, and {memory_bytes / 2**30:.1f} GiB may be used "
        "(see --worker-memory); give its latencies with --target-latency",
    )


class _RejectedError(Exception):
    def __init__(self, rejected: Rejected) -> None:
        super().__init__(rejected.detail)
        self.rejected = rejected


@dataclass
class _Extrapolation:
    """One extrapolation under way."""

    whole: DraftShape
    part: DraftShape
    """What one device computes."""
    numerics: Numerics
    request: SliceRequest
    build_limits: Limits
    run_limits: Limits
    on_progress: Callable[[float], object]

    def result(self) -> TargetLatency | Rejected:
        slicing = choose_slicing(self.part, self.request, self._memory_bytes())
        if isinstance(slicing, Rejected):
            return slicing
        folder = cache_root() / "slices"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=folder) as work:
                return self._measured(slices_of(self.part, slicing), slicing, Path(work))
        except _RejectedError as error:
            return error.rejected

    def _measured(self, groups: Sequence[SliceGroup], slicing: Slicing, work: Path) -> TargetLatency:
        loop = self._build(_SMALL, work)
        threads = 0
        measured: list[GroupSamples] = []
        for place, group in enumerate(groups):
            programs = []
            for count, each in enumerate(group, 1):
                programs.append(self._build(each.shape, work))
                self.on_progress((place + 0.5 * count / len(group)) / len(groups))
            if not threads:
                threads = self._choose_threads(programs[0])
            measured.append(self._measure(programs, threads, self._settings(threads)))
            for program in programs:
                shutil.rmtree(Path(program).parent, ignore_errors=True)
            self.on_progress((place + 1) / len(groups))
        settings = self._settings(threads)
        overheads = measure_loop_sandboxed(
            self._group([loop], settings), self._limits(), device_lock(self.request.device)
        )
        if isinstance(overheads, Rejected):
            raise _RejectedError(overheads)
        weights = [[each.weight for each in group] for group in groups]
        main, *others = self._contexts()
        return TargetLatency(
            verify=self._table(weights, measured, main, settings),
            overhead_s=overheads.overhead_s,
            plain_overhead_s=overheads.plain_overhead_s,
            source=self._source(slicing),
            by_context={context: self._table(weights, measured, context, settings) for context in others},
        )

    def _table(
        self, weights: list[list[float]], measured: list[GroupSamples], context: int, settings: MeasureSettings
    ) -> LatencyTable:
        """The whole model's verifications behind that many cached positions."""
        place = self._contexts().index(context)
        groups = [
            [(weight, program[place]) for weight, program in zip(row, group.samples_s, strict=True)]
            for row, group in zip(weights, measured, strict=True)
        ]
        seconds = whole_seconds(groups, self.request.seed)
        seconds += self.request.parallel.collectives_s(self.whole.layers)
        medians = np.median(seconds, axis=1, keepdims=True)
        if not (medians > 0).all():
            raise _RejectedError(
                Rejected(RejectReason.RUN_ERROR, "the slices' latencies are too noisy: less than no time is left")
            )
        seconds = np.maximum(seconds, _LEAST_SHARE * medians)
        return LatencyTable(
            tuple(map(tuple, seconds.tolist())),
            replace(settings, context_tokens=context),
            find_device(self.request.device).fingerprint,
            Evidence.EXTRAPOLATED,
            timed=measured[0].timed,
        )

    def _build(self, shape: DraftShape, work: Path) -> str:
        folder = Path(tempfile.mkdtemp(dir=work))
        capacity = max(max(self._contexts()) + self.request.max_lookahead + 1, 64)
        if shape.style.learned_positions:  # as many as are measured: batches go beyond what one sequence may have
            shape = replace(shape, style=replace(shape.style, learned_positions=capacity))
        save_weights(random_weights(shape, self.numerics, self.request.seed), folder / "weights")
        settings = CompileSettings(self.request.precision, capacity, self.request.device)
        asked = BuildRequest(str(folder / "weights"), self.request.backend, settings, str(folder / "program"))
        limits = replace(self.build_limits, time_s=max(self.build_limits.time_s, _FEWEST_BUILD_S))
        built = build_sandboxed(asked, limits, threads=1, lock=device_lock(self.request.device))
        if isinstance(built, Rejected):
            raise _RejectedError(built)
        return built.program

    def _choose_threads(self, program: str) -> int:
        """The number of threads that makes a layer's verification fastest; more are taken only if they pay clearly."""
        counts = self.request.thread_counts
        if len(counts) == 1:
            return counts[0]
        seconds: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(_THREAD_ROUNDS):
            for count in counts:
                settings = replace(self._settings(count), min_time_s=_THREAD_TIME_S, min_samples=3, max_time_s=3.0)
                measured = self._measure([program], count, settings, only_step=True)
                seconds[count] += measured.samples_s[0][0][0]
        return threads_that_pay({count: median(samples) for count, samples in seconds.items()})

    def _measure(
        self, programs: list[str], threads: int, settings: MeasureSettings, *, only_step: bool = False
    ) -> GroupSamples:
        asked = self._group(programs, settings)
        if only_step:
            asked = replace(asked, max_lookahead=0, contexts=asked.contexts[:1])
        measured = measure_group_sandboxed(asked, self._limits(), device_lock(self.request.device))
        if isinstance(measured, Rejected):
            raise _RejectedError(measured)
        return measured

    def _group(self, programs: list[str], settings: MeasureSettings) -> GroupRequest:
        request = self.request
        return GroupRequest(
            programs=tuple(programs),
            max_lookahead=request.max_lookahead,
            contexts=self._contexts(),
            settings=settings,
            side_max_time_s=_SIDE_MAX_TIME_S,
            sampling=request.sampling,
            seed=request.seed,
        )

    def _settings(self, threads: int) -> MeasureSettings:
        asked = self.request.measuring
        whole_bytes = int(self.part.weight_bytes(self.request.precision))
        return replace(
            asked,
            threads=threads,
            min_time_s=_MIN_TIME_S,
            min_samples=max(asked.min_samples, _MIN_SAMPLES),
            max_time_s=max(asked.max_time_s, _MAX_TIME_S),
            evict_bytes=max(asked.evict_bytes, min(whole_bytes, _EVICT_BYTES)),
        )

    def _limits(self) -> Limits:
        return replace(self.run_limits, time_s=max(self.run_limits.time_s, _FEWEST_RUN_S))

    def _contexts(self) -> tuple[int, ...]:
        main = self.request.measuring.context_tokens
        return (main, *(context for context in self.request.contexts if context != main))

    def _memory_bytes(self) -> int:
        """Memory that a worker may take."""
        if self.request.device != "cpu":
            return int(find_device(self.request.device).memory_bytes * _GPU_SHARE)
        limit = self.run_limits.memory_bytes
        return available_bytes() if limit is None else min(available_bytes(), limit)

    def _source(self, slicing: Slicing) -> str:
        layers = "1 and 2 layers" if slicing is not Slicing.SINGLE else "1 layer"
        parallel = self.request.parallel
        split = (
            ""
            if parallel.degree == 1
            else f", as one of {parallel.degree} devices with all-reduces of {parallel.collective_s * 1e6:g} µs"
        )
        return f"extrapolated to {self.whole.layers} layers from {layers} measured on {self.request.backend}{split}"


def _program_bytes(shape: DraftShape, request: SliceRequest) -> int:
    factor = MEMORY_PER_WEIGHT[request.backend] if request.device == "cpu" else 1.05
    tokens = max((request.measuring.context_tokens, *request.contexts)) + request.max_lookahead + 1
    return int(shape.weight_bytes(request.precision) * factor) + tokens * shape.kv_bytes_per_token
