"""The conformance suite of TVM's programs for CUDA on a machine without a GPU.

For a process whose CUDA driver is the stand-in of `cuda_on_cpu`; pytest is given this file by
`tests/compile/test_tvm_cuda_on_cpu.py`.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from autotune.candidate import DraftShape, Precision
from autotune.compile import tvm_cuda
from autotune.compile.base import CompileSettings, build_program
from autotune.compile.graphs import tvm_cuda_compiler
from autotune.quantization import dequantised
from autotune.runtime.session import open_session
from tests.support import cuda_on_cpu
from tests.support.compiled import assert_close
from tests.support.conformance import BackendConformance
from tests.support.models import reference_logits, tiny_weights


@pytest.fixture(scope="session", autouse=True)
def kernels_in_cpp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder: Path = tmp_path_factory.mktemp("kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tvm_cuda, "unavailable", lambda: None)
        compiled = partial(cuda_on_cpu.compile_kernels, folder=folder)
        patch.setattr(tvm_cuda_compiler, "compile_source", lambda source, architecture: compiled(source))
        yield


class TestTvmCudaOnCpu(BackendConformance):
    backend = "tvm"
    device = "cuda"


class TestLargerModels:
    """What the suite's shapes are too small for."""

    @staticmethod
    def check(shape: DraftShape, precision: Precision, length: int, folder: Path, tolerance: float) -> None:
        """Prefill, and every number of rows that has code of its own, against transformers."""
        weights = tiny_weights(shape)
        build_program("tvm", weights, CompileSettings(precision, length + 8, "cuda"), folder / "program")
        session = open_session(folder / "program", threads=1)
        tokens = np.random.default_rng(7).integers(0, shape.vocab, length).tolist()
        expected = reference_logits(dequantised(weights, precision), tokens, folder / "checkpoint")
        assert_close(session.logits(tokens, 0), expected, tolerance)
        for rows in (1, 2, 3, 5):
            start = length - rows
            assert_close(session.logits(tokens[start:], start), expected[start:], tolerance)

    @pytest.mark.parametrize(("precision", "tolerance"), [(Precision.FP32, 1e-4), (Precision.FP16, 1e-2)])
    def test_several_warps_and_four_columns_a_block(
        self, precision: Precision, tolerance: float, tmp_path: Path
    ) -> None:
        shape = DraftShape(layers=1, heads=4, kv_heads=2, head_dim=64, hidden=520, ffn=516, vocab=1030)
        self.check(shape, precision, 9, tmp_path, tolerance)

    def test_attention_in_several_parts(self, tmp_path: Path) -> None:
        shape = DraftShape(layers=1, heads=2, kv_heads=1, head_dim=16, hidden=32, ffn=48, vocab=80)
        self.check(shape, Precision.FP32, 650, tmp_path, 1e-4)
