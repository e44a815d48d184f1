"""Estimates adaptive lookahead for a compiled pair, in a sandboxed worker.

The draft's own program reads every trace once, and both ways of drafting are timed in turn, as the decoder calls them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import TypeAdapter

from autotune.acceptance import acceptance_probabilities
from autotune.adaptive_estimate import Observed, RoundLatencies, estimate, make_plan
from autotune.adaptive_results import AdaptiveEstimate
from autotune.compile.sandbox import Limits, Phase, run_sandboxed
from autotune.measure import sample_seconds, verifications
from autotune.results import MeasureSettings, Rejected
from autotune.runtime.adaptive import AdaptiveDrafter
from autotune.runtime.drafter import Drafter, ModelDrafter
from autotune.runtime.prefill import PREFILL_CHUNK_TOKENS, prefill
from autotune.runtime.session import Session, open_session
from autotune.sampling import SamplingSettings, distribution
from autotune.stopping import CONFIDENCE_BINS, AdaptivePlan
from autotune.traces import Trace


@dataclass(frozen=True)
class Text:
    """A trace, as JSON can hold it."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Of the continuation's tokens in the distribution they were drawn from."""


@dataclass(frozen=True)
class AdaptiveRequest:
    """Whose lookahead is to be adaptive, on what text."""

    target: str
    """Program folders."""
    draft: str
    texts: tuple[Text, ...]
    """At least two."""
    lookahead: int
    """The pair's fixed one."""
    max_lookahead: int
    measuring: MeasureSettings
    sampling: SamplingSettings
    overhead_s: float
    """Of a round's loop."""
    seed: int = 0


@dataclass(frozen=True)
class AdaptiveFinding:
    """The plan that all texts make, and what such plans come to."""

    plan: AdaptivePlan
    estimate: AdaptiveEstimate


def texts_of(traces: Sequence[Trace]) -> tuple[Text, ...]:
    """The traces as requests hold them."""
    return tuple(
        Text(tuple(trace.prompt.tolist()), tuple(trace.continuation.tolist()), tuple(trace.logprobs.tolist()))
        for trace in traces
    )


def find_adaptive(request: AdaptiveRequest, limits: Limits, lock: FileLock) -> AdaptiveFinding | Rejected:
    """The finding, made in a worker of its own."""
    outcome = run_sandboxed(
        f"{__name__}:adaptive_job", asdict(request), Phase.RUN, limits, threads=request.measuring.threads, lock=lock
    )
    return outcome if isinstance(outcome, Rejected) else TypeAdapter(AdaptiveFinding).validate_python(outcome)


def adaptive_job(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sandbox entry: an `AdaptiveRequest` as JSON to an `AdaptiveFinding` as JSON."""
    parsed = TypeAdapter(AdaptiveRequest).validate_python(request)
    threads = parsed.measuring.threads
    target, draft = open_session(Path(parsed.target), threads), open_session(Path(parsed.draft), threads)
    observed = [observe(draft, text, parsed.sampling) for text in parsed.texts]
    latencies = measure_latencies(target, draft, parsed)
    finding = AdaptiveFinding(
        plan=make_plan(observed, latencies, parsed.sampling, parsed.lookahead),
        estimate=estimate(observed, latencies, parsed.sampling, seed=parsed.seed),
    )
    dumped: Mapping[str, Any] = TypeAdapter(AdaptiveFinding).dump_python(finding, mode="json")
    return dumped


def observe(draft: Session, text: Text, sampling: SamplingSettings) -> Observed:
    """The text as the draft sees it, in one teacher-forced pass; what exceeds its context is left out."""
    tokens = [*text.prompt, *text.continuation][: draft.program.capacity_tokens + 1]
    own = np.array(tokens[len(text.prompt) :])
    prefill(draft, text.prompt[:-1])
    acceptance, confidence = [], []
    for first in range(0, len(own), PREFILL_CHUNK_TOKENS):
        begin = len(text.prompt) - 1 + first
        piece = own[first : first + PREFILL_CHUNK_TOKENS]
        logits = draft.logits(tokens[begin : begin + len(piece)], begin)
        q = distribution(logits, SamplingSettings(temperature=1.0) if sampling.greedy else sampling)
        confidence.append(q.max(axis=1))
        rows = _rows(draft, piece)
        if sampling.greedy:
            acceptance.append((logits.argmax(axis=1) == rows).astype(np.float64))
        else:
            drawn = np.where(rows < 0, 0.0, q[np.arange(len(rows)), rows])
            with np.errstate(divide="ignore"):  # a token the draft never draws has log-probability -inf
                logprobs = np.array(text.logprobs[first : first + len(piece)])
                acceptance.append(acceptance_probabilities(np.log(drawn), logprobs))
    return Observed(np.concatenate(acceptance), np.concatenate(confidence))


def measure_latencies(target: Session, draft: Session, request: AdaptiveRequest) -> RoundLatencies:
    """Medians of both ways of drafting, for every length in turn, and of verifications.

    Between two of them, as much foreign memory is read as the other model's weights are.
    """
    most, settings = request.max_lookahead, request.measuring
    device = draft.program.device
    part = replace(settings, min_time_s=settings.min_time_s / most, max_time_s=settings.max_time_s / most)
    tireless = AdaptivePlan(
        request.sampling, most, (1.0,) * CONFIDENCE_BINS, 1.0, (0.0,) * most, (0.0,) * (most + 1), 0.0
    )
    prompt = np.random.default_rng(request.seed).integers(draft.program.shape.vocab, size=settings.context_tokens)
    fixed, adaptive = ModelDrafter(draft), AdaptiveDrafter(draft, tireless)
    fixed.start(prompt.tolist())
    adaptive.start(prompt.tolist())
    burst_s, stopping_s = [], []
    for count in range(1, most + 1):
        runs = [_drafting(drafter, prompt.tolist(), count, request.sampling) for drafter in (fixed, adaptive)]
        seconds = sample_seconds(runs, part, device)
        burst_s.append(float(np.median(seconds[0])))
        stopping_s.append(float(np.median(seconds[1])))
    checks = verifications(target, most, settings.context_tokens, request.sampling, request.seed)
    behind_draft = replace(settings, evict_bytes=draft.program.shape.weight_bytes(draft.program.precision))
    verify_s = [float(np.median(seconds)) for seconds in sample_seconds(checks, behind_draft, device)]
    return RoundLatencies(tuple(burst_s), tuple(stopping_s), tuple(verify_s), request.overhead_s)


def _drafting(drafter: Drafter, prompt: list[int], count: int, sampling: SamplingSettings) -> Callable[[], object]:
    rng = np.random.default_rng(count)
    return lambda: drafter.propose(prompt, count, sampling, rng)


def _rows(draft: Session, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """The head's row of each token; -1 where a trimmed head lacks it."""
    ids = draft.program.head_tokens
    if ids is None:
        return tokens
    rows = np.full(draft.program.shape.vocab, -1)
    rows[ids] = np.arange(len(ids))
    return rows[tokens]
