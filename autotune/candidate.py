"""What the search chooses: an architecture and how to compile it (`Build`), and how to use it (`Candidate`)."""

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum

from autotune.number_formats import INT4_BLOCK as INT4_BLOCK
from autotune.number_formats import QUANTISED as QUANTISED
from autotune.number_formats import Precision as Precision
from autotune.shape import DraftShape as DraftShape
from autotune.shape import Style


class Drafting(StrEnum):
    """How a session drafts k tokens; which is faster depends on shape, backend and device, and is measured."""

    CALLS = "call by call"
    """k calls of the step program."""
    BURST = "one program"
    """One call of a program of k steps, in which every step feeds its token to the next."""


class LookupKind(StrEnum):
    """How the text itself is searched for what may follow; no model is needed."""

    PROMPT_LOOKUP = "prompt-lookup"
    """The last n tokens' latest earlier occurrence, n from the largest to the smallest."""
    SUFFIX_AUTOMATON = "suffix-automaton"
    """The longest end of the text that occurred before, whatever its length."""


@dataclass(frozen=True)
class Lookup:
    """A drafter without a model."""

    kind: LookupKind
    shortest_match: int = 1
    """Tokens that must agree before anything is proposed."""
    longest_match: int | None = None
    """Tokens that are compared at most; None: any number."""

    def __str__(self) -> str:
        longest = "" if self.longest_match is None else f" … {self.longest_match}"
        return f"{self.kind.value}, matches of {self.shortest_match}{longest or ' or more'} tokens"


@dataclass(frozen=True)
class Build:
    """What is compiled once and measured for every lookahead: a shape on a backend at a precision."""

    shape: DraftShape
    backend: str
    precision: Precision

    def key(self) -> str:
        """Stable content hash; equal builds have equal keys in every process and version."""
        # What is as usual is left out, so that a key stays what it was when a new way to differ is added.
        usual = asdict(Style())
        style = {name: value for name, value in asdict(self.shape.style).items() if value != usual[name]}
        shape = {name: value for name, value in asdict(self.shape).items() if value is not None and name != "style"}
        return _content_hash({**shape, **style, "backend": self.backend, "precision": self.precision.value})

    def __str__(self) -> str:
        return f"{self.shape} {self.precision.value} {self.backend}"


@dataclass(frozen=True)
class Candidate:
    """One point of the search: a build and the lookahead k it is used with (0: do not speculate)."""

    build: Build
    lookahead: int

    @property
    def shape(self) -> DraftShape:
        """The architecture."""
        return self.build.shape

    def memory_bytes(self, context_tokens: int) -> int:
        """Bytes a pair needs for the draft: weights, its KV cache, and the (k+1)-wide logits of a verification."""
        shape = self.shape
        logits = (self.lookahead + 1) * shape.vocab * 4
        precision = self.build.precision
        cache = shape.kv_bytes_per_token * context_tokens * precision.other_bytes // 4
        return shape.weight_bytes(precision) + cache + logits

    def key(self) -> str:
        """Stable content hash of everything that defines the candidate."""
        return f"{self.build.key()}-k{self.lookahead}"


def _content_hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
