"""Symmetric int8 quantisation of matrices, one scale per output channel (NumPy only).

The graph builders store what `quantise` returns, and the proxy scores what `dequantised` returns, so the acceptance
rate of an int8 draft is estimated on the very weights that its compiled program multiplies with.  Activations are
quantised at run time, one scale per tensor; that second, smaller error is not modelled here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.candidate import Precision
from autotune.weights import FloatArray, ModelWeights

LARGEST = 127
"""Largest magnitude stored; -128 is left out so that the range is symmetric and needs no zero point."""


@dataclass(frozen=True)
class QuantisedMatrix:
    """A matrix as `values * scales[:, None]`; values: int8 `[out, in]`, scales: float32 `[out]`."""

    values: NDArray[np.int8]
    scales: FloatArray

    def restored(self) -> FloatArray:
        """The float32 matrix `[out, in]` these integers stand for."""
        return self.values.astype(np.float32) * self.scales[:, None]


def quantise(matrix: FloatArray) -> QuantisedMatrix:
    """The nearest int8 matrix, each row scaled so that its largest magnitude becomes 127.  matrix: `[out, in]`."""
    largest = np.abs(matrix).max(axis=1)
    scales = np.where(largest > 0, largest / np.float32(LARGEST), np.float32(1)).astype(np.float32)
    return QuantisedMatrix(np.rint(matrix / scales[:, None]).astype(np.int8), scales)


def is_quantised(name: str) -> bool:
    """Whether the weight of that canonical name is stored as integers: matrices are, embedding and norms are not."""
    return name != "embed" and not name.endswith("norm")


def dequantised(weights: ModelWeights, precision: Precision) -> ModelWeights:
    """The weights as a program compiled at that precision sees them; the same object for fp32."""
    if precision is Precision.FP32:
        return weights
    arrays = {
        name: quantise(array).restored() if is_quantised(name) else array for name, array in weights.arrays.items()
    }
    return ModelWeights(weights.shape, weights.numerics, arrays)
