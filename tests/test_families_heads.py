"""Drafts whose heads no config.json of their family can say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.errors import BadRequest
from autotune.families import checkpoint_config, describe_config, read_checkpoint, write_checkpoint
from autotune.families.heads import with_heads
from autotune.shape import DraftShape
from autotune.weights import ModelWeights
from tests.support.checkpoints import logits_of
from tests.support.models import NUMERICS, STYLED, tiny_weights
from tests.support.reference_decoder import decoder_logits

TOKENS = [5, 1, 30, 17, 17, 20, 9]
OPT = STYLED["opt"][0].style
BIASED = replace(STYLED["qwen2"][0].style, biases=("attn.q", "attn.k", "attn.v", "attn.o"))

OPT_SHAPES = {
    "fewer heads": (DraftShape(2, 3, 3, 8, 32, 20, 33, style=OPT), (4, 8)),
    "hidden is no multiple of the size": (DraftShape(2, 2, 2, 6, 32, 20, 33, style=OPT), (4, 8)),
    "one odd head": (DraftShape(1, 1, 1, 5, 14, 20, 33, style=OPT), (2, 7)),
}


def opt_weights(shape: DraftShape) -> ModelWeights:
    return tiny_weights(shape, numerics=replace(NUMERICS, family="opt"))


@pytest.mark.parametrize("name", OPT_SHAPES)
def test_opt_fills_its_heads_up_to_the_hidden_size(name: str, tmp_path: Path) -> None:
    shape, expected = OPT_SHAPES[name]
    weights = opt_weights(shape)
    write_checkpoint(weights, tmp_path)
    again = read_checkpoint(tmp_path)
    assert (again.shape.heads, again.shape.head_dim) == expected
    np.testing.assert_allclose(logits_of(tmp_path, TOKENS), decoder_logits(weights, TOKENS), rtol=0, atol=1e-4)


def test_opt_refuses_heads_wider_than_the_hidden_size_before_writing(tmp_path: Path) -> None:
    shape = DraftShape(1, 4, 4, 8, 24, 20, 33, style=OPT)
    with pytest.raises(BadRequest, match="no OPTForCausalLM checkpoint can have 4 heads of 8 with a hidden size of 24"):
        write_checkpoint(opt_weights(shape), tmp_path)
    with pytest.raises(BadRequest, match="choose fewer heads"):
        checkpoint_config(shape, replace(NUMERICS, family="opt"))
    assert not list(tmp_path.iterdir())


def test_a_llama_with_any_number_of_heads_is_written_as_a_mistral(tmp_path: Path) -> None:
    weights = tiny_weights(DraftShape(2, 3, 3, 8, 32, 20, 33))
    write_checkpoint(weights, tmp_path)
    again = read_checkpoint(tmp_path)
    assert again.shape == weights.shape
    assert again.numerics == replace(weights.numerics, family="mistral")
    np.testing.assert_allclose(logits_of(tmp_path, TOKENS), decoder_logits(weights, TOKENS), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("heads", "kv_heads", "expected"), [(3, 3, (4, 4)), (6, 3, (8, 4)), (6, 1, (8, 1))])
def test_a_llama_with_biases_gets_heads_that_divide_its_hidden_size(
    heads: int, kv_heads: int, expected: tuple[int, int], tmp_path: Path
) -> None:
    weights = tiny_weights(DraftShape(2, heads, kv_heads, 8, 32, 20, 33, style=BIASED))
    write_checkpoint(weights, tmp_path)
    again = read_checkpoint(tmp_path)
    assert (again.shape.heads, again.shape.kv_heads) == expected
    assert again.numerics == weights.numerics
    np.testing.assert_allclose(logits_of(tmp_path, TOKENS), decoder_logits(weights, TOKENS), rtol=0, atol=1e-4)


def test_a_config_needs_no_weights(tmp_path: Path) -> None:
    """What a plan ships: the architecture alone, with the whole vocabulary."""
    shape = DraftShape(2, 4, 2, 16, 64, 88, 101, draft_vocab=40)
    config = checkpoint_config(shape, NUMERICS)
    assert describe_config(config, tmp_path) == (replace(shape, draft_vocab=None), NUMERICS)


@pytest.mark.parametrize("wanted", [{"heads": 2, "kv_heads": 2}, {"heads": 4, "kv_heads": 2}, {"head_dim": 6}])
def test_heads_are_only_added(wanted: dict[str, int]) -> None:
    weights = tiny_weights(DraftShape(1, 6, 2, 8, 32, 20, 33))
    with pytest.raises(ValueError, match="cannot be filled up"):
        with_heads(weights, replace(weights.shape, **wanted))


def test_rotated_heads_keep_their_size() -> None:
    weights = tiny_weights(DraftShape(1, 2, 2, 8, 32, 20, 33))
    with pytest.raises(ValueError, match="must keep their size"):
        with_heads(weights, replace(weights.shape, head_dim=16))
