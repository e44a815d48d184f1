import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.candidate import Build, Candidate, DraftShape, Precision
from autotune.search_space.constraints import Constraints, violated

SHAPE = DraftShape(layers=2, heads=4, kv_heads=2, head_dim=8, hidden=32, ffn=48, vocab=100)


def candidate(lookahead: int = 4, precision: Precision = Precision.FP32) -> Candidate:
    return Candidate(Build(SHAPE, "onnxruntime", precision), lookahead)


def test_no_limit_is_never_violated() -> None:
    free = Constraints(context_tokens=64)
    assert violated(free.before_build(candidate())) == []
    assert violated(free.after_measuring(1e9)) == []


def test_memory_counts_weights_cache_and_logits() -> None:
    cache = 64 * 2 * 2 * 2 * 8 * 4
    logits = 5 * 100 * 4
    expected = SHAPE.parameters * 4 + cache + logits
    assert candidate().memory_bytes(64) == expected
    assert violated(Constraints(64, max_memory_bytes=expected).before_build(candidate())) == []
    assert violated(Constraints(64, max_memory_bytes=expected - 1).before_build(candidate())) == ["memory"]
    assert candidate(precision=Precision.INT8).memory_bytes(64) < expected


def test_a_longer_lookahead_or_context_needs_more_memory() -> None:
    half = candidate(precision=Precision.FP16)
    more_context = half.memory_bytes(65) - half.memory_bytes(64)
    assert more_context == half.shape.kv_bytes_per_token // 2
    assert candidate(5).memory_bytes(64) > candidate(4).memory_bytes(64)
    assert candidate(4).memory_bytes(65) > candidate(4).memory_bytes(64)


def test_limits_are_named_in_words() -> None:
    tight = Constraints(64, max_memory_bytes=1, max_parameters=1, max_round_s=0.001)
    assert violated(tight.before_build(candidate())) == ["memory", "parameters"]
    assert violated(tight.after_measuring(0.002)) == ["round latency"]


@given(st.integers(1, 10**7))
def test_excess_is_relative_to_the_limit(limit: int) -> None:
    excess = Constraints(64, max_parameters=limit).before_build(candidate())["parameters"]
    assert excess == pytest.approx((SHAPE.parameters - limit) / limit)
    assert (excess > 0) == (SHAPE.parameters > limit)
