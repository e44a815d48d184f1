"""What the search chooses: an architecture (`DraftShape`) and how to compile and use it (`Candidate`)."""

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum


class Precision(StrEnum):
    """How a compiled draft stores its matrices."""

    FP32 = "fp32"
    INT8 = "int8"
    """Dynamic int8: per-channel weights, per-tensor activations quantised at run time."""

    @property
    def weight_bytes(self) -> float:
        """Bytes of one stored matrix element."""
        return {Precision.FP32: 4.0, Precision.INT8: 1.0}[self]


@dataclass(frozen=True, order=True)
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

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
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
    def parameters(self) -> int:
        """All parameters, with separate embedding and head."""
        return self.layers * self.layer_parameters + 2 * self.vocab * self.hidden + self.hidden

    @property
    def decode_parameters(self) -> int:
        """Parameters read to decode one token: everything but the embedding table."""
        return self.parameters - self.vocab * self.hidden

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of fp32 key/value cache one token occupies."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 4

    def weight_bytes(self, precision: Precision) -> int:
        """Bytes of the compiled weights; the embedding table and the norms stay fp32."""
        matrices = self.layers * (self.layer_parameters - 2 * self.hidden) + self.vocab * self.hidden
        rest = self.parameters - matrices
        return int(matrices * precision.weight_bytes + rest * 4)

    def __str__(self) -> str:
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        return f"{self.layers}L-{heads}H-{self.ffn}F-{self.hidden}D"


@dataclass(frozen=True)
class Build:
    """What is compiled once and measured for every lookahead: a shape on a backend at a precision."""

    shape: DraftShape
    backend: str
    precision: Precision

    def key(self) -> str:
        """Stable content hash; equal builds have equal keys in every process and version."""
        return _content_hash({**asdict(self.shape), "backend": self.backend, "precision": self.precision.value})

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
        cache = shape.kv_bytes_per_token * context_tokens
        return shape.weight_bytes(self.build.precision) + cache + logits

    def key(self) -> str:
        """Stable content hash of everything that defines the candidate."""
        return f"{self.build.key()}-k{self.lookahead}"


def _content_hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
