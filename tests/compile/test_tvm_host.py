"""The processor that TVM compiles for is the one at hand, also where a virtual machine hides some of it."""

import pytest

from autotune.compile.tvm_host import host_target, masked_features
from autotune.devices import processor_flags

ASSUMED = ["sse2", "avx2", "avx512f", "avx512vnni", "fma", "sha", "sse4.1", "bmi2", "fast-lzcnt", "prfchw", "gfni"]


@pytest.mark.parametrize(
    ("flags", "lacking"),
    [
        ("sse2 avx2 avx512f avx512_vnni fma sha_ni sse4_1 bmi2 gfni", []),
        ("sse2 avx2 fma sha_ni sse4_1 bmi2 gfni", ["avx512f", "avx512vnni"]),
        ("sse2 fma avx512f avx512_vnni", ["avx2", "bmi2", "gfni", "sha"]),
        ("asimd fp", []),
        ("", []),
    ],
)
def test_what_the_machine_lacks_is_what_linux_does_not_list(flags: str, lacking: list[str]) -> None:
    assert masked_features(ASSUMED, flags.split()) == lacking


def test_nothing_is_compiled_for_features_that_are_not_here() -> None:
    codegen = pytest.importorskip("tvm").target.codegen
    used = [str(name) for name in codegen.llvm_get_cpu_features(host_target())]
    assert used
    assert masked_features(used, processor_flags()) == []
