"""Rotary frequencies and their scalings against those of transformers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from autotune.rotary import rotary_caches, rotary_frequencies
from autotune.weights import Numerics, RopeScaling

LLAMA31 = RopeScaling(8.0, 1.0, 4.0, 8192)


def theirs(numerics: Numerics, head_dim: int) -> Any:
    """transformers' frequencies of the same settings."""
    scaling = numerics.rope_scaling
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": numerics.rope_theta}
    if scaling is not None:
        rope |= {"rope_type": "linear", "factor": scaling.factor}
        if scaling.original_context_tokens is not None:
            rope |= {
                "rope_type": "llama3",
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_context_tokens,
            }
    config = LlamaConfig(hidden_size=head_dim, num_attention_heads=1, head_dim=head_dim, rope_parameters=rope)
    if scaling is None:
        return LlamaRotaryEmbedding(config).inv_freq.numpy()
    frequencies, attention_factor = ROPE_INIT_FUNCTIONS[str(rope["rope_type"])](config)
    assert attention_factor == 1.0
    return frequencies.numpy()


scalings = st.one_of(
    st.none(),
    st.builds(RopeScaling, st.floats(1.0, 64.0)),
    st.builds(
        lambda factor, low, span, original: RopeScaling(factor, low, low + span, original),
        st.floats(1.0, 64.0),
        st.floats(0.25, 8.0),
        st.floats(0.5, 16.0),
        st.integers(16, 131_072),
    ),
)


@given(scalings, st.integers(1, 128), st.floats(10.0, 5e6))
@settings(deadline=None, max_examples=200)
def test_frequencies_are_those_of_transformers(scaling: RopeScaling | None, pairs: int, theta: float) -> None:
    numerics = Numerics("llama", 1e-5, theta, 2048, scaling)
    ours = rotary_frequencies(numerics, 2 * pairs)
    assert ours.dtype == np.float32
    # Blending magnifies the last bits, but not beyond a share of what the frequency is without scaling.
    unscaled = rotary_frequencies(replace(numerics, rope_scaling=None), 2 * pairs)
    assert (np.abs(ours - theirs(numerics, 2 * pairs)) <= 3e-5 * unscaled).all()


@pytest.mark.parametrize(
    ("theta", "head_dim", "scaling"),
    [
        (10_000.0, 128, None),  # LLaMA 1 and 2
        (500_000.0, 128, None),  # LLaMA 3
        (500_000.0, 128, LLAMA31),
        (500_000.0, 64, RopeScaling(32.0, 1.0, 4.0, 8192)),  # LLaMA 3.2 1B
        (10_000.0, 128, RopeScaling(4.0)),  # Vicuna 16k
        (1_000_000.0, 128, None),  # Qwen2, Qwen3, Mistral 0.3
    ],
)
def test_published_settings_to_the_last_bits(theta: float, head_dim: int, scaling: RopeScaling | None) -> None:
    numerics = Numerics("llama", 1e-5, theta, 2048, scaling)
    np.testing.assert_allclose(rotary_frequencies(numerics, head_dim), theirs(numerics, head_dim), rtol=5e-7)


def test_llama31_leaves_short_wavelengths_alone_and_stretches_long_ones() -> None:
    plain = rotary_frequencies(Numerics("llama", 1e-5, 500_000.0, 2048), 128)
    scaled = rotary_frequencies(Numerics("llama", 1e-5, 500_000.0, 2048, LLAMA31), 128)
    ratio = plain / scaled
    wavelengths = 2 * np.pi / plain
    np.testing.assert_allclose(ratio[wavelengths < 8192 / 4], 1, rtol=1e-6)
    np.testing.assert_allclose(ratio[wavelengths > 8192 / 1], 8, rtol=1e-6)
    assert (np.diff(ratio) >= -1e-5).all()


def test_caches_are_cosines_and_sines_of_position_times_frequency() -> None:
    numerics = Numerics("llama", 1e-5, 10_000.0, 2048, RopeScaling(4.0))
    cosines, sines = rotary_caches(numerics, 16, 33)
    angles = np.arange(33)[:, None] * rotary_frequencies(numerics, 16).astype(np.float64)
    assert cosines.shape == sines.shape == (33, 8)
    np.testing.assert_allclose(cosines, np.cos(angles), atol=1e-5)
    np.testing.assert_allclose(sines, np.sin(angles), atol=1e-5)
