"""Traces: a target's own continuations of prompts, all that scoring a draft needs to know of the target."""

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autotune.alternatives import Alternatives as Alternatives
from autotune.alternatives import alternatives_of, join_alternatives, no_alternatives
from autotune.errors import BadRequest
from autotune.program import Program
from autotune.sampling import SamplingSettings, distribution, draw
from autotune.targets import TextModel
from autotune.workload import PromptTokens

_PREFILL_TOKENS = 64
_LOOP_GRAM_TOKENS = 4

Tokens = Sequence[int] | NDArray[np.int64]


class TokenModel(Protocol):
    """What recording needs of a target's session (see `autotune.runtime.session.Session`)."""

    program: Program

    def logits(self, tokens: Tokens, start: int) -> NDArray[np.float32]:
        """Logits `[n, vocab]` after each of the n tokens, the first of them at position `start`."""

    def greedy(self, tokens: Tokens, start: int) -> NDArray[np.int64]:
        """The arg-max token `[n]` after each of the n tokens."""


@dataclass(frozen=True)
class Trace:
    """One prompt and what the target wrote behind it."""

    prompt: NDArray[np.int32]
    """[P] token ids, P ≥ 1."""
    continuation: NDArray[np.int32]
    """[T] token ids, T ≥ 1; an EOS that ended it is included."""
    logprobs: NDArray[np.float32]
    """[T] log-probability of each continuation token in the distribution it was drawn from; 0 when greedy."""
    top: NDArray[np.int32]
    """[P + T] the target's most likely token at each position, given the tokens before it; -1 where it is unknown, as
    at the first position, and in prompts that a server was not asked about, or did not tell."""
    category: str
    alternatives: Alternatives | None = None
    """None where only the drawn tokens were recorded."""

    @property
    def tokens(self) -> NDArray[np.int32]:
        """[P + T] prompt and continuation."""
        return np.concatenate([self.prompt, self.continuation])

    @property
    def looping(self) -> bool:
        """Whether fewer than half of the continuation's 4-grams are distinct."""
        grams = np.lib.stride_tricks.sliding_window_view(
            self.continuation, min(_LOOP_GRAM_TOKENS, len(self.continuation))
        )
        return len(np.unique(grams, axis=0)) * 2 < len(grams)


@dataclass(frozen=True)
class Traces:
    """Continuations of a set of prompts by one target under one way of sampling."""

    items: tuple[Trace, ...]
    settings: SamplingSettings
    target_fingerprint: str
    tokenizer_fingerprint: str
    seed: int

    @property
    def tokens(self) -> int:
        """Continuation tokens of all traces together."""
        return sum(len(trace.continuation) for trace in self.items)

    @property
    def looping_share(self) -> float:
        """Share of the traces that loop; loops are easy to draft and inflate acceptance."""
        return sum(trace.looping for trace in self.items) / len(self.items)


def record(
    model: TokenModel,
    target: TextModel,
    prompts: Sequence[PromptTokens],
    settings: SamplingSettings,
    max_new_tokens: int,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    alternatives: bool = False,
) -> Traces:
    """Traces of `target`, computed by `model` (its compiled program), with `alternatives` on demand.

    A continuation ends at an EOS, after `max_new_tokens`, or where the context ends.  What is drawn for a prompt
    depends on the seed and that prompt alone, not on the others.  `on_progress(done, all)` is called per prompt.
    """
    if max_new_tokens < 1:
        raise BadRequest(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    context_tokens = min(target.numerics.context_tokens, model.program.capacity_tokens)
    for prompt in prompts:
        if len(prompt.ids) >= context_tokens:
            raise BadRequest(
                f"the prompt from {prompt.source} has {len(prompt.ids)} tokens and leaves no room in the context "
                f"of {context_tokens}"
            )
    traces = []
    seen: Counter[int] = Counter()
    for prompt in prompts:
        content = zlib.crc32(prompt.ids.tobytes())
        # A prompt that is given twice is continued twice, with different luck.
        rng = np.random.default_rng([seed, content, seen[content]])
        seen[content] += 1
        longest = min(max_new_tokens, context_tokens - len(prompt.ids))
        likely = _Likeliest() if alternatives else None
        traces.append(_continue(model, prompt, settings, longest, target.eos_ids, rng, likely))
        if on_progress is not None:
            on_progress(len(traces), len(prompts))
    return Traces(tuple(traces), settings, target.fingerprint, target.tokenizer_fingerprint, seed)


def check_traces(traces: Traces, target: TextModel) -> None:
    """BadRequest unless the traces were recorded from this very target."""
    if traces.tokenizer_fingerprint != target.tokenizer_fingerprint:
        raise BadRequest(f"the traces were recorded with another tokenizer than {target.id}'s: record them again")
    if traces.target_fingerprint != target.fingerprint:
        raise BadRequest(f"the traces were recorded from another target than {target.id}: record them again")
    highest = max(_highest_token(trace) for trace in traces.items)
    if highest >= target.shape.vocab:
        raise BadRequest(f"the traces hold token {highest}, but {target.id} has only {target.shape.vocab} tokens")


def _highest_token(trace: Trace) -> int:
    drawn = int(trace.tokens.max())
    return drawn if trace.alternatives is None else int(trace.alternatives.tokens.max(initial=drawn))


class _Likeliest:
    """Gathers a trace's alternatives; they are chosen for many positions at once, for NumPy's calls cost more."""

    def __init__(self) -> None:
        self._parts = [no_alternatives(1)]
        self._waiting: list[NDArray[np.float64]] = []

    def add(self, probabilities: NDArray[np.float64]) -> None:
        """Append positions by their probabilities `[n, vocab]`."""
        self._waiting.append(probabilities)
        if sum(map(len, self._waiting)) >= _PREFILL_TOKENS:
            self._choose()

    def all(self) -> Alternatives:
        """Of the first position, of which nothing is known, and of all that were added."""
        if self._waiting:
            self._choose()
        return join_alternatives(self._parts)

    def _choose(self) -> None:
        self._parts.append(alternatives_of(np.concatenate(self._waiting)))
        self._waiting.clear()


def _continue(
    model: TokenModel,
    prompt: PromptTokens,
    settings: SamplingSettings,
    longest: int,
    eos_ids: tuple[int, ...],
    rng: np.random.Generator,
    likely: _Likeliest | None,
) -> Trace:
    """The trace of one prompt; `longest` ≥ 1 bounds its continuation."""
    prompt_tokens = len(prompt.ids)
    shown = SamplingSettings(temperature=1.0) if settings.greedy else settings
    top = [-1]
    for start in range(0, prompt_tokens - 1, _PREFILL_TOKENS):
        chunk = prompt.ids[start : min(start + _PREFILL_TOKENS, prompt_tokens - 1)].astype(np.int64)
        if likely is None:
            top.extend(model.greedy(chunk, start).tolist())
        else:
            logits = model.logits(chunk, start)
            top.extend(logits.argmax(-1).tolist())
            likely.add(distribution(logits, shown))
    continuation: list[int] = []
    logprobs: list[float] = []
    token = int(prompt.ids[-1])
    while len(continuation) < longest:
        position = prompt_tokens - 1 + len(continuation)
        if settings.greedy and likely is None:
            token = int(model.greedy([token], position)[0])
            top.append(token)
            logprobs.append(0.0)
        else:
            logits = model.logits([token], position)
            probabilities = distribution(logits, shown)
            top.append(int(logits[0].argmax()))
            token = top[-1] if settings.greedy else draw(probabilities[0], rng)
            logprobs.append(0.0 if settings.greedy else float(np.log(probabilities[0, token])))
            if likely is not None:
                likely.add(probabilities)
        continuation.append(token)
        if token in eos_ids:
            break
    return Trace(
        prompt.ids,
        np.array(continuation, np.int32),
        np.array(logprobs, np.float32),
        np.array(top, np.int32),
        prompt.category,
        None if likely is None else likely.all(),
    )
