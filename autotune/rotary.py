"""The rotary embedding's frequencies, one copy for every compiler and for training."""

import math

import numpy as np

from autotune.weights import FloatArray, Numerics


def rotary_frequencies(numerics: Numerics, head_dim: int) -> FloatArray:
    """Angle per position `[head_dim / 2]` of each pair of dimensions (i, i + head_dim / 2).

    In float32 throughout, as transformers computes them.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies: FloatArray = np.float32(1) / np.float32(numerics.rope_theta) ** exponents
    scaling = numerics.rope_scaling
    if scaling is None:
        return frequencies
    stretched = frequencies / np.float32(scaling.factor)
    low, high, original = scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_context_tokens
    if low is None or high is None or original is None:
        return stretched
    wavelengths = np.float32(2 * math.pi) / frequencies
    # 0 where a wavelength is to be stretched whole, 1 where not at all.
    kept = np.clip((np.float32(original) / wavelengths - np.float32(low)) / np.float32(high - low), 0, 1)
    blended: FloatArray = (1 - kept) * stretched + kept * frequencies
    return blended


def rotary_caches(numerics: Numerics, head_dim: int, positions: int) -> tuple[FloatArray, FloatArray]:
    """Cosines and sines `[positions, head_dim / 2]`; dimension i is rotated together with i + head_dim / 2.

    Angles are rounded to float32 as transformers does: both are then off by the same, up to 5e-4 at position 10,000.
    """
    angles = np.outer(np.arange(positions, dtype=np.float32), rotary_frequencies(numerics, head_dim))
    return np.cos(angles), np.sin(angles)
