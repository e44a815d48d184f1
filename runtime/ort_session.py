"""Runs a program compiled for ONNX Runtime.

Every buffer is allocated once and bound once: a step writes three small arrays in place and calls the runtime.  The
key/value cache is bound as input *and* output, so it is updated in place and a longer capacity costs nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.errors import ArtifactError
from autotune.ort_layout import MODEL_FILE, WEIGHTS_FILE, Drawing, program_files
from autotune.program import Drafting, Program
from autotune.runtime.ort_bursts import Bursts
from autotune.runtime.ort_draw import DrawBuffers, Samplers
from autotune.runtime.ort_engine import Graphs, bind
from autotune.runtime.sampled_burst import draw_call_by_call
from autotune.runtime.session import SampledBurst, StoppedBurst, Tokens
from autotune.runtime.spans import check_capacity, check_span
from autotune.runtime.stopping_burst import check_rule, stop_call_by_call
from autotune.sampling import SamplingSettings
from autotune.stopping import Pace, StopRule

PIECE_TOKENS = 64
"""Long prompts are fastest in pieces of about this many tokens: wider ones gain nothing in the matrix products, and
attention computes scores over the whole capacity for each.  Bindings for up to this many tokens are kept."""

MOST_GIVEN = 2
"""Tokens that a burst is given at most; more than these enter the cache by a call of their own."""

_FIRST_WITH_SAMPLERS = 2
"""Schema of the first programs that have samplers; of older ones, tokens are drawn by NumPy."""


@dataclass(frozen=True)
class _Bound:
    """The program bound to its buffers for one number of tokens n."""

    run: Callable[[], object]
    result: NDArray[Any]
    """What `run` writes: arg-max tokens `[n]` or logits `[n, head_rows]`."""


class OrtSession:
    """One sequence's decoder on the CPU; see `autotune.runtime.session.Session`."""

    def __init__(self, folder: Path, program: Program, threads: int, like: "OrtSession | None" = None):
        """like: another session of the same folder, whose programs and weights it shares."""
        self.program = program
        self.drafting = program.drafting
        self._draws = program.schema_version >= _FIRST_WITH_SAMPLERS
        self._folder, self._threads = folder, threads
        if like is None:
            _check_complete(folder, program.longest_burst, self._draws)
        self._graphs: Graphs = like._graphs if like else Graphs(folder, threads)
        self._session = self._graphs.open(MODEL_FILE)
        self._tokens = np.zeros(program.capacity_tokens, np.int64)
        self._last_position = np.zeros(1, np.int32)
        self._total_tokens = np.zeros((), np.int32)
        self._cache = {
            value.name.removeprefix("past."): np.zeros(value.shape, np.float32)
            for value in self._session.get_inputs()
            if value.name.startswith("past.")
        }
        self._cached_tokens = 0
        self._kept: dict[tuple[str, int], _Bound] = {}
        self._buffers = DrawBuffers(program)
        self._samplers = Samplers(self._graphs, self._buffers)
        self._bursts = Bursts(self._graphs, self._cache, self._buffers, program.longest_burst, MOST_GIVEN)

    def logits(self, tokens: Tokens, start: int) -> NDArray[np.float32]:
        """Logits `[n, head_rows]` after each of the n tokens; a view, valid until the next call."""
        logits: NDArray[np.float32] = self._advance("logits", tokens, start)
        return logits

    def greedy(self, tokens: Tokens, start: int) -> NDArray[np.int64]:
        """The arg-max token `[n]` after each of the n tokens; a view, valid until the next call."""
        tokens_after: NDArray[np.int64] = self._advance("argmax", tokens, start)
        return tokens_after

    def burst(self, tokens: Tokens, start: int, count: int) -> list[int]:
        """`count` greedily drafted tokens; all but the last of them enter the cache behind the given ones."""
        self._check(tokens, start, count)
        if self._in_one_program(count):
            self._run_burst(Drawing.GREEDY, tokens, start, count)
            return self._buffers.drafted(count)
        end = start + len(tokens) + count - 1
        drafted = [int(self.greedy(tokens, start)[-1])]
        step = self._bound("argmax", 1)
        for position in range(start + len(tokens), end):
            self._tokens[0] = drafted[-1]
            self._last_position[0] = position
            self._total_tokens[()] = position + 1
            step.run()
            drafted.append(int(step.result[0]))
        self._cached_tokens = end
        return drafted

    def sampled_burst(
        self, tokens: Tokens, start: int, count: int, settings: SamplingSettings, noise: Sequence[float]
    ) -> SampledBurst:
        """`count` tokens drawn with these settings, each from one number of `noise`; valid until the next one."""
        self._check(tokens, start, count)
        if settings.greedy or not self._draws:
            return draw_call_by_call(self, tokens, start, count, settings, noise)
        drawing = self._buffers.set(settings, noise[:count])
        if self._in_one_program(count):
            self._run_burst(drawing, tokens, start, count)
            return self._buffers.drawn(count)
        for place in range(count):
            given = tokens if place == 0 else self._buffers.tokens[place - 1 : place]
            self._samplers.draw(drawing, self.logits(given, start)[-1:], place)
            start += len(given)
        return self._buffers.drawn(count)

    def stopping_burst(
        self,
        tokens: Tokens,
        start: int,
        count: int,
        rule: StopRule,
        settings: SamplingSettings,
        noise: Sequence[float],
    ) -> StoppedBurst:
        """At most `count` tokens, a call for each: a graph cannot end early."""
        self._check(tokens, start, count)
        if settings.greedy or not self._draws:
            return stop_call_by_call(self, tokens, start, count, rule, settings, noise)
        check_rule(count, rule)
        drawing, pace, drafted = self._buffers.set(settings, noise[:count]), Pace(rule), 0
        while drafted < count:
            given = tokens if drafted == 0 else self._buffers.tokens[drafted - 1 : drafted]
            self._samplers.draw(drawing, self.logits(given, start)[-1:], drafted)
            start, drafted = start + len(given), drafted + 1
            if not pace.goes_on(self._buffers.confidence(drafted - 1)):
                break
        drawn = self._buffers.drawn(drafted)
        return StoppedBurst(drawn.tokens, pace.survival, drawn)

    def pretend_cached(self, count: int) -> None:
        """Take the first `count` positions for cached; their keys and values become zeros."""
        check_capacity(self.program, count)
        for array in self._cache.values():
            array.fill(0)  # written, since pages that never were are one page of zeros, and read from a cache
        self._cached_tokens = count

    def sibling(self) -> "OrtSession":
        """Another sequence's decoder of the same program."""
        return OrtSession(self._folder, self.program, self._threads, like=self)

    def close(self) -> None:
        """Free the program and its cache; the session cannot be used afterwards, but closed again."""
        self._kept.clear()
        self._cache.clear()
        for name in ("_session", "_graphs", "_samplers", "_bursts"):
            self.__dict__.pop(name, None)

    def _in_one_program(self, count: int) -> bool:
        return self.drafting is Drafting.BURST and count <= self.program.longest_burst

    def _run_burst(self, drawing: Drawing, tokens: Tokens, start: int, count: int) -> None:
        spare = max(len(tokens) - MOST_GIVEN, 0)
        if spare:
            self.greedy(tokens[:spare], start)
        self._bursts.run(drawing, tokens[spare:], start + spare, count)
        self._cached_tokens = start + len(tokens) + count - 1

    def _advance(self, output: str, tokens: Tokens, start: int) -> NDArray[Any]:
        """The named output of one call with these tokens at `start`, which become the end of the cached sequence."""
        count = len(tokens)
        self._check(tokens, start)
        bound = self._bound(output, count)
        self._tokens[:count] = tokens
        self._last_position[0] = start + count - 1
        self._total_tokens[()] = start + count
        bound.run()
        self._cached_tokens = start + count
        return bound.result

    def _check(self, tokens: Tokens, start: int, drafted: int = 1) -> None:
        check_span(self.program, self._cached_tokens, tokens, start, drafted)

    def _bound(self, output: str, count: int) -> _Bound:
        """The program bound to write `output` for `count` tokens."""
        kept = self._kept.get((output, count))
        if kept:
            return kept
        bound = self._bind(output, count)
        if count <= PIECE_TOKENS:
            self._kept[output, count] = bound
        return bound

    def _bind(self, output: str, count: int) -> _Bound:
        inputs: dict[str, NDArray[Any]] = {
            "tokens": self._tokens[None, :count],
            "seqlens_k": self._last_position,
            "total_sequence_length": self._total_tokens,
        }
        result: NDArray[Any] = (
            np.zeros((1, count), np.int64)
            if output == "argmax"
            else np.zeros((1, count, self.program.shape.head_rows), np.float32)
        )
        inputs |= {f"past.{name}": array for name, array in self._cache.items()}
        outputs = {output: result} | {f"present.{name}": array for name, array in self._cache.items()}
        return _Bound(bind(self._session, inputs, outputs), result[0])


def _check_complete(folder: Path, longest_burst: int, draws: bool) -> None:
    """ArtifactError if a file of the program is missing."""
    for name in program_files(longest_burst) if draws else (MODEL_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder} is incomplete: {name} is missing; compile the draft again")
