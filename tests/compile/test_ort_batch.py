"""Programs of ONNX Runtime for several sequences at once."""

from pathlib import Path

import pytest

from autotune.candidate import Precision
from autotune.compile.base import CompileSettings, build_program
from autotune.errors import ArtifactError
from autotune.runtime import session
from autotune.runtime.session import open_batch_session
from tests.support.batch_conformance import BatchConformance
from tests.support.models import styled_weights


class TestOrtBatches(BatchConformance):
    backend = "onnxruntime"


def test_on_a_gpu_there_is_no_session_for_several_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "check_compiled_for", lambda kind, folder: None)
    settings = CompileSettings(Precision.FP16, 32, "cuda", longest_burst=4, batch=2)
    build_program("onnxruntime", styled_weights("qwen2"), settings, tmp_path)
    with pytest.raises(ArtifactError, match="runs it on: cpu"):
        open_batch_session(tmp_path, threads=1)
