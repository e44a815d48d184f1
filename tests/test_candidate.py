import os
import subprocess
import sys
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.candidate import Build, Candidate, DraftShape, Precision
from autotune.shape import weight_shapes

SHAPE = DraftShape(layers=2, heads=4, kv_heads=2, head_dim=8, hidden=32, ffn=48, vocab=100)
TRIMMED = replace(SHAPE, draft_vocab=40)
BUILD = Build(SHAPE, "onnxruntime", Precision.FP32)

PAPER = {
    "noft-1.3b": (24, 16, 5504, 2048, 1.345),
    "noft-wide-1.3b": (12, 20, 9280, 2560, 1.334),
    "noft-wide-796m": (5, 32, 11008, 4096, 1.274),
    "noft-wide-543m": (3, 32, 11008, 4096, 0.869),
    "noft-wide-290m": (1, 32, 11008, 4096, 0.465),
}
"""Layers, heads, ffn, hidden, billions of parameters of the drafts of arXiv 2402.01528 (head_dim 128, vocab 32000)."""


@st.composite
def shapes(draw: st.DrawFn) -> DraftShape:
    kv_heads = draw(st.integers(1, 4))
    return DraftShape(
        layers=draw(st.integers(1, 5)),
        heads=kv_heads * draw(st.integers(1, 4)),
        kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 16)),
        hidden=draw(st.integers(1, 70)),
        ffn=draw(st.integers(1, 99)),
        vocab=500,
        draft_vocab=draw(st.none() | st.integers(1, 499)),
    )


@given(shapes())
def test_parameters_are_those_of_the_weights(shape: DraftShape) -> None:
    sizes = {name: int(np.prod(size)) for name, size in weight_shapes(shape)}
    assert shape.parameters == sum(sizes.values())
    assert shape.decode_parameters == shape.parameters - sizes["embed"]
    assert shape.weight_bytes(Precision.FP32) == 4 * shape.parameters
    matrices = sum(size for name, size in sizes.items() if name != "embed" and not name.endswith("norm"))
    assert shape.weight_bytes(Precision.INT8) == 4 * shape.parameters - 3 * matrices


def test_a_trimmed_head_is_smaller_and_verification_is_not() -> None:
    whole, trimmed = (Candidate(Build(shape, "tvm", Precision.INT8), 3) for shape in (SHAPE, TRIMMED))
    assert whole.memory_bytes(0) - trimmed.memory_bytes(0) == (100 - 40) * 32
    assert SHAPE.decode_parameters - TRIMMED.decode_parameters == (100 - 40) * 32
    assert trimmed.memory_bytes(0) == TRIMMED.weight_bytes(Precision.INT8) + 4 * 100 * 4  # the target's logits


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_drafts_have_the_papers_sizes(name: str) -> None:
    layers, heads, ffn, hidden, billions = PAPER[name]
    shape = DraftShape(layers, heads, heads, head_dim=128, hidden=hidden, ffn=ffn, vocab=32000)
    assert shape.parameters / 1e9 == pytest.approx(billions, abs=0.0006)


def test_cache_bytes_of_a_token() -> None:
    assert SHAPE.kv_bytes_per_token == 2 * 2 * 2 * 8 * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers must be at least 1"),
        ({"vocab": -1}, "vocab must be at least 1"),
        ({"heads": 3}, "3 heads cannot be shared evenly by 2 kv heads"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"draft_vocab": 100}, "a trimmed vocabulary of 100 is not smaller than the 100 whole"),
        ({"draft_vocab": 0}, "draft_vocab must be at least 1"),
    ],
)
def test_impossible_shapes_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SHAPE, **changes)


def test_a_key_depends_on_everything_that_defines_a_candidate() -> None:
    others = [replace(SHAPE, **change) for change in ({"layers": 3}, {"heads": 2}, {"kv_heads": 1}, {"head_dim": 16})]
    others += [replace(SHAPE, **change) for change in ({"hidden": 16}, {"ffn": 64}, {"vocab": 99})]
    others += [TRIMMED, replace(SHAPE, draft_vocab=41)]
    builds = product([SHAPE, *others], ["onnxruntime", "tvm"], Precision)
    candidates = [Candidate(Build(*build), lookahead) for build in builds for lookahead in (1, 2, 12)]
    assert len({candidate.key() for candidate in candidates}) == len(candidates)
    assert len({candidate.build.key() for candidate in candidates}) == len(candidates) // 3


def test_equal_builds_have_equal_keys() -> None:
    assert Build(replace(SHAPE), "onnxruntime", Precision("fp32")).key() == BUILD.key()


@pytest.mark.parametrize("hash_seed", ["0", "123"])
def test_keys_are_the_same_in_every_process(hash_seed: str) -> None:
    program = "from tests.test_candidate import BUILD, Candidate; print(Candidate(BUILD, 3).key())"
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert shown.stdout.strip() == Candidate(BUILD, 3).key()


def test_keys_of_this_version_are_those_on_disk() -> None:
    """Cached and recorded keys must be found again: a change here orphans every run folder."""
    assert BUILD.key() == "333464a011f6292c"


def test_names_for_people() -> None:
    assert str(SHAPE) == "2L-4/2H-48F-32D"
    assert str(replace(SHAPE, kv_heads=4)) == "2L-4H-48F-32D"
    assert str(TRIMMED) == "2L-4/2H-48F-32D-40V"
    assert str(BUILD) == "2L-4/2H-48F-32D fp32 onnxruntime"
