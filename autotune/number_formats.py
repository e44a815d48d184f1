"""How compiled programs store numbers."""

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


QUANTISED = frozenset({Precision.INT8, Precision.INT4})
"""Those that store matrices as integers with scales."""

INT4_BLOCK = 32
"""Inputs that share a scale; of the sizes runtimes offer, the one that keeps most accuracy."""

_MATRIX_BYTES = {
    Precision.FP32: 4.0,
    Precision.FP16: 2.0,
    Precision.BF16: 2.0,
    Precision.INT8: 1.0,
    Precision.INT4: 0.5 + 4 / INT4_BLOCK,
}
