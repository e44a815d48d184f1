import shutil
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import pytest

from autotune.candidate import DraftShape, Precision
from autotune.compile.base import CompileSettings, build_program
from autotune.compile.sandbox import Limits, Phase, run_sandboxed
from autotune.errors import ArtifactError
from autotune.program import Drafting, Program
from autotune.runtime import ort_engine
from autotune.runtime.ort_session import PIECE_TOKENS, OrtSession
from autotune.runtime.sampled_burst import draw_call_by_call
from autotune.runtime.session import open_session
from autotune.sampling import SamplingSettings
from tests.support.models import tiny_weights

SHAPE = DraftShape(layers=2, heads=2, kv_heads=1, head_dim=16, hidden=32, ffn=48, vocab=80)
CAPACITY = 2 * PIECE_TOKENS + 8


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    build_program("onnxruntime", tiny_weights(SHAPE), CompileSettings(Precision.FP32, CAPACITY), folder)
    return folder


def opened(folder: Path) -> OrtSession:
    return OrtSession(folder, Program.read(folder), threads=1)


def test_opening_and_running_needs_neither_onnx_nor_torch(program: Path) -> None:
    outcome = run_sandboxed(
        "tests.support.jobs:modules_after_opening", str(program), Phase.RUN, Limits(time_s=60), threads=1
    )
    assert isinstance(outcome, list)
    assert "onnxruntime" in outcome
    assert not {"onnx", "torch", "transformers", "optuna", "tvm", "autotune.compile.base"} & set(outcome)


@pytest.mark.parametrize("name", ["model.onnx", "weights.bin"])
def test_a_missing_file_is_named(program: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(program, tmp_path / "program")
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{name} is missing"):
        open_session(folder, threads=1)


@pytest.mark.parametrize("name", ["model.onnx", "weights.bin", "program.json"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused_in_one_line(program: Path, tmp_path: Path, name: str, kept: float) -> None:
    folder = shutil.copytree(program, tmp_path / "program")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ArtifactError) as caught:
        open_session(folder, threads=1)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_outside_the_folder_are_refused(program: Path, tmp_path: Path) -> None:
    import onnx

    folder = shutil.copytree(program, tmp_path / "inner" / "program")
    shutil.move(folder / "weights.bin", tmp_path / "inner" / "weights.bin")
    (folder / "weights.bin").touch()
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for initializer in model.graph.initializer:
        for entry in initializer.external_data:
            entry.value = "../weights.bin" if entry.key == "location" else entry.value
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError):
        open_session(folder, threads=1)


def test_bindings_of_narrow_calls_are_kept_and_of_wide_ones_not(program: Path) -> None:
    session = opened(program)
    for width in (1, 3, PIECE_TOKENS, 3, 1):
        session.greedy([1] * width, 0)
    kept = dict(session._kept)
    assert set(kept) == {("argmax", 1), ("argmax", 3), ("argmax", PIECE_TOKENS)}
    session.greedy([1] * (PIECE_TOKENS + 1), 0)
    session.greedy([1], 0)
    assert session._kept == kept


def test_wide_calls_equal_narrow_ones(program: Path) -> None:
    session = opened(program)
    tokens = np.random.default_rng(0).integers(0, SHAPE.vocab, CAPACITY).tolist()
    wide = session.logits(tokens, 0).copy()
    for start in range(0, CAPACITY, PIECE_TOKENS):
        piece = session.logits(tokens[start : start + PIECE_TOKENS], start)
        np.testing.assert_allclose(piece, wide[start : start + PIECE_TOKENS], atol=1e-4)


def test_the_public_call_gives_the_same_result(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = opened(program).burst([1, 2], 0, 20)

    class WithoutPrivateParts:
        def __init__(self, session: onnxruntime.InferenceSession):
            self.io_binding = lambda: _PublicBinding(session)
            self.get_inputs = session.get_inputs
            self.run_with_iobinding = lambda binding: session.run_with_iobinding(binding.inner)

    class _PublicBinding:
        def __init__(self, session: onnxruntime.InferenceSession):
            self.inner = session.io_binding()
            self.bind_input = self.inner.bind_input
            self.bind_output = self.inner.bind_output

    original = ort_engine.open_graph
    monkeypatch.setattr(ort_engine, "open_graph", lambda *args: WithoutPrivateParts(original(*args)))
    assert opened(program).burst([1, 2], 0, 20) == expected


def test_a_closed_session_cannot_be_used(program: Path) -> None:
    session = opened(program)
    session.greedy([1], 0)
    session.close()
    with pytest.raises(AttributeError):
        session.greedy([1], 0)


def test_a_burst_adds_little_to_the_runtime(program: Path) -> None:
    """Python's share of a step, against the bare runtime on the same binding; generous for loaded machines."""
    session = opened(program)
    steps = 50
    session.greedy([1] * 8, 0)
    bare = session._bound("argmax", 1).run
    overheads_s = []
    for _ in range(30):
        began = time.perf_counter()
        session.burst([1], 8, steps)
        middle = time.perf_counter()
        for _ in range(steps):
            bare()
        overheads_s.append((2 * middle - began - time.perf_counter()) / steps)
    assert median(overheads_s) < 10e-6


@pytest.fixture(scope="module", params=[80, 4800, 4801], ids=["few", "blocks", "no-even-blocks"])
def drafting_program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with bursts, of a vocabulary that is searched at once, in blocks, or cannot be divided into any."""
    folder = tmp_path_factory.mktemp("drafting")
    weights = tiny_weights(replace(SHAPE, vocab=request.param))
    build_program("onnxruntime", weights, CompileSettings(Precision.FP32, CAPACITY, "cpu", 2), folder)
    return folder


@pytest.mark.parametrize("sampling", [SamplingSettings(0.05), SamplingSettings(1.0, top_p=0.99), SamplingSettings(9.0)])
@pytest.mark.parametrize("drafting", Drafting)
def test_the_graph_draws_what_numpy_draws(
    drafting_program: Path, drafting: Drafting, sampling: SamplingSettings
) -> None:
    """Peaked and flat distributions, the latter with a nucleus larger than what is sorted at first."""
    session, other = opened(drafting_program), opened(drafting_program)
    session.drafting = drafting
    for noise in ([0.02, 0.3], [0.7, 0.99]):
        expected = draw_call_by_call(other, [1], 0, 2, sampling, noise)
        burst = session.sampled_burst([1], 0, 2, sampling, noise)
        assert burst.tokens == expected.tokens
        assert burst.probabilities == pytest.approx(expected.probabilities, rel=1e-4)
        for place in range(2):
            actual = burst.distribution(place)
            np.testing.assert_allclose(actual, expected.distribution(place), rtol=1e-4, atol=1e-9)
            assert actual[burst.tokens[place]] == burst.probabilities[place]


@pytest.mark.parametrize("sampling", [SamplingSettings(0.05), SamplingSettings(1.0, top_p=0.5)])
def test_the_most_extreme_noise_draws_a_possible_token(drafting_program: Path, sampling: SamplingSettings) -> None:
    session = opened(drafting_program)
    session.drafting = Drafting.BURST
    burst = session.sampled_burst([1], 0, 2, sampling, [0.0, 1 - 2**-53])
    assert min(burst.probabilities) > 0


def test_greedy_settings_draw_greedily(drafting_program: Path) -> None:
    session = opened(drafting_program)
    session.drafting = Drafting.BURST
    drafted = session.burst([1, 2], 0, 2)
    burst = session.sampled_burst([1, 2], 0, 2, SamplingSettings(), [0.5, 0.5])
    assert (burst.tokens, burst.probabilities) == (drafted, [1.0, 1.0])


def test_a_burst_takes_any_number_of_tokens(drafting_program: Path) -> None:
    session, other = opened(drafting_program), opened(drafting_program)
    session.drafting = Drafting.BURST
    assert session.burst([1, 2, 3, 4, 5], 0, 2) == other.burst([1, 2, 3, 4, 5], 0, 2)
    assert session.burst([7], 6, 2) == other.burst([7], 6, 2)


def test_burst_programs_are_opened_when_they_are_first_needed(
    drafting_program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(drafting_program)
    session.drafting = Drafting.BURST
    names: list[str] = []
    original = ort_engine.open_graph

    def open_graph(folder: Path, name: str, threads: int) -> onnxruntime.InferenceSession:
        names.append(name)
        return original(folder, name, threads)

    monkeypatch.setattr(ort_engine, "open_graph", open_graph)
    session.greedy([1], 0)
    assert names == []
    session.burst([1], 0, 2)
    session.burst([1, 2], 0, 2)
    assert names == ["burst.greedy.2.onnx"]


def test_a_damaged_burst_program_is_refused_when_it_is_needed(drafting_program: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(drafting_program, tmp_path / "program")
    (folder / "burst.greedy.2.onnx").write_bytes(b"not a graph")
    session = opened(folder)
    session.drafting = Drafting.BURST
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        session.burst([1], 0, 2)


def test_a_program_of_an_older_schema_needs_no_samplers(program: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(program, tmp_path / "program")
    for path in folder.glob("sampler.*"):
        path.unlink()
    older = replace(Program.read(folder), schema_version=1)
    burst = OrtSession(folder, older, threads=1).sampled_burst([1], 0, 3, SamplingSettings(1.0), [0.2, 0.5, 0.8])
    assert burst.tokens == opened(program).sampled_burst([1], 0, 3, SamplingSettings(1.0), [0.2, 0.5, 0.8]).tokens
