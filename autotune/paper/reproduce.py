"""The whole page: every experiment run on one device."""

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from autotune.candidate import Precision
from autotune.config import make_config
from autotune.devices import Device, find_device
from autotune.errors import BadRequest
from autotune.paper.agreement import agreement, score_drafts, spread_shapes
from autotune.paper.arithmetic import Sides, break_even, cache_sizes, sides_here, throughput_model
from autotune.paper.latency import by_depth, named_drafts
from autotune.paper.published import DRAFTS, OPT_DRAFTS
from autotune.paper.shapes import of_equal_depth, of_equal_size, shrunk
from autotune.paper.timing import Steps, Timing, time_steps
from autotune.prepare import record_workload, resolve, train_estimator
from autotune.programs import compile_target
from autotune.progress import Observer
from autotune.provenance import command_words, package_versions
from autotune.reports.experiment_page import write_page
from autotune.reports.experiments import Experiment, ExperimentPage
from autotune.results import TargetLatency
from autotune.shape import DraftShape

EXPERIMENTS = ("a", "b", "c", "d", "e", "f", "g")


@dataclass(frozen=True)
class PaperSettings:
    """What to run, and how."""

    timing: Timing
    out: Path
    experiments: tuple[str, ...] = EXPERIMENTS
    shrink: int = 1
    """Every width is divided by this: for trying the command out."""
    target: TargetLatency | None = None
    """LLaMA-65B's side of a round, if it is known."""
    seed: int = 0
    elastic_budget_s: float = 120.0

    def __post_init__(self) -> None:
        unknown = [key for key in self.experiments if key not in EXPERIMENTS]
        if unknown:
            raise BadRequest(f"there is no experiment {unknown[0]!r}; choose from: {', '.join(EXPERIMENTS)}")


def reproduce(settings: PaperSettings, observer: Observer) -> ExperimentPage:
    """The page that was written into `settings.out`."""
    began_s = time.monotonic()
    device = find_device(settings.timing.device)
    work = settings.out.parent / f".{settings.out.name}-work"
    steps = _named_steps(settings, work, observer)
    here = _sides(settings, steps)
    makers = {
        "a": lambda: _by_depth(settings, device, work, observer),
        "b": lambda: named_drafts(_named(settings), steps, device.name),
        "c": lambda: cache_sizes({name: draft.shape for name, draft in DRAFTS.items()}),
        "d": lambda: throughput_model(here),
        "e": lambda: break_even(here),
        "f": lambda: _agreement(settings, observer),
    }
    experiments = tuple(makers[key]() for key in EXPERIMENTS if key in settings.experiments and key in makers)
    page = _page(settings, device, experiments, time.monotonic() - began_s)
    write_page(page, settings.out)
    return page


def _named(settings: PaperSettings) -> Mapping[str, DraftShape]:
    """The paper's drafts, and those of OPT's that this device can hold."""
    shapes = {name: shrunk(draft.shape, settings.shrink) for name, draft in {**DRAFTS, **OPT_DRAFTS}.items()}
    limit = settings.timing.limits.memory_bytes
    precision = settings.timing.precision
    return {name: shape for name, shape in shapes.items() if not limit or shape.weight_bytes(precision) * 2 < limit}


def _named_steps(settings: PaperSettings, work: Path, observer: Observer) -> Steps:
    if not {"b", "d", "e"} & set(settings.experiments):
        return {}
    observer.phase("Measuring the paper's drafts")
    return time_steps(_named(settings), settings.timing, work, observer)


def _sides(settings: PaperSettings, steps: Steps) -> Sides | None:
    return sides_here(steps, settings.target) if settings.target else None


def _by_depth(settings: PaperSettings, device: Device, work: Path, observer: Observer) -> Experiment:
    deep, heads = (
        {name: shrunk(shape, settings.shrink) for name, shape in shapes.items()}
        for shapes in (of_equal_size(), of_equal_depth())
    )
    observer.phase("Measuring drafts of equal size")
    steps = {**time_steps(deep, settings.timing, work, observer), **time_steps(heads, settings.timing, work, observer)}
    return by_depth(deep, heads, steps, device.name)


def _agreement(settings: PaperSettings, observer: Observer) -> Experiment:
    request = resolve(make_config({"seed": settings.seed, "elastic-budget": settings.elastic_budget_s}))
    observer.phase("Preparing the demo family")
    program = compile_target(request.target, request.config.backend[0], request.context_tokens)
    traces = record_workload(request, program, settings.timing.measuring.threads, observer)
    estimator = train_estimator(request, traces.train, observer)
    observer.phase("Scoring drafts of the demo family")
    texts = [prompt for prompt in traces.validate if len(prompt) > 1]
    drafts = score_drafts(spread_shapes(request.space), estimator, traces.estimate, texts, observer.progress)
    return agreement(drafts, traces.estimate.looping_share)


def _page(
    settings: PaperSettings, device: Device, experiments: tuple[Experiment, ...], wall_s: float
) -> ExperimentPage:
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
        device=device.fingerprint,
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
