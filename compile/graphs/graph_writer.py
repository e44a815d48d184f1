"""Nodes and initialisers of an ONNX graph in the making, and what every part of a decoder is made of."""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from autotune.compile.graphs.external_data import ExternalData
from autotune.compile.graphs.floats import FLOAT_TYPES, float_dtype, stored_floats
from autotune.compile.graphs.head_alignment import HeadAlignment
from autotune.compile.graphs.mapped_pages import hand_back
from autotune.compile.graphs.stored_matrices import UNSIGNED_ZERO, eight_bit, packed_blocks, side_by_side, unsigned
from autotune.compile.processor import adds_bytes_exactly
from autotune.number_formats import INT4_BLOCK, Precision
from autotune.weights import FloatArray

MICROSOFT = "com.microsoft"
OPSETS = (helper.make_opsetid("", 20), helper.make_opsetid(MICROSOFT, 1))
IR_VERSION = 10

_INT8_ZERO = "int8.zero"
INT8_ACTIVATIONS = 4
"""`accuracy_level` of four-bit products: activations are rounded to int8 in blocks, which is what makes them fast."""


class GraphWriter:
    """A graph in the making; methods add to it and return the name of their first result."""

    def __init__(self, model: HeadAlignment, precision: Precision, data: ExternalData, floats: Precision):
        """precision: of the matrices; floats: of everything else, and of the matrices if they are not quantised."""
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.model = model
        self.shape = model.shape
        """With aligned heads."""
        self.style = model.shape.style
        self.precision = precision
        self.floats = floats
        self._data = data

    def node(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: object
    ) -> str:
        """Adds a node named after its first output, and returns that output."""
        self.nodes.append(
            helper.make_node(operator, inputs, outputs, name=f"{outputs[0]}/{operator}", domain=domain, **attributes)
        )
        return outputs[0]

    def weight(self, name: str) -> str:
        """The canonical weight, unquantised."""
        added = self.float_constant(name, self.model.array(name))
        hand_back(self.model.weights.arrays[name])
        return added

    def bias(self, name: str) -> str:
        """The bias of the canonical weight; an empty name where it has none."""
        return self.weight(f"{name}.bias") if f"{name}.bias" in self.model.weights.arrays else ""

    def float_constant(self, name: str, array: FloatArray) -> str:
        """Adds a constant of the graph's floats."""
        return self.constant(name, stored_floats(array, self.floats), FLOAT_TYPES[self.floats])

    def constant(self, name: str, array: NDArray[np.generic], data_type: int | None = None) -> str:
        """Adds a constant, whose values go to the file of arrays."""
        self.initializers.append(self._data.append(name, array, data_type))
        return name

    def host_constant(self, name: str, array: NDArray[np.generic]) -> str:
        """Adds a small constant that stands in the graph itself: what operators read on the host, whatever device they
        compute on, such as axes and shapes.  Asking for the same one twice adds it once."""
        if name not in {each.name for each in self.initializers}:
            self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def linear(self, value: str, *names: str, output: str, biased: bool = True) -> str:
        """`value` times the transposed weights `names` (`[out, in]` each), their outputs side by side.

        biased: whether their biases are added here, and not by what comes next.
        """
        bias = self._bias_of(names, output) if biased else ""
        product = self._product(value, names, output, f"{output}.product" if bias else output, bias)
        for name in names:
            hand_back(self.model.weights.arrays[name])
        return product

    def _product(self, value: str, names: Sequence[str], output: str, product: str, bias: str) -> str:
        """As `linear`.  product: the result of the operator that multiplies, where another is to add the `bias`."""
        if self.precision is Precision.INT8:
            signed, scales = eight_bit([self.model.array(name) for name in names])
            zero = "" if adds_bytes_exactly() else self.host_constant(_INT8_ZERO, np.array(UNSIGNED_ZERO, np.uint8))
            values = self.constant(f"{output}.weight", unsigned(signed) if zero else signed)
            matrix = [values, self.constant(f"{output}.scales", scales)]
            added = [zero, bias] if bias else [zero] if zero else []
            return self.node("DynamicQuantizeMatMul", [value, *matrix, *added], [output], MICROSOFT)
        if self.precision is Precision.INT4:
            self._four_bit(value, names, output, product)
        else:
            parts = [self.model.array(name) for name in names]
            stored = side_by_side(parts, float_dtype(self.floats), lambda rows: stored_floats(rows, self.floats))
            matrix = [self.constant(f"{output}.weight", stored, FLOAT_TYPES[self.floats])]
            self.node("MatMul", [value, *matrix], [product])
        return self.node("Add", [product, bias], [output]) if bias else output

    def _four_bit(self, value: str, names: Sequence[str], output: str, product: str) -> None:
        """As `linear`, with weights of four bits in blocks."""
        # Blocks must begin where they do in the model's own matrix, or they would be quantised otherwise than the
        # proxy thinks: the inputs of this one are those of heads that are not aligned.
        parts = [
            self.model.weights.arrays[name] if name.endswith("attn.o") else self.model.array(name) for name in names
        ]
        values, scales = packed_blocks(parts)
        self.node(
            "MatMulNBits",
            [value, self.constant(f"{output}.weight", values), self.float_constant(f"{output}.scales", scales)],
            [product],
            MICROSOFT,
            K=parts[0].shape[1],
            N=len(scales),
            bits=4,
            block_size=INT4_BLOCK,
            **({"accuracy_level": INT8_ACTIVATIONS} if self.floats is Precision.FP32 else {}),
        )

    def _bias_of(self, names: Sequence[str], output: str) -> str:
        """The biases of these weights side by side, zeros where there is none; an empty name where none has any."""
        if not any(f"{name}.bias" in self.model.weights.arrays for name in names):
            return ""
        parts = [
            self.model.array(f"{name}.bias")
            if f"{name}.bias" in self.model.weights.arrays
            else np.zeros(len(self.model.array(name)), np.float32)
            for name in names
        ]
        return self.float_constant(f"{output}.bias", np.concatenate(parts))
