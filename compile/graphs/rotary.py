"""The rotary embedding's tables, the same for every compiler."""

import numpy as np

from autotune.weights import FloatArray, Numerics


def rotary_caches(numerics: Numerics, head_dim: int, positions: int) -> tuple[FloatArray, FloatArray]:
    """Cosines and sines `[positions, head_dim / 2]`; dimension i is rotated together with i + head_dim / 2.

    Angles are rounded to float32 as transformers does: both are then off by the same, up to 5e-4 at position 10,000.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = 1 / np.float32(numerics.rope_theta) ** exponents
    angles = np.outer(np.arange(positions, dtype=np.float32), frequencies)
    return np.cos(angles), np.sin(angles)
