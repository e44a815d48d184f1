"""Measures slices of a model in one sandboxed worker, in turn: what slows the machine down slows all of them down."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import TypeAdapter

from autotune.compile.sandbox import Limits, Phase, run_sandboxed
from autotune.extrapolation import fill_between, lengths_to_time
from autotune.measure import (
    TargetRequest,
    is_slow,
    measure_overheads,
    reject_not_a_number,
    sample_seconds,
    verifications,
)
from autotune.results import MeasureSettings, Rejected
from autotune.runtime.session import Session, open_session
from autotune.sampling import SamplingSettings

_SIDE_SAMPLES = 20
"""Samples of each length behind further contexts."""
_STEP_S = 1e-3
"""About what a step of the small program takes that the loop is measured with; far more than it does."""


@dataclass(frozen=True)
class GroupRequest:
    """Programs to verify 1 … `max_lookahead` + 1 positions with, in turn, behind each number of cached positions."""

    programs: tuple[str, ...]
    max_lookahead: int
    contexts: tuple[int, ...]
    """The main one first; only there are the settings' times spent."""
    settings: MeasureSettings
    side_max_time_s: float
    sampling: SamplingSettings
    seed: int = 0


@dataclass(frozen=True)
class GroupSamples:
    """Seconds by program, context, length and round; what was not timed is interpolated within its round."""

    samples_s: tuple[tuple[tuple[tuple[float, ...], ...], ...], ...]
    timed: tuple[int, ...] | None
    """The lengths timed; None: all."""


@dataclass(frozen=True)
class LoopOverheads:
    """Seconds outside the models, per speculative round and per step of a target alone."""

    overhead_s: float
    plain_overhead_s: float


def measure_group_sandboxed(request: GroupRequest, limits: Limits, lock: FileLock) -> GroupSamples | Rejected:
    """Samples of a group of programs, taken in a worker that may hang, crash or run out of memory."""
    outcome = _run("group_job", request, limits, lock)
    return outcome if isinstance(outcome, Rejected) else TypeAdapter(GroupSamples).validate_python(outcome)


def measure_loop_sandboxed(request: GroupRequest, limits: Limits, lock: FileLock) -> LoopOverheads | Rejected:
    """What the decoding loop costs, measured with the request's first program as target and as draft."""
    outcome = _run("loop_job", request, limits, lock)
    return outcome if isinstance(outcome, Rejected) else TypeAdapter(LoopOverheads).validate_python(outcome)


def group_job(fields: Mapping[str, Any]) -> object:
    """Sandbox entry: a `GroupRequest` as JSON to `GroupSamples` as JSON."""
    request = TypeAdapter(GroupRequest).validate_python(fields)
    sessions = [open_session(Path(program), request.settings.threads) for program in request.programs]
    for session in sessions:
        reject_not_a_number(session, request.seed)
    return asdict(measure_group(sessions, request))


def loop_job(fields: Mapping[str, Any]) -> object:
    """Sandbox entry: a `GroupRequest` as JSON to `LoopOverheads` as JSON."""
    request = TypeAdapter(GroupRequest).validate_python(fields)
    folder = Path(request.programs[0])
    target, draft = (open_session(folder, request.settings.threads) for _ in range(2))
    asked = TargetRequest(
        str(folder), str(folder), request.max_lookahead, request.settings, request.sampling, request.seed
    )
    return asdict(LoopOverheads(*measure_overheads(target, draft, asked, _STEP_S)))


def measure_group(sessions: list[Session], request: GroupRequest) -> GroupSamples:
    """Samples of every session, in turn, at each context."""
    largest = request.max_lookahead + 1
    timed: tuple[int, ...] | None = None
    by_context = []
    for place, context in enumerate(request.contexts):
        calls = [
            verifications(session, request.max_lookahead, context, request.sampling, request.seed)
            for session in sessions
        ]
        if timed is None:
            slow = [is_slow(runs[0]) for runs in calls]
            timed = lengths_to_time(largest) if any(slow) else tuple(range(1, largest + 1))
        settings = request.settings
        if place:
            fewer = min(settings.min_samples, _SIDE_SAMPLES)
            settings = replace(settings, max_time_s=request.side_max_time_s, min_samples=fewer, min_time_s=0.0)
        in_turn = [runs[n - 1] for n in timed for runs in calls]
        rounds = sample_seconds(in_turn, settings, sessions[0].program.device)
        by_context.append(
            tuple(
                fill_between(dict(zip(timed, rounds[index :: len(sessions)], strict=True)), largest)
                for index in range(len(sessions))
            )
        )
    all_timed = timed is None or len(timed) == largest
    return GroupSamples(tuple(zip(*by_context, strict=True)), None if all_timed else timed)


def _run(job: str, request: GroupRequest, limits: Limits, lock: FileLock) -> object | Rejected:
    threads = request.settings.threads
    return run_sandboxed(f"{__name__}:{job}", asdict(request), Phase.RUN, limits, threads=threads, lock=lock)
