"""What the search chooses: an architecture (`DraftShape`) and how to compile and use it (`Candidate`)."""

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum


class Precision(StrEnum):
    """How a compiled draft stores its matrices."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    """Eight-bit weights, one scale per output channel; whether activations are quantised too, the backend says."""
    INT4 = "int4"
    """Four-bit weights, one scale per block of `INT4_BLOCK` inputs of an output channel."""

    @property
    def weight_bytes(self) -> float:
        """Bytes of one stored matrix element, its share of a block's scale included."""
        return _MATRIX_BYTES[self]

    @property
    def other_bytes(self) -> int:
        """Bytes of one stored element of the embedding table and of the norms, which are never quantised."""
        return 2 if self in (Precision.FP16, Precision.BF16) else 4


INT4_BLOCK = 32
"""Inputs that share a scale; of the sizes runtimes offer, the one that keeps most accuracy."""

_MATRIX_BYTES = {
    Precision.FP32: 4.0,
    Precision.FP16: 2.0,
    Precision.BF16: 2.0,
    Precision.INT8: 1.0,
    Precision.INT4: 0.5 + 4 / INT4_BLOCK,
}


class Drafting(StrEnum):
    """How a session drafts k tokens; which is faster depends on shape, backend and device, and is measured."""

    CALLS = "call by call"
    """k calls of the step program."""
    BURST = "one program"
    """One call of a program of k steps, in which every step feeds its token to the next."""


@dataclass(frozen=True)
class DraftShape:
    """A decoder-only transformer's architecture; also describes targets and sources.

    Heads are grouped: each of the `kv_heads` key/value heads serves `heads / kv_heads` query heads.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    ffn: int
    vocab: int
    """Token ids the model reads: rows of its embedding table."""
    draft_vocab: int | None = None
    """Token ids a draft with a trimmed head can propose: rows of its head; None: all of `vocab`."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.draft_vocab is not None and self.draft_vocab >= self.vocab:
            raise ValueError(f"a trimmed vocabulary of {self.draft_vocab} is not smaller than the {self.vocab} whole")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot be shared evenly by {self.kv_heads} kv heads")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary embeddings need pairs")

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer, its two norms included."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.ffn + 2 * self.hidden

    @property
    def head_rows(self) -> int:
        """Rows of the output head: tokens the model can emit."""
        return self.draft_vocab or self.vocab

    @property
    def parameters(self) -> int:
        """All parameters, with separate embedding and head."""
        return self.layers * self.layer_parameters + (self.vocab + self.head_rows) * self.hidden + self.hidden

    @property
    def decode_parameters(self) -> int:
        """Parameters read to decode one token: everything but the embedding table."""
        return self.parameters - self.vocab * self.hidden

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of fp32 key/value cache one token occupies."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 4

    def weight_bytes(self, precision: Precision) -> int:
        """Bytes of the compiled weights."""
        matrices = self.layers * (self.layer_parameters - 2 * self.hidden) + self.head_rows * self.hidden
        rest = self.parameters - matrices
        return int(matrices * precision.weight_bytes + rest * precision.other_bytes)

    def __str__(self) -> str:
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        trimmed = f"-{self.draft_vocab}V" if self.draft_vocab else ""
        return f"{self.layers}L-{heads}H-{self.ffn}F-{self.hidden}D{trimmed}"


@dataclass(frozen=True)
class Build:
    """What is compiled once and measured for every lookahead: a shape on a backend at a precision."""

    shape: DraftShape
    backend: str
    precision: Precision

    def key(self) -> str:
        """Stable content hash; equal builds have equal keys in every process and version."""
        shape = {name: value for name, value in asdict(self.shape).items() if value is not None}
        return _content_hash({**shape, "backend": self.backend, "precision": self.precision.value})

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
