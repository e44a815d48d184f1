"""How much the processor's vector registers hold: what decides how kernels are cut (no TVM)."""

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
