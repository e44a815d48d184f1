"""Decode steps of many drafts with random weights, side by side: what the latency experiments rest on."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from autotune.candidate import Precision
from autotune.compile.base import CompileSettings
from autotune.compile.build_job import BuildRequest, build_sandboxed
from autotune.compile.sandbox import Limits
from autotune.devices import device_lock
from autotune.measure import BurstRequest, measure_bursts_sandboxed
from autotune.progress import Observer
from autotune.results import Built, LatencyTable, MeasureSettings, Rejected
from autotune.sampling import SamplingSettings
from autotune.shape import DraftShape
from autotune.weights import Numerics, random_weights
from autotune.weights_io import save_weights

Steps = Mapping[str, LatencyTable | Rejected]
"""By draft: the latency of one decode step (n = 1 of the table), or why there is none."""


@dataclass(frozen=True)
class Timing:
    """How drafts are compiled and timed."""

    device: str
    backend: str
    precision: Precision
    measuring: MeasureSettings
    limits: Limits
    rounds: int = 3
    """Times that all drafts are timed in turn, so that a machine that changes speed changes all of them alike."""

    def compiling(self, capacity_tokens: int | None = None) -> CompileSettings:
        """The settings that a draft is compiled with."""
        return CompileSettings(
            self.precision, capacity_tokens or self.measuring.context_tokens + _ROOM_TOKENS, self.device
        )


_ROOM_TOKENS = 32


def time_steps(shapes: Mapping[str, DraftShape], timing: Timing, work: Path, observer: Observer) -> Steps:
    """The drafts' step latencies; `work` is a folder for their programs, emptied afterwards."""
    programs: dict[str, Built | Rejected] = {}
    try:
        for name, shape in shapes.items():
            observer.progress(len(programs) / (2 * len(shapes)))
            programs[name] = build_random(shape, timing, work / f"draft-{len(programs)}")
        tables: dict[str, list[LatencyTable | Rejected]] = {name: [] for name in shapes}
        for number in range(timing.rounds):
            observer.progress(0.5 + number / (2 * timing.rounds))
            for name, built in programs.items():
                tables[name].append(_step(built, timing) if isinstance(built, Built) else built)
        return {name: _pooled(each) for name, each in tables.items()}
    finally:
        shutil.rmtree(work, ignore_errors=True)


def build_random(shape: DraftShape, timing: Timing, folder: Path) -> Built | Rejected:
    """The program of a draft with random weights in `folder/program`."""
    positions = shape.style.learned_positions or timing.compiling().capacity_tokens
    save_weights(random_weights(shape, Numerics("random", 1e-5, 10_000.0, positions)), folder / "weights")
    request = BuildRequest(str(folder / "weights"), timing.backend, timing.compiling(), str(folder / "program"))
    return build_sandboxed(request, timing.limits, threads=timing.measuring.threads, lock=device_lock(timing.device))


def _step(built: Built, timing: Timing) -> LatencyTable | Rejected:
    request = BurstRequest(built.program, 1, timing.measuring, SamplingSettings())
    return measure_bursts_sandboxed(request, timing.limits, device_lock(timing.device))


def _pooled(tables: list[LatencyTable | Rejected]) -> LatencyTable | Rejected:
    """All samples of a draft together; its first failure, if there was one."""
    measured = [table for table in tables if isinstance(table, LatencyTable)]
    if len(measured) < len(tables):
        return next(table for table in tables if isinstance(table, Rejected))
    return replace(measured[0], samples_s=(tuple(chain.from_iterable(table.samples_s[0] for table in measured)),))


def step_s(steps: Steps, name: str) -> float | None:
    """The median step latency of a draft; None if it could not be measured."""
    table = steps.get(name)
    return table.seconds(1) if isinstance(table, LatencyTable) else None
