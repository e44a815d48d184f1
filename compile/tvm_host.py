"""The TVM target of the processor at hand."""

import re
from collections.abc import Collection
from importlib import import_module
from typing import Any

from autotune.devices import processor_flags

_MAY_BE_MASKED = re.compile(r"avx|amx|fma4?$|f16c$|vaes$|vpclmulqdq$|gfni$|sha|bmi2$|adx$|xop$|sse4a$")
"""Features by LLVM's names that it uses unasked; the rest only steers how code is scheduled, or needs an intrinsic."""
_NAMES = {"sha": "shani"}
"""Where Linux calls a feature of LLVM's by another name, letters and digits alone."""


def host_target() -> Any:
    """The `tvm.target.Target` of this machine's processor, with no feature that the machine lacks.

    LLVM goes by the processor's model.  A virtual machine may hide some of the model's features, AVX-512 often, and a
    program that used them would die of SIGILL.
    """
    tvm = import_module("tvm")
    codegen = tvm.target.codegen
    model = {"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()}
    assumed = [str(name) for name in codegen.llvm_get_cpu_features(tvm.target.Target(model))]
    lacking = masked_features(assumed, processor_flags())
    return tvm.target.Target({**model, "mattr": [f"-{name}" for name in lacking]} if lacking else model)


def masked_features(assumed: Collection[str], flags: Collection[str]) -> list[str]:
    """Features that LLVM assumes of a processor's model and that Linux's flags of the machine do not have.

    None where there are no flags to compare with (not Linux, or not x86).
    """
    present = {_plain(flag) for flag in flags}
    if "sse2" not in present:
        return []
    return sorted(
        name for name in assumed if _MAY_BE_MASKED.match(name) and _NAMES.get(name, _plain(name)) not in present
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
