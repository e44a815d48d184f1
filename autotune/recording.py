"""The traces a run needs, in three splits that never mix; recorded once per content and kept in the cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.cache import cached_folder, content_key, file_sha256
from autotune.errors import BadRequest
from autotune.programs import compile_target
from autotune.runtime.session import open_session
from autotune.sampling import SamplingSettings
from autotune.targets import Target, resolve_target
from autotune.trace_files import load_traces, save_traces
from autotune.traces import TokenModel, Trace, Traces, check_traces, record
from autotune.workload import SPLIT_SHARES, PromptTokens, read_prompts, split_prompts, tokenize

ROLLOUT_TEMPERATURE = 1.0
"""Extra training text is sampled: greedy text of a small target repeats itself and teaches little."""
ROLLOUT_TOKENS = 96

OpenModel = Callable[[], TokenModel]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class WorkloadTraces:
    """The workload as the run sees it."""

    train: Traces
    """What the proxy is trained on: the workload's continuations, and sampled rollouts of the same prompts."""
    estimate: Traces
    """What acceptance is estimated on."""
    validate: tuple[NDArray[np.int32], ...]
    """Prompts `[P]` that the finalists really decode."""


@dataclass(frozen=True)
class Recorder:
    """Records traces of a target; the model is opened only if something is not in the cache."""

    target: Target
    settings: SamplingSettings
    max_new_tokens: int
    context_tokens: int
    """Capacity of the model's program, at which continuations end."""
    seed: int
    open_model: OpenModel
    on_progress: Progress

    def from_prompts(self, prompts: str, rollout_tokens: int) -> WorkloadTraces:
        """The splits of a prompts file (or `builtin`); `rollout_tokens` of extra training text."""
        splits = split_prompts(read_prompts(prompts), self.seed)
        tokenizer = self.target.open_tokenizer()
        train, estimate, validate = (
            tokenize(part, tokenizer, self.context_tokens) for part in (splits.train, splits.estimate, splits.validate)
        )
        return WorkloadTraces(
            train=self._with_rollouts(self.record(train), train, rollout_tokens),
            estimate=self.record(estimate),
            validate=tuple(prompt.ids for prompt in validate),
        )

    def from_file(self, path: Path, rollout_tokens: int) -> WorkloadTraces:
        """The splits of traces the user brings; only the rollouts are recorded."""
        traces = _read_traces(path, self.target, self.settings)
        train, estimate, validate = _deal(traces.items, self.seed, path)
        prompts = [PromptTokens(trace.prompt, trace.category, str(path)) for trace in train]
        return WorkloadTraces(
            train=self._with_rollouts(replace(traces, items=train), prompts, rollout_tokens),
            estimate=replace(traces, items=estimate),
            validate=tuple(trace.prompt for trace in validate),
        )

    def record(
        self,
        prompts: Sequence[PromptTokens],
        settings: SamplingSettings | None = None,
        max_new_tokens: int | None = None,
    ) -> Traces:
        """Traces of these prompts, from the cache if they were recorded before."""
        settings = settings or self.settings
        length = max_new_tokens or self.max_new_tokens
        contents = [(prompt.ids.tolist(), prompt.category) for prompt in prompts]
        key = content_key(self.target.fingerprint, vars(settings), length, self.context_tokens, self.seed, contents)

        def make(folder: Path) -> None:
            model = self.open_model()
            traces = record(model, self.target, prompts, settings, length, self.seed, self.on_progress)
            save_traces(traces, folder / "traces.safetensors")

        return load_traces(cached_folder("traces", key, make) / "traces.safetensors")

    def _with_rollouts(self, traces: Traces, prompts: Sequence[PromptTokens], rollout_tokens: int) -> Traces:
        """The traces, and about `rollout_tokens` more tokens sampled behind the same prompts."""
        count = rollout_tokens // ROLLOUT_TOKENS
        if not count:
            return traces
        repeated = [prompts[index % len(prompts)] for index in range(count)]
        rollouts = self.record(
            repeated, SamplingSettings(max(self.settings.temperature, ROLLOUT_TEMPERATURE)), ROLLOUT_TOKENS
        )
        return replace(traces, items=traces.items + rollouts.items)


def workload_key(
    target: Target, settings: SamplingSettings, prompts: str, traces: Path | None, *, context_tokens: int, seed: int
) -> str:
    """Content key of the prompts (or traces) a run is to work with; BadRequest where it could not."""
    if traces is None:
        texts = read_prompts(prompts)
        split_prompts(texts, seed)
        tokens = tokenize(texts, target.open_tokenizer(), context_tokens)
        return content_key([prompt.ids.tolist() for prompt in tokens])
    items = _read_traces(traces, target, settings).items
    _deal(items, seed, traces)
    longest = max(len(trace.prompt) for trace in items)
    if longest >= context_tokens:
        raise BadRequest(f"{traces} has a prompt of {longest} tokens, but the run's context is {context_tokens}")
    return file_sha256(traces)


def _read_traces(path: Path, target: Target, settings: SamplingSettings) -> Traces:
    """The traces of a file; BadRequest unless they are this target's, drawn with these settings."""
    traces = load_traces(path)
    check_traces(traces, target)
    if traces.settings != settings:
        raise BadRequest(f"{path} was recorded with {traces.settings}: give the same sampling settings to the run")
    return traces


def _deal(items: Sequence[Trace], seed: int, path: Path) -> tuple[tuple[Trace, ...], ...]:
    """The traces dealt to the three splits; traces of one prompt stay together."""
    texts = sorted({trace.prompt.tobytes() for trace in items})
    if len(texts) < len(SPLIT_SHARES):
        raise BadRequest(f"{path} holds {len(texts)} different prompts: at least {len(SPLIT_SHARES)} are needed")
    order = np.random.default_rng(seed).permutation(len(texts))
    # Each split gets at least one prompt, the rest by share.
    bounds = np.clip(np.round(np.cumsum(SPLIT_SHARES) * len(texts)).astype(int), [1, 2, len(texts)], len(texts))
    bounds[:2] = np.minimum(bounds[:2], [len(texts) - 2, len(texts) - 1])
    split_of = {texts[text]: int(np.searchsorted(bounds, place, side="right")) for place, text in enumerate(order)}
    return tuple(
        tuple(trace for trace in items if split_of[trace.prompt.tobytes()] == split)
        for split in range(len(SPLIT_SHARES))
    )


def record_file(
    target_name: str,
    prompts: str,
    settings: SamplingSettings,
    *,
    max_new_tokens: int,
    seed: int,
    threads: int,
    out: Path,
    on_progress: Progress,
) -> Traces:
    """The target's traces of every prompt of a file, written to `out`."""
    target = resolve_target(target_name)
    tokens = tokenize(read_prompts(prompts), target.open_tokenizer(), target.numerics.context_tokens)
    session = open_session(compile_target(target, "onnxruntime"), threads)
    traces = record(session, target, tokens, settings, max_new_tokens, seed, on_progress)
    save_traces(traces, out)
    return traces
