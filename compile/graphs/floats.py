"""How a graph stores the numbers that are not quantised: fp32, or one of the half precisions."""

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from autotune.candidate import Precision
from autotune.quantization import to_bfloat16_bits
from autotune.weights import FloatArray

FLOAT_TYPES = {
    Precision.FP32: TensorProto.FLOAT,
    Precision.FP16: TensorProto.FLOAT16,
    Precision.BF16: TensorProto.BFLOAT16,
}


def float_dtype(floats: Precision) -> np.dtype[np.generic]:
    """NumPy's type of what `stored_floats` returns."""
    return stored_floats(np.zeros(0, np.float32), floats).dtype


def stored_floats(array: FloatArray, floats: Precision) -> NDArray[np.generic]:
    """The array as it stands in the weights file: of bfloat16, which NumPy lacks, the bit patterns."""
    match floats:
        case Precision.FP16:
            return array.astype(np.float16)
        case Precision.BF16:
            return to_bfloat16_bits(array)
    return array
