"""The protocol every backend's session follows, and the registry that opens a compiled program.

A session is one sequence's decoder with its own key/value cache.  Positions are explicit: `start` is the position of
the first token given, and everything at and after it is overwritten, so rolling back is calling again with a smaller
`start`.  Returned arrays are views that the next call may overwrite.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autotune.devices import check_compiled_for
from autotune.errors import ArtifactError
from autotune.program import Drafting, Program
from autotune.sampling import SamplingSettings
from autotune.stopping import StopRule

Tokens = Sequence[int] | NDArray[np.int64]
Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class SampledBurst:
    """Drafted tokens and what verifying them needs to know of the distributions they were drawn from."""

    tokens: list[int]
    probabilities: list[float]
    """q of each token where it was drawn."""
    distribution: Callable[[int], Probabilities]
    """q `[vocab]` at a place of the burst, needed only where a token is rejected; valid until the next call."""


@dataclass(frozen=True)
class StoppedBurst:
    """Tokens of a burst that may have ended early."""

    tokens: list[int]
    survival: float
    """log S of all of them (see `autotune.stopping`)."""
    drawn: SampledBurst | None = None
    """How they were drawn; None: greedily."""


class Session(Protocol):
    """One sequence's decoder; `start` never exceeds the number of positions already cached."""

    program: Program
    drafting: Drafting
    """How bursts are drafted; may be changed at any time.  Lengths without a program of their own take calls."""

    def logits(self, tokens: Tokens, start: int) -> NDArray[np.float32]:
        """Logits `[n, head_rows]` after each of the n tokens; their keys and values enter the cache at `start`."""

    def greedy(self, tokens: Tokens, start: int) -> NDArray[np.int64]:
        """The arg-max token `[n]` after each of the n tokens (first of equal maxima); no logits leave the device."""

    def burst(self, tokens: Tokens, start: int, count: int) -> list[int]:
        """`count` tokens drafted greedily, one after the other, behind the 1 or 2 given ones."""

    def sampled_burst(
        self, tokens: Tokens, start: int, count: int, settings: SamplingSettings, noise: Sequence[float]
    ) -> SampledBurst:
        """As `burst`, but drawn with these settings, each token from one uniform number of `noise` `[count]`."""

    def stopping_burst(
        self,
        tokens: Tokens,
        start: int,
        count: int,
        rule: StopRule,
        settings: SamplingSettings,
        noise: Sequence[float],
    ) -> StoppedBurst:
        """As `burst` or, with settings that are not greedy, `sampled_burst`, but at most `count` tokens: the rule ends
        it behind the first token after which drafting does not go on."""

    def pretend_cached(self, count: int) -> None:
        """Take the first `count` positions for cached, whatever they hold, to time what comes behind them."""

    def sibling(self) -> "Session":
        """Another sequence's decoder of the same program, with a cache of its own; the two are never used at once."""

    def close(self) -> None:
        """Free the program and its cache."""


class BatchSession(Protocol):
    """Decoders of several sequences that compute together, each at a position of its own.

    A call is given tokens of all of them, or of some: `sequences` names whose the rows are, as many as
    `Program.batches` has.  The others' caches are not touched.
    """

    program: Program

    def logits(
        self, tokens: NDArray[np.int64], starts: Sequence[int], sequences: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """Logits `[rows, n, head_rows]` after each of the tokens `[rows, n]`; row i continues at `starts[i]`."""

    def greedy(
        self, tokens: NDArray[np.int64], starts: Sequence[int], sequences: Sequence[int] | None = None
    ) -> NDArray[np.int64]:
        """The arg-max token `[rows, n]` after each of the tokens `[rows, n]`."""

    def close(self) -> None:
        """Free the program and its caches."""


SESSIONS: Mapping[str, Mapping[str, str]] = {
    "onnxruntime": {
        "cpu": "autotune.runtime.ort_session:OrtSession",
        "cuda": "autotune.runtime.ort_cuda_session:OrtCudaSession",
    },
    "tvm": {
        "cpu": "autotune.runtime.tvm_session:TvmSession",
        "cuda": "autotune.runtime.tvm_cuda_session:TvmCudaSession",
    },
}
"""Session class of each backend on each device, as `module:class`; imported only when such a program is opened."""


BATCH_BACKEND = "onnxruntime"
"""Whose programs decode several sequences at once."""
BATCH_SESSIONS: Mapping[str, Mapping[str, str]] = {
    BATCH_BACKEND: {"cpu": "autotune.runtime.ort_batch_session:OrtBatchSession"}
}
"""As `SESSIONS`, of programs for several sequences at once."""


def open_session(folder: Path, threads: int) -> Session:
    """A fresh session of the compiled program in `folder`, computing with that many threads.

    ArtifactError if it cannot be run by this version, on this machine, or at all.
    """
    program = Program.read(folder)
    if program.batch > 1:
        raise ArtifactError(f"{folder} was compiled for {program.batch} sequences at once, not for one alone")
    session: Session = _session_class(SESSIONS, folder, program)(folder, program, threads)
    return session


def open_batch_session(folder: Path, threads: int) -> BatchSession:
    """A fresh session of a program that was compiled for several sequences; ArtifactError as of `open_session`."""
    program = Program.read(folder)
    if program.batch == 1:
        raise ArtifactError(f"{folder} was compiled for one sequence, not for several at once")
    session: BatchSession = _session_class(BATCH_SESSIONS, folder, program)(folder, program, threads)
    return session


def _session_class(registry: Mapping[str, Mapping[str, str]], folder: Path, program: Program) -> Any:
    """The class in the registry that runs the program here."""
    if program.backend not in registry:
        raise ArtifactError(f"{folder} was compiled by {program.backend!r}; this version runs: {', '.join(registry)}")
    if program.device not in registry[program.backend]:
        known = ", ".join(registry[program.backend])
        raise ArtifactError(
            f"{folder} was compiled by {program.backend} for {program.device!r}; this version runs it on: {known}"
        )
    check_compiled_for(program.device, folder)
    module, _, name = registry[program.backend][program.device].partition(":")
    return getattr(import_module(module), name)
