"""How a TVM kernel multiplies: what kernel tuning may change (data only, so that nobody loads TVM for it)."""

from dataclasses import dataclass

from autotune.candidate import Precision
from autotune.compile.processor import WIDE_REGISTERS, register_floats


@dataclass(frozen=True)
class Schedule:
    """How one product is computed; every schedule gives the same result, up to rounding."""

    single_row_sums: int = 4
    """Sums per column while there is one row (a power of two)."""
    unroll: int = 1
    """Turns of the loop over inputs that are written out as one."""
    prefetch_bytes: int = 0
    """How far ahead of their use weights are asked for; 0: that is left to the processor."""
    parallel: bool | None = None
    """Whether the threads share the blocks of columns, or one computes all; None: by the size of the matrix."""

    def __str__(self) -> str:
        ahead = f", prefetch {self.prefetch_bytes} B" if self.prefetch_bytes else ""
        unroll = f", unroll {self.unroll}" if self.unroll > 1 else ""
        threads = {None: "threads by size", True: "all threads", False: "one thread"}[self.parallel]
        return f"{self.single_row_sums} sums{unroll}{ahead}, {threads}"


def default_schedule(precision: Precision) -> Schedule:
    """The schedule of a product that was not tuned: 64 sums fill half of the registers of most processors."""
    if register_floats() < WIDE_REGISTERS:
        return Schedule(single_row_sums=1)
    return Schedule(single_row_sums=2) if precision is Precision.INT4 else Schedule()
