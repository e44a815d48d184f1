import pytest

pytest.importorskip("tvm", reason="apache-tvm is not installed")

import tvm

from autotune.candidate import DraftShape, Precision
from autotune.compile.graphs.decoder_tvm import Model, decoder_module
from autotune.compile.graphs.tvm_primitives import index_of


def test_places_beyond_31_bits_are_computed_in_64() -> None:
    number = tvm.tirx.Var("number", "int32")
    assert index_of(number, 2**31 - 1) is number
    assert str(index_of(number, 2**31).ty) == "int64"


@pytest.mark.parametrize(("capacity_tokens", "wide"), [(2048, False), (4096, True)])
def test_a_large_cache_is_addressed_in_64_bits(capacity_tokens: int, wide: bool) -> None:
    """LLaMA-65B's at 4096 positions has 2^31 numbers and more."""
    shape = DraftShape(layers=80, heads=64, kv_heads=64, head_dim=128, hidden=8192, ffn=22016, vocab=32000)
    text = decoder_module(Model(shape, 1e-5, Precision.FP32, capacity_tokens)).script()
    narrow = any("keys[v_3," in line for line in text.splitlines())
    assert narrow is not wide
