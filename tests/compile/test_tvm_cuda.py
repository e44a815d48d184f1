import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.candidate import DraftShape, Precision
from autotune.compile import tvm_cuda
from autotune.compile.base import CompileSettings, build_program
from autotune.compile.tvm_backend import TvmBackend
from autotune.cuda_driver import CudaUnavailable, Gpu
from autotune.errors import BadRequest
from autotune.program import Drafting, Program
from autotune.shape import Norm, Style
from autotune.tvm_cuda_layout import TvmCudaLayout, capability
from autotune.weights import random_weights
from tests.support.models import NUMERICS, tiny_weights

pytest.importorskip("tvm", reason="apache-tvm is not installed")

SHAPE = DraftShape(layers=1, heads=2, kv_heads=1, head_dim=16, hidden=32, ffn=48, vocab=80)
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on the PATH")


@needs_nvcc
@pytest.mark.parametrize("precision", sorted(tvm_cuda.PRECISIONS))
def test_a_program_compiles_without_a_gpu(precision: Precision, tmp_path: Path) -> None:
    settings = CompileSettings(precision, 64, "cuda", longest_burst=2)
    build_program("tvm", tiny_weights(SHAPE), settings, tmp_path)
    layout, program = TvmCudaLayout.read(tmp_path), Program.read(tmp_path)
    kernels = (tmp_path / "kernels.bin").read_bytes()
    assert (program.device, program.longest_burst, program.drafting) == ("cuda", 2, Drafting.BURST)
    assert layout.architecture == tvm_cuda.find_architecture()
    assert all(f"{name}_kernel".encode() in kernels for name in ("qkv", "attend", "head", "choose_next", "draw"))
    assert all(array.offset_bytes % tvm_cuda.ALIGNMENT_BYTES == 0 for array in layout.weights)
    assert layout.weights_bytes == (tmp_path / "weights.bin").stat().st_size


@needs_nvcc
def test_the_architecture_asked_for_is_compiled_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tvm_cuda.ARCHITECTURE_VARIABLE, "sm_90")
    build_program("tvm", tiny_weights(SHAPE), CompileSettings(Precision.FP16, 64, "cuda"), tmp_path)
    assert TvmCudaLayout.read(tmp_path).architecture == "sm_90"
    assert Program.read(tmp_path).drafting is Drafting.CALLS


@needs_nvcc
def test_building_takes_seconds(tmp_path: Path) -> None:
    """Of 24 layers; a loaded machine is allowed some times what a quiet one takes."""
    shape = DraftShape(layers=24, heads=4, kv_heads=4, head_dim=64, hidden=192, ffn=512, vocab=4096)
    began = time.process_time()
    build_program("tvm", random_weights(shape, NUMERICS), CompileSettings(Precision.FP16, 256, "cuda", 8), tmp_path)
    assert time.process_time() - began < 20


def test_code_that_is_not_for_gpus_is_not_taken_for_it(tmp_path: Path) -> None:
    import tvm
    from tvm import relax

    from autotune.compile.graphs import tvm_cuda_compiler

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4,), "float32"))
    with builder.function("step", [x]):
        builder.emit_func_output(x)
    assert isinstance(builder.get(), tvm.IRModule)
    with pytest.raises(RuntimeError, match="0 CUDA modules"):
        tvm_cuda_compiler.compile_library(builder.get(), tmp_path / "lib.so", "sm_80")


def test_without_a_compiler_of_cuda_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    which = shutil.which
    monkeypatch.setattr(tvm_cuda.shutil, "which", lambda name: None if name == "nvcc" else which(name))
    monkeypatch.setattr(tvm_cuda, "_has_nvrtc", lambda: False)
    assert "install the CUDA toolkit" in (TvmBackend().unavailable("cuda") or "")
    monkeypatch.setattr(tvm_cuda, "_has_nvrtc", lambda: True)
    assert TvmBackend().unavailable("cuda") is None


@pytest.mark.parametrize(
    ("style", "piece"),
    [
        (Style(norm=Norm.LAYER), "LayerNorm"),
        (Style(norm_first=False), "norm behind a residual sum"),
        (Style(learned_positions=64), "learned positions"),
        (Style(gated=False), "FFN without a gate"),
        (Style(qk_norm=True), "norm of queries and keys"),
        (Style(biases=("attn.q",)), "biases"),
        (Style(embed_dim=24), "embeddings of another width"),
    ],
)
def test_a_piece_without_a_kernel_is_refused_by_name(
    style: Style, piece: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tvm_cuda, "unavailable", lambda: None)
    weights = tiny_weights(replace(SHAPE, style=style))
    with pytest.raises(BadRequest, match=f"tvm has no {piece} on cuda yet: use --backend onnxruntime"):
        build_program("tvm", weights, CompileSettings(Precision.FP32, 64, "cuda"), tmp_path)
    assert not any(tmp_path.iterdir())


def test_the_architecture_is_that_of_the_environment_the_gpu_or_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def gpu(self) -> Gpu:
            return Gpu("Example H1", (9, 0), 132, 1 << 36, (13, 0))

    def missing() -> Driver:
        raise CudaUnavailable("no driver")

    monkeypatch.delenv(tvm_cuda.ARCHITECTURE_VARIABLE, raising=False)
    monkeypatch.setattr(tvm_cuda, "CudaDriver", missing)
    assert tvm_cuda.find_architecture() == "sm_80"
    monkeypatch.setattr(tvm_cuda, "CudaDriver", Driver)
    assert tvm_cuda.find_architecture() == "sm_90"
    monkeypatch.setenv(tvm_cuda.ARCHITECTURE_VARIABLE, "sm_100")
    assert tvm_cuda.find_architecture() == "sm_100"
    monkeypatch.setenv(tvm_cuda.ARCHITECTURE_VARIABLE, "hopper")
    with pytest.raises(BadRequest, match="expected something like sm_80"):
        tvm_cuda.find_architecture()


@pytest.mark.parametrize(("name", "expected"), [("sm_80", (8, 0)), ("sm_90a", (9, 0)), ("sm_103", (10, 3))])
def test_capability_of_an_architecture(name: str, expected: tuple[int, int]) -> None:
    assert capability(name) == expected
