import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from autotune.candidate import DraftShape, Precision
from autotune.compile import ort_backend
from autotune.compile.base import CompileSettings, build_program
from autotune.compile.build_job import BuildRequest, build_sandboxed
from autotune.compile.graphs import graph_writer
from autotune.compile.graphs.external_data import ALIGNMENT_BYTES
from autotune.compile.ort_backend import OrtBackend
from autotune.compile.sandbox import Limits
from autotune.ort_layout import program_files
from autotune.program import Program
from autotune.quantization import dequantised
from autotune.results import Built, Rejected, RejectReason
from autotune.runtime.session import open_session
from autotune.shape import Style
from autotune.weights import random_weights
from autotune.weights_io import save_weights
from tests.support.compiled import QUANTISED_ERROR
from tests.support.models import NUMERICS, tiny_weights
from tests.support.reference_decoder import decoder_logits

SHAPE = DraftShape(layers=2, heads=4, kv_heads=2, head_dim=16, hidden=64, ffn=88, vocab=96)
PRECISIONS = sorted(OrtBackend().precisions("cpu"))


def test_versions_name_the_packages_and_the_graph() -> None:
    versions = OrtBackend().versions()
    assert versions["onnx"] == onnx.__version__
    assert {"onnxruntime", "onnxruntime-gpu"} & set(versions)
    assert "autotune-graph" in versions


def test_building_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        build_program("onnxruntime", tiny_weights(SHAPE), CompileSettings(Precision.INT8, 32), tmp_path / name)
    for path in (tmp_path / "first").iterdir():
        assert (tmp_path / "second" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("precision", PRECISIONS)
def test_arrays_lie_aligned_beside_a_small_graph(precision: Precision, tmp_path: Path) -> None:
    build_program("onnxruntime", tiny_weights(SHAPE), CompileSettings(precision, 32), tmp_path)
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    assert (tmp_path / "model.onnx").stat().st_size < 20_000
    end = 0
    for initializer in model.graph.initializer:
        if not initializer.external_data:
            assert numpy_helper.to_array(initializer).nbytes == 1
            continue
        entries = {entry.key: entry.value for entry in initializer.external_data}
        assert entries["location"] == "weights.bin"
        assert int(entries["offset"]) % ALIGNMENT_BYTES == 0
        assert int(entries["offset"]) >= end
        end = int(entries["offset"]) + int(entries["length"])
    assert end == (tmp_path / "weights.bin").stat().st_size


def test_weights_take_what_their_precision_says(tmp_path: Path) -> None:
    shape = replace(SHAPE, hidden=256, ffn=1024)
    for precision in PRECISIONS:
        build_program("onnxruntime", tiny_weights(shape), CompileSettings(precision, 32), tmp_path / precision)
        size = (tmp_path / precision / "weights.bin").stat().st_size
        assert size == pytest.approx(shape.weight_bytes(precision), rel=0.1)


@pytest.mark.parametrize(("hidden", "expected"), [(64, 8), (256, 4), (512, 0)])
def test_bursts_are_compiled_while_their_packed_weights_fit_a_cache(hidden: int, expected: int, tmp_path: Path) -> None:
    shape = replace(SHAPE, hidden=hidden, ffn=hidden * 4, vocab=1536)
    build_program("onnxruntime", tiny_weights(shape), CompileSettings(Precision.FP32, 32, "cpu", 8), tmp_path)
    assert Program.read(tmp_path).longest_burst == expected
    assert {path.name for path in tmp_path.iterdir()} == {*program_files(expected), "program.json"}


def test_a_target_gets_no_bursts(tmp_path: Path) -> None:
    build_program("onnxruntime", tiny_weights(SHAPE), CompileSettings(Precision.FP32, 32), tmp_path)
    assert Program.read(tmp_path).longest_burst == 0
    assert not list(tmp_path.glob("burst.*"))


@given(heads=st.integers(1, 3), half=st.integers(1, 12), seed=st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_four_bit_products_use_the_very_weights_the_proxy_scores(heads: int, half: int, seed: int) -> None:
    """Whatever the head size: without rounding of activations, logits equal those of the dequantised weights."""
    shape = DraftShape(layers=1, heads=heads, kv_heads=1, head_dim=2 * half, hidden=40, ffn=24, vocab=50)
    weights = random_weights(shape, NUMERICS, seed)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_writer, "INT8_ACTIVATIONS", 1)  # accuracy level 1: fp32 activations
        build_program("onnxruntime", weights, CompileSettings(Precision.INT4, 32), Path(name, "int4"))
        exact = dequantised(weights, Precision.INT4)
        build_program("onnxruntime", exact, CompileSettings(Precision.FP32, 32), Path(name, "fp32"))
        actual, expected = (open_session(Path(name, each), 1).logits([1, 2, 3], 0) for each in ("int4", "fp32"))
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("head_dim", [6, 20])
def test_norms_of_heads_know_nothing_of_what_aligns_them(head_dim: int, tmp_path: Path) -> None:
    shape = DraftShape(2, 4, 2, head_dim, hidden=40, ffn=24, vocab=50, style=Style(qk_norm=True))
    weights = tiny_weights(shape, numerics=replace(NUMERICS, norm_eps=0.1))
    build_program("onnxruntime", weights, CompileSettings(Precision.FP32, 32), tmp_path)
    expected = decoder_logits(weights, [3, 1, 2])
    assert np.abs(open_session(tmp_path, 1).logits([3, 1, 2], 0) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_missing_runtime_is_reported_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_backend, "find_spec", lambda name: None)
    assert "pip install" in (OrtBackend().unavailable("cpu") or "")
    monkeypatch.undo()
    assert OrtBackend().unavailable("cpu") is None


class TestSandboxedBuild:
    @pytest.fixture(scope="class")
    @classmethod
    def request_(cls, tmp_path_factory: pytest.TempPathFactory) -> BuildRequest:
        folder = tmp_path_factory.mktemp("build")
        save_weights(tiny_weights(SHAPE), folder / "weights")
        return BuildRequest(
            str(folder / "weights"), "onnxruntime", CompileSettings(Precision.FP32, 32), str(folder / "program")
        )

    def test_equals_a_build_in_this_process(self, request_: BuildRequest, tmp_path: Path) -> None:
        built = build_sandboxed(request_, Limits(time_s=60))
        assert isinstance(built, Built)
        expected = build_program("onnxruntime", tiny_weights(SHAPE), CompileSettings(Precision.FP32, 32), tmp_path)
        assert built.weight_bytes == expected.weight_bytes
        for path in tmp_path.iterdir():
            assert (Path(built.program) / path.name).read_bytes() == path.read_bytes()

    def test_an_unknown_backend_is_a_rejection(self, request_: BuildRequest) -> None:
        outcome = build_sandboxed(replace(request_, backend="abacus"), Limits(time_s=60))
        assert isinstance(outcome, Rejected)
        assert outcome.reason is RejectReason.BUILD_ERROR
        assert "abacus" in outcome.detail

    def test_missing_weights_are_a_rejection(self, request_: BuildRequest, tmp_path: Path) -> None:
        outcome = build_sandboxed(replace(request_, weights_folder=str(tmp_path)), Limits(time_s=60))
        assert isinstance(outcome, Rejected)
        assert outcome.reason is RejectReason.BUILD_ERROR
        assert "FileNotFoundError" in outcome.detail

    def test_a_build_that_takes_too_long_is_a_rejection(self, request_: BuildRequest) -> None:
        outcome = build_sandboxed(request_, Limits(time_s=0.01))
        assert isinstance(outcome, Rejected)
        assert outcome.reason is RejectReason.BUILD_TIMEOUT


def test_build_time_is_about_a_second_per_50_m_parameters(tmp_path: Path) -> None:
    """Of 14 M parameters; four times the promised time is allowed, for loaded machines."""
    shape = DraftShape(layers=2, heads=8, kv_heads=2, head_dim=64, hidden=512, ffn=1408, vocab=8192)
    weights = random_weights(shape, NUMERICS)
    began = time.process_time()
    build_program("onnxruntime", weights, CompileSettings(Precision.FP32, 256), tmp_path)
    assert time.process_time() - began < 4 * shape.parameters / 50e6


def test_unsigned_bytes_are_as_precise_on_every_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As signed ones are where it adds them up exactly."""
    monkeypatch.setattr(graph_writer, "adds_bytes_exactly", lambda: False)
    weights = tiny_weights(SHAPE)
    build_program("onnxruntime", weights, CompileSettings(Precision.INT8, 32), tmp_path)
    session, tokens = open_session(tmp_path, 1), list(range(1, 15))
    expected = decoder_logits(dequantised(weights, Precision.INT8), tokens)
    error = np.sqrt(np.mean((session.logits(tokens, 0) - expected) ** 2) / np.mean(expected**2))
    assert error < QUANTISED_ERROR[Precision.INT8]
