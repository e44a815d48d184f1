import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autotune import devices
from autotune.candidate import DraftShape, Precision
from autotune.cuda_driver import CudaDriver
from autotune.devices import find_device
from autotune.errors import BadRequest
from autotune.runtime import session
from benchmarks import gpu
from tests.support.fake_cuda import FakeCuda
from tests.support.ort_on_cpu import OrtOnCpu

SHAPE = DraftShape(layers=2, heads=2, kv_heads=2, head_dim=16, hidden=32, ffn=48, vocab=64)
PARAMETERS = {
    "noft-1.3b": 1.345e9,
    "noft-wide-1.3b": 1.334e9,
    "noft-wide-796m": 1.274e9,
    "noft-wide-543m": 0.869e9,
    "noft-wide-290m": 0.465e9,
}
"""As the paper's shapes come to."""


def gpu_is_here() -> bool:
    try:
        find_device("cuda")
    except BadRequest:
        return False
    return True


@pytest.mark.skipif(gpu_is_here(), reason="there is a GPU: the benchmark would run")
def test_without_a_gpu_it_ends_with_one_line() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --device cuda: ")
    assert line.endswith("; use --device cpu")


def test_the_shapes_are_the_papers() -> None:
    assert {name: shape.parameters for name, shape in gpu.SHAPES.items()} == pytest.approx(PARAMETERS, rel=2e-3)
    assert all(shape.hidden == shape.heads * shape.head_dim for shape in gpu.SHAPES.values())


def test_cheap_weights_are_finite_and_spread_and_shared_between_layers() -> None:
    weights = gpu.cheap_weights(SHAPE)
    assert weights.layer(0, "ffn.up") is weights.layer(1, "ffn.up")
    for name, array in weights.arrays.items():
        if array.ndim == 2:
            assert np.isfinite(array).all()
            assert array.std() == pytest.approx(array.shape[1] ** -0.5, rel=0.1), name


def test_the_floor_moves_as_many_bytes_as_a_step_reads() -> None:
    shape = gpu.SHAPES["noft-wide-290m"]
    matrices = shape.parameters - shape.vocab * shape.hidden
    assert gpu.read_bytes(shape) == 2 * matrices + gpu.CONTEXT_TOKENS * 2 * shape.kv_heads * shape.head_dim * 2


def test_a_shape_is_measured_against_its_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeCuda()
    monkeypatch.setattr(devices, "CudaDriver", lambda: CudaDriver(library))
    monkeypatch.setattr(gpu, "CudaDriver", lambda: CudaDriver(library))
    entry = f"{OrtOnCpu.__module__}:{OrtOnCpu.__name__}"
    monkeypatch.setattr(session, "SESSIONS", {"onnxruntime": {"cuda": entry}})
    figures = gpu.measure_shape(SHAPE, ["onnxruntime"], [Precision.FP16], 3, find_device("cuda"))["fp16"]
    assert not library.allocated
    assert len(library.copied) == 3 + gpu.WARM_UP_ROUNDS
    assert figures["memory_bytes"] == {"onnxruntime": 0}
    assert figures["weight_bytes"] == SHAPE.weight_bytes(Precision.FP16)
    ways = figures["onnxruntime"]
    assert set(ways) == {"step", *(f"{kind} of {count}" for kind in ("burst", "calls") for count in gpu.BURSTS)}
    for what, way in ways.items():
        assert way["seconds"]["samples"] == 3
        expected = gpu.steps_of(what) * figures["floor_s"]["min"] / way["seconds"]["max"]
        assert way["share_of_floor"]["min"] >= expected * 0.999


def test_failures_of_the_tests_are_named() -> None:
    report = """<testsuites><testsuite>
        <testcase classname="a" name="good"/><testcase classname="a" name="bad"><failure/></testcase>
        <testcase classname="b" name="broken"><error/></testcase>
        <testcase classname="b" name="out"><skipped/></testcase>
    </testsuite></testsuites>"""
    assert gpu.tally(report) == {"passed": 1, "skipped": 1, "failed": ["a.bad", "b.broken"]}


def test_unknown_names_are_refused() -> None:
    assert gpu.chosen("--precisions", "bf16,fp16", gpu.HALVES) == ["bf16", "fp16"]
    with pytest.raises(BadRequest, match="--precisions int4: choose from fp16, bf16"):
        gpu.chosen("--precisions", "fp16,int4", gpu.HALVES)


def test_backends_without_code_for_it_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Without:
        def precisions(self, device: str) -> frozenset[Precision]:
            return frozenset()

    original = gpu.load_backend
    monkeypatch.setattr(
        gpu, "load_backend", lambda name, device: Without() if name == "tvm" else original(name, device)
    )
    assert gpu.usable(["onnxruntime", "tvm"]) == ["onnxruntime"]
    with pytest.raises(BadRequest, match="no code for cuda in tvm"):
        gpu.usable(["tvm"])


def test_the_tests_marked_gpu_are_there_to_run() -> None:
    module = Path(__file__).parent / "compile" / "test_ort_conformance.py"
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "gpu", str(module)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "TestOrtConformanceOnCuda::test_verify" in listed
