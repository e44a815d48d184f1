"""Four-bit matrices as ONNX Runtime's MatMulNBits reads them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autotune.quantization import quantise_blocks
from autotune.weights import FloatArray


def packed_blocks(parts: Sequence[FloatArray]) -> tuple[NDArray[np.uint8], FloatArray]:
    """The `[out, in]` parts below one another: bytes `[outs, blocks, INT4_BLOCK / 2]` and scales `[outs, blocks]`.

    A byte holds two neighbouring inputs, the first in its low half.  No zero points: the operator assumes 8 without.
    """
    quantised = [quantise_blocks(part) for part in parts]
    values = np.concatenate([part.values for part in quantised])
    return values[..., 0::2] | (values[..., 1::2] << 4), np.concatenate([part.scales for part in quantised])
