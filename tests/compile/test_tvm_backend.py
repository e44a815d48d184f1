import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.candidate import DraftShape, Precision
from autotune.compile import schedule, tvm_backend
from autotune.compile.base import CompileSettings, build_program
from autotune.compile.graphs.tvm_arena import plan
from autotune.compile.tvm_backend import TvmBackend
from autotune.errors import BadRequest
from autotune.quantization import dequantised
from autotune.runtime.session import open_session
from autotune.tvm_layout import TvmLayout
from autotune.weights import random_weights
from tests.support.models import NUMERICS, tiny_weights
from tests.support.reference_decoder import decoder_logits

tvm_matmul = pytest.importorskip("autotune.compile.graphs.tvm_matmul", reason="apache-tvm is not installed")

SHAPE = DraftShape(layers=2, heads=4, kv_heads=2, head_dim=16, hidden=64, ffn=88, vocab=96)


def test_versions_name_the_packages_and_the_module() -> None:
    assert set(TvmBackend().versions()) == {"apache-tvm", "apache-tvm-ffi", "autotune-tvm", "autotune-tvm-cuda"}


def test_other_precisions_are_refused(tmp_path: Path) -> None:
    weights = tiny_weights(SHAPE)
    with pytest.raises(BadRequest, match="fp16"):
        build_program("tvm", weights, CompileSettings(Precision.FP16, 32), tmp_path)


def test_what_is_missing_is_reported_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tvm_backend, "find_spec", lambda name: None)
    assert "pip install" in (TvmBackend().unavailable("cpu") or "")
    monkeypatch.undo()
    monkeypatch.setattr(tvm_backend.shutil, "which", lambda name: None)
    assert "install g++" in (TvmBackend().unavailable("cpu") or "")


def test_weights_are_stored_whole(tmp_path: Path) -> None:
    build_program("tvm", tiny_weights(SHAPE), CompileSettings(Precision.FP32, 32), tmp_path)
    layout = TvmLayout.read(tmp_path)
    size_bytes = plan(SHAPE, Precision.FP32, 32).size_bytes
    assert layout.weights_bytes == (tmp_path / "weights.bin").stat().st_size == size_bytes


def test_equal_weights_give_equal_files(tmp_path: Path) -> None:
    for name in ("first", "second"):
        build_program("tvm", tiny_weights(SHAPE), CompileSettings(Precision.FP32, 32), tmp_path / name)
    first, second = ((tmp_path / name / "weights.bin").read_bytes() for name in ("first", "second"))
    assert first == second


def test_building_takes_seconds(tmp_path: Path) -> None:
    """Of 24 layers, 14 M parameters; a loaded machine is allowed four times what a quiet one takes."""
    shape = DraftShape(layers=24, heads=4, kv_heads=4, head_dim=64, hidden=192, ffn=512, vocab=4096)
    weights = random_weights(shape, NUMERICS)
    began = time.process_time()
    build_program("tvm", weights, CompileSettings(Precision.FP32, 256), tmp_path)
    assert time.process_time() - began < 12


def test_several_sequences_at_once_are_refused(tmp_path: Path) -> None:
    settings = CompileSettings(Precision.FP32, 32, batch=4)
    with pytest.raises(BadRequest, match="one sequence at a time, not for 4"):
        build_program("tvm", tiny_weights(SHAPE), settings, tmp_path)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8, Precision.INT4])
@pytest.mark.parametrize("floats", [128, 512])
def test_programs_for_many_and_for_few_registers_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, floats: int
) -> None:
    """Of swiglu and head, with every number of rows that a tile or its rest may have."""
    for module in (tvm_matmul, schedule):
        monkeypatch.setattr(module, "register_floats", lambda: floats)
    weights = random_weights(replace(SHAPE, layers=1), NUMERICS)
    build_program("tvm", weights, CompileSettings(precision, 32), tmp_path)
    session, tokens = open_session(tmp_path, 1), list(range(1, 15))
    expected = decoder_logits(dequantised(weights, precision), tokens)
    for rows in range(1, 8):
        found = np.concatenate([session.logits(tokens[n : n + rows], n).copy() for n in range(0, 14, rows)])
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
