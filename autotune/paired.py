"""Is one program really faster than another?  Both draft in turn in one sandboxed worker; the same tokens are required.

In round i both programs draft one burst, behind the same context and after the same read of foreign memory, in an order
that turns around from round to round (A B, B A, …).  The speed-up is the median of the rounds' ratios a_i / b_i; its
interval is the bootstrap's: the 2.5 % and 97.5 % quantiles of that median over resampled rounds.  B counts as faster
only if the whole interval lies above 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from filelock import FileLock
from pydantic import TypeAdapter

from autotune.compile.sandbox import Limits, Phase, run_sandboxed
from autotune.results import Evidence, Figure, MeasureSettings, Rejected
from autotune.runtime.prefill import prefill
from autotune.runtime.session import Session, open_session
from autotune.sampling import SamplingSettings

LOGITS_TOLERANCE = 1e-4
"""Most that logits of two programs of the same weights may differ, relative to the largest (at least to 1)."""
CHECKED_BURSTS = 8
ROUNDS, MOST_ROUNDS = 60, 400
MIN_TIME_S, MOST_TIME_S = 3.0, 20.0
RESAMPLES = 2000


@dataclass(frozen=True)
class PairedRequest:
    """Which programs to compare, at which lookahead and how measured."""

    before: str
    after: str
    lookahead: int
    settings: MeasureSettings
    sampling: SamplingSettings
    seed: int = 0


@dataclass(frozen=True)
class Comparison:
    """What both programs answered and took."""

    logits_difference: float
    """The largest, relative to the largest logit (at least to 1)."""
    same_drafts: bool
    before_s: tuple[float, ...] = ()
    """Seconds of a burst per round; nothing is timed where the answers differ."""
    after_s: tuple[float, ...] = ()

    @property
    def same(self) -> bool:
        """Whether the programs answer alike."""
        return self.same_drafts and self.logits_difference <= LOGITS_TOLERANCE


def compare_sandboxed(request: PairedRequest, limits: Limits, lock: FileLock) -> Comparison | Rejected:
    """The comparison, made in a worker that may hang or crash."""
    entry = f"{__name__}:{comparison_job.__name__}"
    outcome = run_sandboxed(entry, asdict(request), Phase.RUN, limits, threads=request.settings.threads, lock=lock)
    return outcome if isinstance(outcome, Rejected) else TypeAdapter(Comparison).validate_python(outcome)


def comparison_job(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sandbox entry: a `PairedRequest` as JSON to a `Comparison` as JSON."""
    request = TypeAdapter(PairedRequest).validate_python(fields)
    before, after = (open_session(Path(path), request.settings.threads) for path in (request.before, request.after))
    return asdict(compare(before, after, request))


def compare(before: Session, after: Session, request: PairedRequest) -> Comparison:
    """The comparison of two open sessions."""
    tokens = max(request.settings.context_tokens, 2)
    rng = np.random.default_rng(request.seed)
    context: list[int] = rng.integers(before.program.shape.vocab, size=tokens).tolist()
    wanted, given = (np.array(session.logits(context, 0), np.float64) for session in (before, after))
    difference = float(np.abs(wanted - given).max() / max(1.0, np.abs(wanted).max()))
    noise = rng.random(request.lookahead).tolist()
    draft = [_drafts(session, context, request, noise) for session in (before, after)]
    starts = np.linspace(1, tokens - 1, min(CHECKED_BURSTS, tokens - 1)).astype(int).tolist()
    # From the end of the context to its beginning: a burst overwrites what is cached behind its start.
    same = all(draft[0](start) == draft[1](start) for start in reversed(starts))
    found = Comparison(difference if np.isfinite(difference) else float("inf"), same)
    if not found.same:
        return found
    for session in (before, after):
        prefill(session, context[:-1])
    seconds = _time([lambda one=one: one(tokens - 1) for one in draft], request.settings)  # type: ignore[misc]
    return Comparison(found.logits_difference, same, *seconds)


def speedup(comparison: Comparison, seed: int = 0) -> Figure:
    """How many times faster the second program is, with its interval."""
    return median_ratio(comparison.before_s, comparison.after_s, seed)


def median_ratio(above: Sequence[float], below: Sequence[float], seed: int = 0) -> Figure:
    """The median of the turns' ratios `[turns]` each, with its bootstrap interval over turns."""
    ratios = np.array(above) / np.array(below)
    drawn = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), (0.025, 0.975))
    return Figure(float(np.median(ratios)), Evidence.MEASURED, float(low), float(high))


def _drafts(
    session: Session, context: Sequence[int], request: PairedRequest, noise: Sequence[float]
) -> Callable[[int], list[int]]:
    """A burst behind the first `start` tokens of the context."""

    def draft(start: int) -> list[int]:
        given = [context[start]]
        if request.sampling.greedy:
            return session.burst(given, start, request.lookahead)
        return list(session.sampled_burst(given, start, request.lookahead, request.sampling, noise).tokens)

    return draft


def _time(
    runs: Sequence[Callable[[], object]], settings: MeasureSettings
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Seconds of both runs in every round."""
    foreign = np.ones(settings.evict_bytes // 8)
    for run in runs:
        for _ in range(settings.warmup_runs):
            run()
    seconds: tuple[list[float], list[float]] = [], []
    began = perf_counter()
    while len(seconds[0]) < MOST_ROUNDS:
        for who in (0, 1) if len(seconds[0]) % 2 else (1, 0):
            foreign.sum()
            start = perf_counter()
            runs[who]()
            seconds[who].append(perf_counter() - start)
        took_s = perf_counter() - began
        if (took_s > MIN_TIME_S and len(seconds[0]) >= ROUNDS) or (took_s > MOST_TIME_S and len(seconds[0]) >= 5):
            break
    return tuple(seconds[0]), tuple(seconds[1])
