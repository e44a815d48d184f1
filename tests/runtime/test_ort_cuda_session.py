import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from autotune import devices
from autotune.candidate import DraftShape, Precision
from autotune.compile.base import CompileSettings, build_program
from autotune.cuda_driver import CudaDriver, CudaUnavailable
from autotune.errors import ArtifactError
from autotune.program import Program
from autotune.runtime import ort_cuda_session, ort_device
from autotune.runtime.ort_cuda_session import MOST_CAPTURED_TOKENS, OrtCudaSession
from autotune.runtime.ort_device import NOT_CAPTURED
from autotune.runtime.ort_session import PIECE_TOKENS
from autotune.runtime.session import SESSIONS, open_session
from tests.support.fake_cuda import FakeCuda
from tests.support.models import tiny_weights
from tests.support.ort_on_cpu import OrtOnCpu

SHAPE = DraftShape(layers=2, heads=2, kv_heads=1, head_dim=16, hidden=32, ffn=48, vocab=80)
CAPACITY = 2 * PIECE_TOKENS + 8


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    build_program("onnxruntime", tiny_weights(SHAPE), CompileSettings(Precision.FP16, CAPACITY, "cuda"), folder)
    return folder


def opened(folder: Path) -> OrtOnCpu:
    return OrtOnCpu(folder, Program.read(folder), threads=1)


class Calls:
    """Stands in for `bind`, and keeps what it was asked to bind."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bound: list[tuple[Mapping[str, Any], Mapping[str, Any], int]] = []
        original = ort_device.bind

        def bind(session: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any], graph_id: int) -> Any:
            self.bound.append((inputs, outputs, graph_id))
            return original(session, inputs, outputs, graph_id)

        monkeypatch.setattr(ort_cuda_session, "bind", bind)


def test_each_narrow_call_has_a_graph_of_its_own_and_wide_ones_have_none(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    session = opened(program)
    for width in (1, 3, 1, MOST_CAPTURED_TOKENS):
        session.greedy([1] * width, 0)
    session.logits([1], 0)
    session.greedy([1] * (MOST_CAPTURED_TOKENS + 1), 0)
    session.greedy([1] * (PIECE_TOKENS + 1), 0)
    session.greedy([1] * 3, 0)
    assert [graph_id for _, _, graph_id in calls.bound] == [1, 2, 3, 4, NOT_CAPTURED, NOT_CAPTURED]


def test_the_cache_is_one_and_lengths_come_from_the_device(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    session = opened(program)
    session.greedy([1, 2], 0)
    session.logits([3], 2)
    caches = [f"{layer}.{part}" for layer in range(SHAPE.layers) for part in ("key", "value")]
    for inputs, outputs, _ in calls.bound:
        for name in caches:
            assert inputs[f"past.{name}"] is outputs[f"present.{name}"]
            assert inputs[f"past.{name}"] is calls.bound[0][0][f"past.{name}"]
        assert inputs["total_sequence_length"].numpy() == CAPACITY  # read once, when a graph is captured
        assert inputs["total_sequence_length"].device_name() == "cpu"
        assert inputs["seqlens_k"].numpy().tolist() == [2]


def test_graphs_read_the_uploaded_weights_where_they_are(program: Path) -> None:
    session = opened(program)
    assert np.abs(session.logits([1, 2, 3], 0)).max() > 0.1
    session._weights["embed"].update_inplace(np.zeros((SHAPE.vocab, SHAPE.hidden), np.float16))
    assert not session.logits([1, 2, 3], 0).any()


def test_wide_calls_equal_narrow_ones(program: Path) -> None:
    session = opened(program)
    tokens = np.random.default_rng(0).integers(0, SHAPE.vocab, CAPACITY)
    wide = session.logits(tokens, 0)
    for start in range(0, CAPACITY, 9):
        piece = session.logits(tokens[start : start + 9], start)
        np.testing.assert_allclose(piece, wide[start : start + 9], atol=0.02)


def test_a_closed_session_cannot_be_used_but_closed_again(program: Path) -> None:
    session = opened(program)
    session.greedy([1], 0)
    session.close()
    session.close()
    with pytest.raises(AttributeError):
        session.greedy([1], 0)


@pytest.mark.parametrize("name", ["model.onnx", "weights.bin", "weights.json", "program.json"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused_in_one_line(program: Path, tmp_path: Path, name: str, kept: float) -> None:
    folder = shutil.copytree(program, tmp_path / "program")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ArtifactError) as caught:
        opened(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_program_for_a_gpu_needs_one(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> CudaDriver:
        raise CudaUnavailable("the NVIDIA driver finds no GPU")

    monkeypatch.setattr(devices, "CudaDriver", missing)
    with pytest.raises(ArtifactError, match="was compiled for cuda, which cannot be used here: the NVIDIA driver"):
        open_session(program, threads=1)


def test_missing_libraries_are_named_with_the_remedy(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def preload() -> None:
        print("Failed to load libcublas.so.13: libcublas.so.13: cannot open shared object file")  # noqa: T201

    def allocate(*_: object) -> None:
        raise RuntimeError("provider_bridge_ort.cc:2465 CUDA Provider not available")

    monkeypatch.setattr(devices, "CudaDriver", lambda: CudaDriver(FakeCuda()))
    monkeypatch.setattr("onnxruntime.preload_dlls", preload)
    monkeypatch.setattr("onnxruntime.set_default_logger_severity", lambda severity: None)
    monkeypatch.setattr("onnxruntime.OrtValue.ortvalue_from_shape_and_type", allocate)
    with pytest.raises(ArtifactError) as caught:
        open_session(program, threads=1)
    assert str(caught.value) == (
        "ONNX Runtime cannot load its CUDA provider (Failed to load libcublas.so.13): "
        "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )


def test_a_runtime_without_the_provider_is_named(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "CudaDriver", lambda: CudaDriver(FakeCuda()))
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ArtifactError, match="this onnxruntime has no CUDA provider: pip install 'onnxruntime-gpu"):
        open_session(program, threads=1)


def test_a_provider_that_falls_back_is_not_taken(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fallen(OrtCudaSession):
        place = replace(OrtOnCpu.place, provider="CUDAExecutionProvider")

    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: ["CPUExecutionProvider"])
    with pytest.raises(ArtifactError, match="cannot load its CUDA provider: pip install"):
        Fallen(program, Program.read(program), threads=1)


def test_a_device_the_backend_has_no_session_for_is_refused(program: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(program, tmp_path / "program")
    replace(Program.read(folder), device="abacus").write(folder)
    with pytest.raises(ArtifactError, match="by onnxruntime for 'abacus'; this version runs it on: cpu, cuda"):
        open_session(folder, threads=1)
    assert set(SESSIONS["onnxruntime"]) == {"cpu", "cuda"}
