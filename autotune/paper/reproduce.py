"""The whole page: every experiment run on one device."""

import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from autotune.candidate import Precision
from autotune.devices import Device, find_device
from autotune.errors import BadRequest
from autotune.latency_file import read_target_latency
from autotune.paper.agreement import agreement, score_drafts, spread_shapes
from autotune.paper.arithmetic import Sides, break_even, cache_sizes, sides_here, throughput_model
from autotune.paper.batches import BATCHES, by_batch, time_batches
from autotune.paper.demo_family import DemoFamily, prepare_demo_family
from autotune.paper.latency import by_depth, named_drafts
from autotune.paper.published import DRAFTS, FITTED_LOOKAHEAD, LLAMA_65B, OPT_DRAFTS
from autotune.paper.shapes import of_equal_depth, of_equal_size, shrunk
from autotune.paper.timing import Steps, Timing, time_steps
from autotune.progress import Observer
from autotune.provenance import command_words, package_versions
from autotune.reports.experiment_page import check_free, write_page
from autotune.reports.experiments import Experiment, ExperimentPage
from autotune.results import Rejected, TargetLatency
from autotune.sampling import SamplingSettings
from autotune.shape import DraftShape
from autotune.slices import SliceRequest, extrapolate_target
from autotune.weights import Numerics

EXPERIMENTS = ("a", "b", "c", "d", "e", "f", "g")


@dataclass(frozen=True)
class PaperSettings:
    """What to run, and how."""

    timing: Timing
    out: Path
    experiments: tuple[str, ...] = EXPERIMENTS
    shrink: int = 1
    """Every width is divided by this: for trying the command out."""
    target_precision: Precision = Precision.FP32
    target_latency: Path | None = None
    """The user's own table for LLaMA-65B; its layers are sliced and measured here if None."""
    batches: tuple[int, ...] = BATCHES
    elastic_budget_s: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [key for key in self.experiments if key not in EXPERIMENTS]
        if unknown:
            raise BadRequest(f"there is no experiment {unknown[0]!r}; choose from: {', '.join(EXPERIMENTS)}")


def reproduce(settings: PaperSettings, observer: Observer) -> ExperimentPage:
    """The page that was written into `settings.out`; BadRequest, before anything is measured, if it cannot be."""
    began_s, out = time.monotonic(), settings.out.resolve()
    check_free(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise BadRequest(f"cannot write {settings.out}: {error.strerror or error}") from error
    try:
        experiments = _Reproduction(settings, work, observer).experiments()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    page = _page(settings, experiments, time.monotonic() - began_s)
    write_page(page, out)
    return page


class _Reproduction:
    """The experiments, and what several of them need, which is measured when the first one asks."""

    def __init__(self, settings: PaperSettings, work: Path, observer: Observer) -> None:
        self._settings, self._work, self._observer = settings, work, observer
        self._device = find_device(settings.timing.device)
        table = settings.target_latency
        # Read at once: a table that will not do is told before anything is measured.
        self._given = read_target_latency(table, range(FITTED_LOOKAHEAD + 1)) if table else None

    def experiments(self) -> tuple[Experiment, ...]:
        """Those that were asked for, in the paper's order."""
        makers: Mapping[str, Callable[[], Experiment]] = {
            "a": self._by_depth,
            "b": lambda: named_drafts(self._named, self._steps, self._device.name),
            "c": lambda: cache_sizes({name: draft.shape for name, draft in DRAFTS.items()}),
            "d": lambda: throughput_model(self._sides),
            "e": lambda: break_even(self._sides),
            "f": self._agreement,
            "g": self._by_batch,
        }
        return tuple(makers[key]() for key in EXPERIMENTS if key in self._settings.experiments)

    @cached_property
    def _named(self) -> Mapping[str, DraftShape]:
        """The paper's drafts, and those of OPT's that this device can hold."""
        shapes = {name: shrunk(draft.shape, self._settings.shrink) for name, draft in {**DRAFTS, **OPT_DRAFTS}.items()}
        limit, precision = self._settings.timing.limits.memory_bytes, self._settings.timing.precision
        return {name: shape for name, shape in shapes.items() if not limit or shape.weight_bytes(precision) * 2 < limit}

    @cached_property
    def _steps(self) -> Steps:
        self._observer.phase("Measuring the paper's drafts")
        return time_steps(self._named, self._settings.timing, self._work / "named", self._observer)

    @cached_property
    def _sides(self) -> Sides | Rejected:
        steps, latency = self._steps, self._target_latency()
        return latency if isinstance(latency, Rejected) else sides_here(steps, latency)

    def _target_latency(self) -> TargetLatency | Rejected:
        """LLaMA-65B's side of a round: the user's table, or extrapolated from slices."""
        settings, timing = self._settings, self._settings.timing
        if self._given is not None:
            return self._given
        self._observer.phase("Measuring layers of LLaMA-65B")
        request = SliceRequest(
            backend=timing.backend,
            precision=settings.target_precision,
            device=timing.device,
            max_lookahead=FITTED_LOOKAHEAD,
            measuring=timing.measuring,
            sampling=SamplingSettings(),
            thread_counts=(timing.measuring.threads,),
        )
        return extrapolate_target(
            shrunk(LLAMA_65B, settings.shrink),
            Numerics("llama", 1e-6, 10_000.0, 2048),
            request,
            build_limits=timing.limits,
            run_limits=timing.limits,
            on_progress=self._observer.progress,
        )

    def _by_depth(self) -> Experiment:
        deep, heads = (
            {name: shrunk(shape, self._settings.shrink) for name, shape in shapes.items()}
            for shapes in (of_equal_size(), of_equal_depth())
        )
        self._observer.phase("Measuring drafts of equal size")
        timing = self._settings.timing
        measured = [time_steps(each, timing, self._work / "equal", self._observer) for each in (deep, heads)]
        return by_depth(deep, heads, {**measured[0], **measured[1]}, self._device.name)

    @cached_property
    def _family(self) -> DemoFamily:
        threads = self._settings.timing.measuring.threads
        return prepare_demo_family(self._settings.seed, self._settings.elastic_budget_s, threads, self._observer)

    def _agreement(self) -> Experiment:
        family = self._family
        self._observer.phase("Scoring drafts of the demo family")
        shapes = spread_shapes(family.space)
        drafts = score_drafts(shapes, family.estimator, family.traces, family.texts, self._observer.progress)
        return agreement(drafts, family.traces.looping_share)

    def _by_batch(self) -> Experiment:
        pair = self._family.batch_pair(self._settings.target_precision, self._settings.timing.precision)
        self._observer.phase("Measuring batches")
        entries, failures = time_batches(
            pair, self._settings.batches, self._settings.timing, self._work / "batches", self._observer.progress
        )
        words = (
            f"The demo target ({self._settings.target_precision}) with the pruned draft {pair.draft.shape} "
            f"({self._settings.timing.precision})"
        )
        return by_batch(entries, failures, words, self._device.name)


def _page(settings: PaperSettings, experiments: tuple[Experiment, ...], wall_s: float) -> ExperimentPage:
    timing = settings.timing
    described = {
        "Compiler": f"{timing.backend}, {timing.precision}",
        "Threads": str(timing.measuring.threads),
        "Weights": "random, of the true sizes, since latency does not depend on their values",
        "Context": f"{timing.measuring.context_tokens} positions, batch 1",
    }
    if settings.shrink != 1:
        described["Shrunk"] = f"every width was divided by {settings.shrink}: these are not the paper's drafts"
    return ExperimentPage(
        title="“Decoding Speculative Decoding”, reproduced",
        introduction="The experiments of Yan, Agarwal and Venkataraman (NAACL 2025, arXiv 2402.01528), each with what "
        "is known of the paper's figures and what the same comparison gives here. The paper used four NVIDIA A100 "
        "of 80 GB.",
        device=find_device(timing.device).fingerprint,
        settings=described,
        experiments=experiments,
        versions=package_versions(),
        command=shlex.join(command_words()),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        wall_s=wall_s,
    )


def usual_precision(device: Device) -> Precision:
    """What drafts are compiled in unless said otherwise: int8 on a CPU, where 1.3 B parameters must fit, else fp16."""
    return Precision.INT8 if device.kind == "cpu" else Precision.FP16
