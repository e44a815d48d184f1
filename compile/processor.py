"""What the processor's vectors can do, as far as it decides how programs are made (neither TVM nor ONNX Runtime)."""

from functools import cache

from autotune.devices import processor_flags

WIDE_REGISTERS = 512
"""Floats in the registers of AVX-512: 32 of 16."""
_USUAL = 128
"""In AVX2's 16 registers of 8, and in NEON's 32 of 4."""


@cache
def register_floats() -> int:
    """Floats (fp32) that all vector registers hold together."""
    return WIDE_REGISTERS if "avx512f" in processor_flags() else _USUAL


@cache
def adds_bytes_exactly() -> bool:
    """Whether products of unsigned and signed bytes are added up in 32 bits at once.

    Of the x86 processors those with VNNI do it; on others ONNX Runtime's fast kernel adds pairs up in 16 bits, where
    they saturate (oneDNN's guide, "Nuances of int8 computations").
    """
    flags = processor_flags()
    return "sse2" not in flags or not flags.isdisjoint({"avx512_vnni", "avx_vnni"})
