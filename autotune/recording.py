"""The traces a run needs, in three splits that never mix; recorded once per content and kept in the cache."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.alternatives import KEPT_MASS, MOST_KEPT
from autotune.cache import cached_folder, content_key, file_sha256
from autotune.endpoint.address import Endpoint, served_fingerprint
from autotune.endpoint.recording import record_served
from autotune.errors import BadRequest
from autotune.sampling import SamplingSettings
from autotune.targets import TextModel
from autotune.trace_files import load_traces, save_traces
from autotune.traces import TokenModel, Trace, Traces, check_traces, record
from autotune.workload import SPLIT_SHARES, Prompt, PromptTokens, read_prompts, split_prompts, tokenize

logger = logging.getLogger(__name__)

FEWEST_TRAINING_PROMPTS = 16
"""Even a proxy that does not train needs some text to judge the importance of units by."""
SHORTEST_CUT_TOKENS = 16

OpenModel = Callable[[], TokenModel]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class WorkloadTraces:
    """The workload as the run sees it."""

    train: Traces
    """What the proxy is trained on: continuations of training prompts, whole and cut."""
    estimate: Traces
    """What acceptance is estimated on."""
    validate: tuple[NDArray[np.int32], ...]
    """Prompts `[P]` that the finalists really decode."""
    validate_categories: tuple[str, ...] = ()
    """Of these prompts, one each."""


@dataclass(frozen=True)
class CategoryCounts:
    """Texts of each category: all, those to estimate on and those to validate with."""

    everything: Counter[str]
    estimate: Counter[str]
    validate: Counter[str]


@dataclass(frozen=True)
class Recorder:
    """Records traces of a target; the model is opened, or its server asked, only if something is not in the cache."""

    target: TextModel
    settings: SamplingSettings
    max_new_tokens: int
    context_tokens: int
    """Capacity of the model's program, at which continuations end."""
    seed: int
    open_model: OpenModel | None
    """The target's program, where it runs here; None where `endpoint` serves it."""
    on_progress: Progress
    computed_by: str = "cpu fp32"
    """Device and precision of the model: where logits are level, they decide what comes next."""
    endpoint: Endpoint | None = None
    """The server that continues the prompts instead of `open_model`."""

    def from_prompts(self, prompts: str, training_tokens: int) -> WorkloadTraces:
        """The splits of a prompts file (or `builtin`), with about `training_tokens` tokens to train on."""
        splits = split_prompts(read_prompts(prompts), self.seed)
        if not splits.documents_apart:
            logger.warning(
                "the prompts of %s come from too few sources to train on some and hold out others: passages that "
                "overlap may be on both sides, and acceptance may be overestimated",
                prompts,
            )
        tokenizer = self.target.open_tokenizer()
        train, estimate, validate = (
            tokenize(part, tokenizer, self.context_tokens) for part in (splits.train, splits.estimate, splits.validate)
        )
        return WorkloadTraces(
            train=self.record(self._training_prompts(train, training_tokens), alternatives=True),
            estimate=self.record(estimate),
            validate=tuple(prompt.ids for prompt in validate),
            validate_categories=tuple(prompt.category for prompt in validate),
        )

    def from_file(self, path: Path, training_tokens: int) -> WorkloadTraces:
        """The splits of traces the user brings, as they are; what they lack of `training_tokens` is recorded."""
        traces = _read_traces(path, self.target, self.settings)
        train, estimate, validate = _deal(traces.items, self.seed, path)
        prompts = [PromptTokens(trace.prompt, trace.category, str(path)) for trace in train]
        missing = training_tokens - sum(len(trace.continuation) for trace in train)
        more = self.record(self._cut(prompts, missing), alternatives=True).items if missing > 0 else ()
        return WorkloadTraces(
            train=replace(traces, items=train + more),
            estimate=replace(traces, items=estimate),
            validate=tuple(trace.prompt for trace in validate),
            validate_categories=tuple(trace.category for trace in validate),
        )

    def record(self, prompts: Sequence[PromptTokens], alternatives: bool = False) -> Traces:
        """Traces of these prompts, from the cache if they were recorded before; with `alternatives` to train on them.

        BadRequest where the disk has no room for them; nothing is left of them then.
        """
        contents = [(prompt.ids.tolist(), prompt.category) for prompt in prompts]
        settings = vars(self.settings)
        served = self.endpoint and served_fingerprint(self.endpoint, self.target.tokenizer_fingerprint)
        key = content_key(
            self.target.fingerprint,
            served or self.computed_by,
            settings,
            self.max_new_tokens,
            self.context_tokens,
            self.seed,
            contents,
            *([("alternatives", KEPT_MASS, MOST_KEPT)] if alternatives else []),
        )

        def make(folder: Path) -> None:
            save_traces(self._continue(prompts, alternatives), folder / "traces.safetensors")

        return load_traces(cached_folder("traces", key, make) / "traces.safetensors")

    def _continue(self, prompts: Sequence[PromptTokens], alternatives: bool) -> Traces:
        """Traces of these prompts, recorded now."""
        how = (prompts, self.settings, self.max_new_tokens, self.seed, self.on_progress)
        if self.endpoint is not None:
            return record_served(self.endpoint, self.target, *how, alternatives, context_tokens=self.context_tokens)
        if self.open_model is None:
            raise BadRequest(f"{self.target.id} cannot be run here: give traces of it, or the URL of its server")
        return record(self.open_model(), self.target, *how, alternatives)

    def _training_prompts(self, prompts: Sequence[PromptTokens], training_tokens: int) -> list[PromptTokens]:
        """As many of the prompts as give `training_tokens`, and if they are too few, cut ones too."""
        count = max(-(-training_tokens // self.max_new_tokens), FEWEST_TRAINING_PROMPTS)
        shuffled = [prompts[index] for index in np.random.default_rng(self.seed).permutation(len(prompts))]
        missing = training_tokens - len(prompts) * self.max_new_tokens
        return shuffled[:count] + (self._cut(shuffled, missing) if missing > 0 else [])

    def _cut(self, prompts: Sequence[PromptTokens], tokens: int) -> list[PromptTokens]:
        """Beginnings of the prompts, cut where a seeded draw says, until their continuations give so many tokens.

        The target's own continuation of a cut prompt is new text of the very kind that drafts are to predict.
        """
        rng = np.random.default_rng([self.seed, len(prompts)])
        result = []
        for index in range(-(-tokens // self.max_new_tokens)):
            prompt = prompts[index % len(prompts)]
            length = int(rng.integers(min(SHORTEST_CUT_TOKENS, len(prompt.ids)), len(prompt.ids) + 1))
            result.append(replace(prompt, ids=prompt.ids[:length]))
        return result


def workload_key(
    target: TextModel, settings: SamplingSettings, prompts: str, traces: Path | None, *, context_tokens: int, seed: int
) -> str:
    """Content key of the prompts (or traces) a run is to work with; BadRequest where it could not."""
    if traces is None:
        texts = read_prompts(prompts)
        split_prompts(texts, seed)
        tokenize(texts, target.open_tokenizer(), context_tokens)
        return content_key([(prompt.text, prompt.category, prompt.only_train, prompt.document) for prompt in texts])
    items = _read_traces(traces, target, settings).items
    _deal(items, seed, traces)
    longest = max(len(trace.prompt) for trace in items)
    if longest >= context_tokens:
        raise BadRequest(f"{traces} has a prompt of {longest} tokens, but the run's context is {context_tokens}")
    return file_sha256(traces)


def count_categories(prompts: str, traces: Path | None, seed: int) -> CategoryCounts:
    """The categories of the prompts (or traces) a run is to work with, as its splits will have them."""
    if traces is None:
        texts = read_prompts(prompts)
        splits = split_prompts(texts, seed)
        parts: Sequence[Sequence[Prompt | Trace]] = (texts, splits.estimate, splits.validate)
    else:
        items = load_traces(traces).items
        _, estimate, validate = _deal(items, seed, traces)
        parts = (items, estimate, validate)
    return CategoryCounts(*(Counter(each.category for each in part) for part in parts))


def _read_traces(path: Path, target: TextModel, settings: SamplingSettings) -> Traces:
    """The traces of a file; BadRequest unless they are this target's, drawn with these settings."""
    traces = load_traces(path)
    check_traces(traces, target)
    if traces.settings != settings:
        raise BadRequest(f"{path} was recorded with {traces.settings.flags}: give the same to the run")
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
