from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.candidate import DraftShape
from autotune.weights import random_weights, trimmed
from autotune.weights_io import load_weights, save_weights
from tests.support.models import NUMERICS, tiny_weights

SHAPE = DraftShape(layers=2, heads=2, kv_heads=1, head_dim=4, hidden=8, ffn=12, vocab=30)


@pytest.mark.parametrize("token_ids", [None, [0, 7, 29]])
def test_weights_are_read_as_they_were_written(tmp_path: Path, token_ids: list[int] | None) -> None:
    weights = tiny_weights(SHAPE)
    if token_ids is not None:
        weights = trimmed(weights, np.array(token_ids))
    save_weights(weights, tmp_path / "weights")
    read = load_weights(tmp_path / "weights")
    assert (read.shape, read.numerics) == (weights.shape, weights.numerics)
    assert read.shape == replace(SHAPE, draft_vocab=token_ids and len(token_ids))
    assert read.arrays.keys() == weights.arrays.keys()
    assert all(np.array_equal(read.arrays[name], weights.arrays[name]) for name in weights.arrays)
    assert (None if read.token_ids is None else read.token_ids.tolist()) == token_ids


def test_no_two_random_matrices_are_equal() -> None:
    """ONNX Runtime keeps equal matrices once: a model made of them would measure as smaller than it is."""
    shape = DraftShape(layers=3, heads=8, kv_heads=8, head_dim=128, hidden=1024, ffn=1100, vocab=1200)
    weights = random_weights(shape, NUMERICS)
    matrices = [np.ascontiguousarray(array).tobytes() for array in weights.arrays.values() if array.ndim == 2]
    assert len(set(matrices)) == len(matrices)


def test_tables_of_more_rows_than_random_numbers_have_no_two_equal_neighbours() -> None:
    shape = replace(SHAPE, vocab=(1 << 20) + 5)
    table = random_weights(shape, NUMERICS).arrays["embed"]
    assert table.shape == (shape.vocab, SHAPE.hidden)
    assert not np.array_equal(table[-1], table[-2])
