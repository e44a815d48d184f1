"""What a program for several sequences must do: the same to each as if it were alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.candidate import Precision
from autotune.compile.base import build_program, load_backend
from autotune.errors import ArtifactError
from autotune.program import Program
from autotune.quantization import dequantised
from autotune.runtime.session import BatchSession, open_batch_session, open_session
from autotune.weights import ModelWeights
from tests.support.compiled import CAPACITY, LENGTH, PROMPT, QUANTISED_ERROR, BackendSuite
from tests.support.models import STYLED, styled_weights, tiny_weights
from tests.support.reference_decoder import decoder_logits

BATCH = 3
STARTS = (5, 0, 9)
"""Where the sequences continue: each at another position."""


class BatchConformance(BackendSuite):
    """Inherit and set `backend`; every style, at every precision, held to the plain decoder."""

    @pytest.fixture(scope="class", params=STYLED)
    @classmethod
    def batch(
        cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> tuple[ModelWeights, Path]:
        """Each style's weights and program."""
        folder = tmp_path_factory.mktemp("batch")
        weights = styled_weights(request.param)
        build_program(cls.backend, weights, replace(cls.settings(cls.exact), batch=BATCH), folder)
        return weights, folder

    @pytest.fixture
    def batch_session(self, batch: tuple[ModelWeights, Path]) -> Iterator[BatchSession]:
        session = open_batch_session(batch[1], threads=1)
        yield session
        session.close()

    def test_sequences_know_nothing_of_each_other(
        self, batch: tuple[ModelWeights, Path], batch_session: BatchSession
    ) -> None:
        tokens, expected = sequences(batch[0])
        self.close(batch_session.logits(tokens, [0] * BATCH), expected)
        self.close(batch_session.logits(tokens[:, :1], [0] * BATCH), expected[:, :1])

    def test_sequences_continue_where_each_stands(
        self, batch: tuple[ModelWeights, Path], batch_session: BatchSession
    ) -> None:
        tokens, expected = sequences(batch[0])
        wrong = (tokens + 1) % batch[0].shape.vocab
        batch_session.logits(np.concatenate([tokens[:, :PROMPT], wrong[:, PROMPT:]], axis=1), [0] * BATCH)
        starts = np.array(STARTS)
        for width in (1, 4, 1, 2, 6):
            given = pieces(tokens, starts, width)
            self.close(batch_session.logits(given, starts.tolist()).copy(), pieces(expected, starts, width))
            greedy = batch_session.greedy(given, starts.tolist())
            assert greedy.tolist() == pieces(expected, starts, width).argmax(axis=-1).tolist()
            starts += width

    @pytest.mark.parametrize("style", STYLED)
    def test_some_sequences_alone_leave_the_others_as_they_are(self, style: str, tmp_path: Path) -> None:
        weights = styled_weights(style)
        settings = replace(self.settings(self.exact), batch=BATCH, smaller_batches=(1, 2))
        build_program(self.backend, weights, settings, tmp_path)
        assert Program.read(tmp_path).batches == (1, 2, BATCH)
        session = open_batch_session(tmp_path, threads=1)
        tokens, expected = sequences(weights)
        for row in (2, 0, 1):
            self.close(session.logits(tokens[[row], :PROMPT], [0], [row]), expected[[row], :PROMPT])
        for rows, width in (((2, 1), 2), ((1,), 3), ((0, 2), 1)):
            starts = np.array([PROMPT - 1] * len(rows))
            given, wanted = (pieces(each[list(rows)], starts, width) for each in (tokens, expected))
            self.close(session.logits(given, starts.tolist(), rows), wanted)
            greedy = session.greedy(given, starts.tolist(), rows)
            assert greedy.tolist() == wanted.argmax(axis=-1).tolist()
        starts = np.array(STARTS)
        self.close(session.logits(pieces(tokens, starts, 3), STARTS), pieces(expected, starts, 3))
        for rows in ((1, 1), (0, 1, 2, 3), ()):
            with pytest.raises(ValueError, match="1, 2, 3 of them"):
                session.logits(tokens[: len(rows), :1], [0] * len(rows), rows)
        with pytest.raises(ValueError, match="2 rows and 1 starts given for 1 sequences"):
            session.logits(tokens[:2, :1], [0], [1])
        session.close()
        session.close()
        (tmp_path / "batch.2.onnx").unlink()
        with pytest.raises(ArtifactError, match=r"batch\.2\.onnx is missing"):
            open_batch_session(tmp_path, threads=1)

    @pytest.mark.parametrize("style", STYLED)
    @pytest.mark.parametrize("precision", QUANTISED_ERROR)
    def test_other_precisions_of_a_batch(self, style: str, precision: Precision, tmp_path: Path) -> None:
        if precision not in load_backend(self.backend, self.device).precisions(self.device):
            pytest.skip(f"{self.backend} has no {precision} on {self.device}")
        weights = styled_weights(style)
        build_program(self.backend, weights, replace(self.settings(precision), batch=BATCH), tmp_path)
        session = open_batch_session(tmp_path, threads=1)
        tokens, expected = sequences(dequantised(weights, precision))
        session.logits(tokens[:, :PROMPT], [0] * BATCH)
        starts = np.array(STARTS)
        actual = session.logits(pieces(tokens, starts, 5), STARTS)
        wanted = pieces(expected, starts, 5)
        assert np.sqrt(np.mean((actual - wanted) ** 2) / np.mean(wanted**2)) < QUANTISED_ERROR[precision]

    def test_impossible_calls_of_a_batch_are_refused(
        self, batch: tuple[ModelWeights, Path], batch_session: BatchSession
    ) -> None:
        tokens, expected = sequences(batch[0])
        batch_session.logits(tokens[:, :PROMPT], [0] * BATCH)
        with pytest.raises(ValueError, match=f"for {BATCH} sequences"):
            batch_session.logits(tokens[:2, :1], [0, 0])
        with pytest.raises(ValueError, match="start"):
            batch_session.logits(tokens[:, :1], [0, PROMPT + 1, 0])
        with pytest.raises(ValueError, match="no tokens"):
            batch_session.logits(tokens[:, :0], [0] * BATCH)
        with pytest.raises(ValueError, match=f"{CAPACITY} tokens"):
            batch_session.logits(np.zeros((BATCH, CAPACITY), np.int64), [0, 1, 0])
        self.close(batch_session.logits(tokens[:, PROMPT:], [PROMPT] * BATCH), expected[:, PROMPT:])

    def test_programs_for_one_and_for_several_are_told_apart(self, tmp_path: Path) -> None:
        weights = tiny_weights(STYLED["qwen2"][0])
        for batch in (1, 2):
            build_program(self.backend, weights, replace(self.settings(self.exact), batch=batch), tmp_path / f"{batch}")
            assert Program.read(tmp_path / f"{batch}").batch == batch
        with pytest.raises(ArtifactError, match="one sequence"):
            open_batch_session(tmp_path / "1", threads=1)
        with pytest.raises(ArtifactError, match="2 sequences"):
            open_session(tmp_path / "2", threads=1)
        (tmp_path / "2" / "weights.bin").unlink()
        with pytest.raises(ArtifactError, match="incomplete"):
            open_batch_session(tmp_path / "2", threads=1)

    def close(self, actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        assert actual.shape == expected.shape
        assert np.abs(actual - expected).max() <= self.tolerance * np.abs(expected).max()


def sequences(weights: ModelWeights) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Tokens `[BATCH, LENGTH]` and the logits after each, as the plain decoder has them one sequence at a time."""
    tokens = np.random.default_rng(11).integers(0, weights.shape.vocab, (BATCH, LENGTH))
    return tokens, np.array([decoder_logits(weights, row.tolist()) for row in tokens])


def pieces(whole: NDArray[Any], starts: NDArray[np.int64], width: int) -> NDArray[Any]:
    """`width` places of each sequence from its start on."""
    return np.array([row[start : start + width] for row, start in zip(whole, starts, strict=True)])
