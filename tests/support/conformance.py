"""What every compiler backend must do.  A backend's test module inherits `BackendConformance` and names the backend."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.candidate import DraftShape, Precision
from autotune.compile.base import CompileSettings, build_program, load_backend
from autotune.compile.sandbox import Limits, Phase, run_sandboxed
from autotune.errors import ArtifactError
from autotune.program import Program
from autotune.quantization import dequantised
from autotune.runtime.session import Session, open_session
from autotune.weights import ModelWeights
from tests.support import jobs
from tests.support.models import reference_logits, tiny_weights

CAPACITY = 48
PROMPT = 9
LENGTH = 30

SHAPES = {
    "grouped": DraftShape(layers=2, heads=4, kv_heads=2, head_dim=32, hidden=64, ffn=88, vocab=317),
    "multi-head": DraftShape(layers=1, heads=3, kv_heads=3, head_dim=64, hidden=96, ffn=176, vocab=250),
    "odd-head": DraftShape(layers=2, heads=4, kv_heads=2, head_dim=6, hidden=36, ffn=20, vocab=33),
    "multi-query": DraftShape(layers=3, heads=5, kv_heads=1, head_dim=32, hidden=40, ffn=56, vocab=101),
}


@dataclass(frozen=True)
class Compiled:
    """A model, its compiled program, and what transformers says of one token sequence."""

    weights: ModelWeights
    folder: Path
    tokens: list[int]
    expected: NDArray[np.float32]
    """Logits `[LENGTH, vocab]`."""


def assert_close(actual: NDArray[np.float32], expected: NDArray[np.float32], relative: float = 1e-4) -> None:
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= relative * np.abs(expected).max()


class BackendConformance:
    """Inherit and set `backend` to a name of the registry."""

    backend: str

    @pytest.fixture(scope="class", params=SHAPES)
    @classmethod
    def compiled(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
        """Each shape in fp32."""
        return cls._compile(SHAPES[request.param], Precision.FP32, tmp_path_factory.mktemp("fp32"))

    @pytest.fixture(scope="class")
    @classmethod
    def grouped(cls, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
        """One shape, for what does not depend on it."""
        return cls._compile(SHAPES["grouped"], Precision.FP32, tmp_path_factory.mktemp("grouped"))

    @pytest.fixture
    def session(self, compiled: Compiled) -> Iterator[Session]:
        session = open_session(compiled.folder, threads=1)
        yield session
        session.close()

    @classmethod
    def _compile(cls, shape: DraftShape, precision: Precision, folder: Path) -> Compiled:
        weights = tiny_weights(shape)
        build_program(cls.backend, weights, CompileSettings(precision, CAPACITY), folder / "program")
        tokens = np.random.default_rng(7).integers(0, shape.vocab, LENGTH).tolist()
        expected = reference_logits(dequantised(weights, precision), tokens, folder / "checkpoint")
        return Compiled(weights, folder / "program", tokens, expected)

    def test_backend_says_what_it_is(self) -> None:
        backend = load_backend(self.backend)
        assert backend.name == self.backend
        assert Precision.FP32 in backend.precisions("cpu")
        assert backend.versions()
        assert all(isinstance(version, str) and version for version in backend.versions().values())

    def test_built_describes_the_program(self, tmp_path: Path) -> None:
        weights = tiny_weights(SHAPES["grouped"])
        built = build_program(
            self.backend, weights, CompileSettings(Precision.FP32, CAPACITY), tmp_path / "new" / "program"
        )
        program = Program.read(Path(built.program))
        assert (program.backend, program.shape, program.capacity_tokens) == (self.backend, weights.shape, CAPACITY)
        assert program.numerics == weights.numerics
        assert program.versions == dict(load_backend(self.backend).versions())
        assert built.build_s > 0

    def test_prefill(self, compiled: Compiled, session: Session) -> None:
        assert_close(session.logits(compiled.tokens, 0), compiled.expected)

    def test_decode(self, compiled: Compiled, session: Session) -> None:
        for position, token in enumerate(compiled.tokens):
            assert_close(session.logits([token], position), compiled.expected[position : position + 1])

    @pytest.mark.parametrize("width", [2, 3, 5, 9, 17])
    def test_verify(self, compiled: Compiled, session: Session, width: int) -> None:
        session.greedy(compiled.tokens[:PROMPT], 0)
        for start in range(PROMPT, LENGTH, width):
            end = min(start + width, LENGTH)
            assert_close(session.logits(compiled.tokens[start:end], start), compiled.expected[start:end])

    def test_tokens_may_be_an_array(self, compiled: Compiled, session: Session) -> None:
        assert_close(session.logits(np.array(compiled.tokens), 0), compiled.expected)

    def test_rollback(self, compiled: Compiled, session: Session) -> None:
        wrong = [(token + 1) % compiled.weights.shape.vocab for token in compiled.tokens]
        session.logits(compiled.tokens[:PROMPT] + wrong[PROMPT:], 0)
        assert_close(session.logits(compiled.tokens[PROMPT:], PROMPT), compiled.expected[PROMPT:])
        session.logits(wrong, 0)
        assert_close(session.logits(compiled.tokens, 0), compiled.expected)

    def test_greedy_is_the_argmax_of_logits(self, compiled: Compiled, session: Session) -> None:
        for start, end in [(0, PROMPT), (PROMPT, PROMPT + 1), (PROMPT + 1, LENGTH)]:
            tokens = compiled.tokens[start:end]
            expected = session.logits(tokens, start).argmax(axis=1)
            greedy = session.greedy(tokens, start)
            assert greedy.dtype == np.int64
            assert greedy.tolist() == expected.tolist()

    def test_greedy_takes_the_first_of_equal_maxima(self, grouped: Compiled, tmp_path: Path) -> None:
        head = grouped.weights.arrays["head"].copy()
        head[1:-1:2] = head[0:-1:2]  # each odd token ties with the even one before it
        weights = ModelWeights(
            grouped.weights.shape, grouped.weights.numerics, dict(grouped.weights.arrays) | {"head": head}
        )
        build_program(self.backend, weights, CompileSettings(Precision.FP32, CAPACITY), tmp_path)
        tokens = open_session(tmp_path, threads=1).greedy(grouped.tokens, 0)
        assert (tokens % 2 == 0).all()

    @pytest.mark.parametrize("given", [1, 2])
    @pytest.mark.parametrize("count", [1, 2, 8])
    def test_burst_is_sequential_greedy(self, compiled: Compiled, session: Session, given: int, count: int) -> None:
        prompt = compiled.tokens[:PROMPT]
        expected = [int(session.greedy(prompt, 0)[-1])]
        while len(expected) < count:
            expected.append(int(session.greedy(expected[-1:], PROMPT + len(expected) - 1)[0]))

        drafted = session.burst(prompt[-given:], PROMPT - given, count)
        assert drafted == expected
        assert all(type(token) is int for token in drafted)

    def test_a_burst_caches_all_but_its_last_token(self, compiled: Compiled, session: Session) -> None:
        prompt = compiled.tokens[:PROMPT]
        session.greedy(prompt, 0)
        drafted = session.burst(prompt[-1:], PROMPT - 1, 4)
        end = PROMPT + 3
        continued = session.logits(drafted[-1:], end).copy()
        assert_close(continued, session.logits(prompt + drafted, 0)[-1:])
        with pytest.raises(ValueError, match="start"):
            session.greedy([0], PROMPT + 5)

    def test_the_whole_capacity_is_usable(self, compiled: Compiled, session: Session) -> None:
        tokens = (compiled.tokens * 2)[:CAPACITY]
        first = session.logits(tokens[:-1], 0)[:LENGTH].copy()
        assert_close(first, compiled.expected)
        assert session.greedy(tokens[-1:], CAPACITY - 1).shape == (1,)
        session.burst(tokens[CAPACITY - 4 : CAPACITY - 3], CAPACITY - 4, 4)

    def test_impossible_calls_are_refused_and_do_no_harm(self, compiled: Compiled, session: Session) -> None:
        session.greedy(compiled.tokens[:PROMPT], 0)
        with pytest.raises(ValueError, match="no tokens"):
            session.logits([], PROMPT)
        with pytest.raises(ValueError, match="start"):
            session.greedy([1], PROMPT + 1)
        with pytest.raises(ValueError, match="start"):
            session.greedy([1], -1)
        with pytest.raises(ValueError, match=f"{CAPACITY} tokens"):
            session.logits([1] * (CAPACITY - PROMPT + 1), PROMPT)
        with pytest.raises(ValueError, match=f"{CAPACITY} tokens"):
            session.burst([1], PROMPT, CAPACITY - PROMPT + 1)
        with pytest.raises(ValueError, match="at least one"):
            session.burst([1], PROMPT, 0)
        assert_close(session.logits(compiled.tokens[PROMPT:], PROMPT), compiled.expected[PROMPT:])

    def test_sessions_of_one_program_are_independent(self, compiled: Compiled, session: Session) -> None:
        other = open_session(compiled.folder, threads=2)
        session.greedy(compiled.tokens[:PROMPT], 0)
        other.greedy(compiled.tokens[::-1], 0)
        assert_close(session.logits(compiled.tokens[PROMPT:], PROMPT), compiled.expected[PROMPT:])
        other.close()
        assert_close(session.logits(compiled.tokens, 0), compiled.expected)

    def test_a_moved_program_runs_in_a_fresh_process(self, compiled: Compiled, tmp_path: Path) -> None:
        moved = shutil.copytree(compiled.folder, tmp_path / "moved")
        request = {"program": str(moved), "tokens": compiled.tokens}
        limits = Limits(time_s=60)
        outcome = run_sandboxed(f"{jobs.__name__}:greedy_tokens", request, Phase.RUN, limits, threads=1)
        assert outcome == compiled.expected.argmax(axis=1).tolist()

    def test_an_incomplete_program_is_refused(self, grouped: Compiled, tmp_path: Path) -> None:
        for path in grouped.folder.iterdir():
            folder = shutil.copytree(grouped.folder, tmp_path / f"without-{path.name}")
            (folder / path.name).unlink()
            with pytest.raises(ArtifactError):
                open_session(folder, threads=1)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_int8_is_close_to_its_dequantised_weights(self, shape: str, tmp_path: Path) -> None:
        if Precision.INT8 not in load_backend(self.backend).precisions("cpu"):
            pytest.skip(f"{self.backend} has no int8")
        compiled = self._compile(SHAPES[shape], Precision.INT8, tmp_path)
        session = open_session(compiled.folder, threads=1)
        steps = [session.logits([token], position)[0].copy() for position, token in enumerate(compiled.tokens)]
        for logits in (session.logits(compiled.tokens, 0), np.array(steps)):
            error = np.sqrt(np.mean((logits - compiled.expected) ** 2) / np.mean(compiled.expected**2))
            assert error < 0.1
