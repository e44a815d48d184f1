"""Writes a model's arrays into one file beside the ONNX graph, without passing them through protobuf."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

ALIGNMENT_BYTES = 4096
"""Every array starts on a page, so that a runtime can map it instead of reading it."""

_PIECE_BYTES = 16 << 20
"""What is copied at a time of an array whose rows do not lie one behind the other."""


class ExternalData:
    """An open file of arrays; use as a context manager, then save the graph that names them in the same folder."""

    def __init__(self, path: Path):
        self._name = path.name
        self._file = path.open("wb")
        self._stored: dict[str, onnx.TensorProto] = {}

    def __enter__(self) -> "ExternalData":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, name: str, array: NDArray[np.generic], data_type: int | None = None) -> onnx.TensorProto:
        """The initialiser `name` whose values, `array` in row-major order, now stand in the file.

        data_type: what the bits of the array mean, where NumPy has no such type.  A name that another graph of the same
        weights has stored is not stored again.
        """
        if name in self._stored:
            return self._stored[name]
        self._file.write(bytes(-self._file.tell() % ALIGNMENT_BYTES))
        offset = self._file.tell()
        rows = max(1, _PIECE_BYTES // max(array[:1].nbytes, 1))
        for first in range(0, len(array), rows):
            self._file.write(np.ascontiguousarray(array[first : first + rows]).data)
        tensor = onnx.TensorProto(
            name=name,
            data_type=data_type or onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        for key, value in (("location", self._name), ("offset", offset), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self._stored[name] = tensor
        return tensor
