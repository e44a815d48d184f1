import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.candidate import DraftShape, Precision
from autotune.compile.base import CompileSettings, build_program
from autotune.compile.sandbox import Limits, Phase, run_sandboxed
from autotune.devices import find_device
from autotune.errors import ArtifactError
from autotune.program import Program
from autotune.runtime import tvm_session
from autotune.runtime.session import open_session
from autotune.runtime.tvm_session import TvmSession
from autotune.sampling import SamplingSettings, distribution
from autotune.tvm_layout import TvmLayout
from tests.support.models import tiny_weights

pytest.importorskip("tvm", reason="apache-tvm is not installed")

SHAPE = DraftShape(layers=2, heads=2, kv_heads=1, head_dim=16, hidden=32, ffn=48, vocab=80)
CAPACITY = 136


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    build_program("tvm", tiny_weights(SHAPE), CompileSettings(Precision.FP32, CAPACITY), folder)
    return folder


def opened(folder: Path, threads: int = 1) -> TvmSession:
    return TvmSession(folder, Program.read(folder), threads)


def test_opening_and_running_needs_neither_compiler_nor_torch(program: Path) -> None:
    outcome = run_sandboxed(
        "tests.support.jobs:modules_after_opening", str(program), Phase.RUN, Limits(time_s=60), threads=1
    )
    assert isinstance(outcome, list)
    assert "tvm_ffi" in outcome
    assert not {"tvm", "torch", "transformers", "optuna", "onnxruntime", "autotune.compile.base"} & set(outcome)


@pytest.mark.parametrize("name", ["lib.so", "weights.bin", "layout.json", "program.json"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused_in_one_line(program: Path, tmp_path: Path, name: str, kept: float) -> None:
    folder = shutil.copytree(program, tmp_path / "program")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ArtifactError) as caught:
        open_session(folder, threads=1)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_library_that_is_none_is_refused(program: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(program, tmp_path / "program")
    (folder / "lib.so").write_bytes(b"not a library")
    checksum = hashlib.sha256(b"not a library").hexdigest()
    replace(TvmLayout.read(folder), library_sha256=checksum).write(folder)
    with pytest.raises(ArtifactError, match="cannot be loaded by TVM"):
        open_session(folder, threads=1)


def test_a_processor_without_the_instructions_is_refused(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = find_device("cpu").features
    if not features:
        pytest.skip("this processor has none of the known instruction sets")

    class Older:
        features = ()

    monkeypatch.setattr(tvm_session, "find_device", lambda kind: Older())
    with pytest.raises(ArtifactError, match=f"a processor with {features[0]}"):
        open_session(program, threads=1)


def test_without_tvm_the_remedy_is_said(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tvm_session, "find_spec", lambda name: None)
    with pytest.raises(ArtifactError, match="pip install apache-tvm"):
        open_session(program, threads=1)


def test_calls_wider_than_a_piece_equal_narrow_ones(program: Path) -> None:
    session = opened(program)
    tokens = np.random.default_rng(0).integers(0, SHAPE.vocab, CAPACITY).tolist()
    wide = session.logits(tokens, 0)
    after = session.greedy(tokens, 0).copy()
    for position, token in enumerate(tokens):
        np.testing.assert_allclose(session.logits([token], position)[0], wide[position], atol=1e-4)
    assert after.tolist() == wide.argmax(axis=1).tolist()


@pytest.mark.parametrize("width", range(1, 20))
def test_every_number_of_rows(program: Path, width: int) -> None:
    """Rows go through matrices in tiles and a rest, each rest with code of its own."""
    session = opened(program)
    tokens = np.random.default_rng(1).integers(0, SHAPE.vocab, 40).tolist()
    expected = session.logits(tokens, 0).copy()
    for start in range(0, 40, width):
        piece = session.logits(tokens[start : start + width], start)
        np.testing.assert_allclose(piece, expected[start : start + width], atol=1e-4)


def test_a_burst_longer_than_the_longest_program(program: Path) -> None:
    session = opened(program)
    expected = [int(session.greedy([3, 4], 0)[-1])]
    while len(expected) < 21:
        expected.append(int(session.greedy(expected[-1:], 1 + len(expected))[0]))
    assert session.burst([3, 4], 0, 21) == expected


def test_not_a_number_is_not_hidden(tmp_path: Path) -> None:
    weights = tiny_weights(SHAPE)
    weights.arrays["layers.1.attn.k"][:] = np.nan
    build_program("tvm", weights, CompileSettings(Precision.FP32, CAPACITY), tmp_path)
    assert np.isnan(opened(tmp_path).logits([1, 2, 3], 0)).all()


def test_threads_do_not_change_the_result(program: Path) -> None:
    one, two = opened(program), opened(program, threads=2)
    tokens = list(range(40))
    expected = one.logits(tokens, 0).copy()
    assert np.array_equal(two.logits(tokens, 0), expected)
    assert np.array_equal(one.logits(tokens, 0), expected)


def test_a_closed_session_cannot_be_used(program: Path) -> None:
    session = opened(program)
    session.greedy([1], 0)
    session.close()
    with pytest.raises(AttributeError):
        session.greedy([1], 0)


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(1.0),
        SamplingSettings(0.3),
        SamplingSettings(1.0, top_k=1),
        SamplingSettings(2.0, top_k=7),
        SamplingSettings(1.0, top_k=SHAPE.vocab + 1),
        SamplingSettings(1.0, top_p=0.01),
        SamplingSettings(0.7, top_p=0.9),
        SamplingSettings(1.5, top_k=20, top_p=0.5),
    ],
)
def test_draws_in_the_program_equal_the_reference(program: Path, settings: SamplingSettings) -> None:
    session, reference = opened(program), opened(program)
    rng = np.random.default_rng(5)
    for _ in range(20):
        prompt, noise = rng.integers(0, SHAPE.vocab, 5).tolist(), rng.random(6).tolist()
        drawn = session.sampled_burst(prompt, 0, 6, settings, noise)
        given, start = prompt, 0
        for place, (token, uniform) in enumerate(zip(drawn.tokens, noise, strict=True)):
            q = distribution(reference.logits(given, start)[-1], settings)
            np.testing.assert_allclose(drawn.distribution(place), q, atol=2e-6)
            assert drawn.probabilities[place] == pytest.approx(q[token], abs=2e-6)
            cumulated = q.cumsum()
            assert cumulated[token] - q[token] - 1e-5 <= uniform <= cumulated[token] + 1e-5
            start, given = start + len(given), [token]
