"""The ONNX graph of a decoder, written node by node with ONNX Runtime's fused operators.

One graph serves prefill, decode and verification: any number n of new tokens at any position, one sequence.

=============================== ========= ====================================================================
input                           type      meaning
=============================== ========= ====================================================================
`tokens` `[1, n]`               int64     the new tokens
`seqlens_k` `[1]`               int32     position of the last new token
`total_sequence_length` `[]`    int32     positions in the cache afterwards, the new ones included
`past.I.key`, `past.I.value`    floats    `[1, kv_heads, capacity_tokens, head_dim]`, head_dim rounded up to 16s
=============================== ========= ====================================================================

Outputs: `logits` `[1, n, head_rows]` float32, `argmax` `[1, n]` int64 (the first of equal maxima, as a token of the
whole vocabulary), and `present.I.key`, `present.I.value`, to be bound to the same memory as `past.I.…`: the cache is
then updated in place, never copied.

Floats are float32, or one of the half precisions: weights, activations and cache alike, but for the logits.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from autotune.candidate import INT4_BLOCK, DraftShape, Precision
from autotune.compile.graphs.external_data import ExternalData
from autotune.compile.graphs.floats import FLOAT_TYPES, stored_floats
from autotune.compile.graphs.head_alignment import aligned_heads
from autotune.compile.graphs.packed_blocks import packed_blocks
from autotune.quantization import quantise
from autotune.rotary import rotary_caches
from autotune.weights import FloatArray, ModelWeights

GRAPH_VERSION = "2"
"""Raise it when the graph of given weights changes: compiled programs are cached by it."""

HEAD_MULTIPLE = 16
"""GroupQueryAttention rotates only heads of a multiple of this size; others are padded."""

MICROSOFT = "com.microsoft"
OPSETS = (helper.make_opsetid("", 20), helper.make_opsetid(MICROSOFT, 1))
IR_VERSION = 10
HIDDEN = "norm.output"
"""The value that the head reads: `[1, n, hidden]`."""
TOKEN_IDS = "token_ids"
"""The constant of a trimmed head: the token of each of its rows."""

INT8_ACTIVATIONS = 4
"""`accuracy_level` of four-bit products: activations are rounded to int8 in blocks, which is what makes them fast."""
_BLOCK_ROWS = 64


def decoder_graph(
    weights: ModelWeights,
    precision: Precision,
    capacity_tokens: int,
    data: ExternalData,
    floats: Precision = Precision.FP32,
) -> onnx.ModelProto:
    """The decoder's graph; its arrays are appended to `data`.

    precision: of the matrices; floats: of everything else, and of the matrices too if they are not quantised.
    """
    model = aligned_heads(weights, HEAD_MULTIPLE)
    writer = _GraphWriter(weights, model, precision, data, floats)
    writer.decoder(capacity_tokens)
    graph = helper.make_graph(
        writer.nodes,
        "decoder",
        inputs=_inputs(model.shape, capacity_tokens, FLOAT_TYPES[floats]),
        outputs=_outputs(model.shape, capacity_tokens, FLOAT_TYPES[floats]),
        initializer=writer.initializers,
    )
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=IR_VERSION)


class _GraphWriter:
    """Nodes and initialisers in the making; each method adds some and returns the name of their first result."""

    def __init__(
        self, weights: ModelWeights, model: ModelWeights, precision: Precision, data: ExternalData, floats: Precision
    ):
        """model: the `weights` with their heads aligned."""
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._weights = weights
        self._model = model
        self._precision = precision
        self._data = data
        self._floats = floats

    def decoder(self, capacity_tokens: int) -> None:
        """Everything from `tokens` to `argmax`."""
        head_dim = self._weights.shape.head_dim
        self._rotary(head_dim, capacity_tokens)
        residual = self._node("Gather", [self._weight("embed"), "tokens"], ["embed.output"])
        normed = self._node(
            "SimplifiedLayerNormalization",
            [residual, self._weight("layers.0.attn.norm")],
            ["layers.0.attn.norm.output"],
            axis=-1,
            epsilon=self._model.numerics.norm_eps,
        )
        for index in range(self._model.shape.layers):
            prefix = f"layers.{index}"
            attended = self._attention(index, normed, 1 / math.sqrt(head_dim))
            normed, residual = self._add_and_norm(attended, residual, f"{prefix}.ffn.norm")
            last = index + 1 == self._model.shape.layers
            next_norm = "norm" if last else f"layers.{index + 1}.attn.norm"
            normed, residual = self._add_and_norm(self._ffn(prefix, normed), residual, next_norm)
        self._head(normed)
        if self._model.token_ids is None:
            self._node("ArgMax", ["logits"], ["argmax"], axis=-1, keepdims=0)
        else:
            row = self._node("ArgMax", ["logits"], ["argmax.row"], axis=-1, keepdims=0)
            self._node("Gather", [self._constant(TOKEN_IDS, self._model.token_ids), row], ["argmax"])

    def _rotary(self, head_dim: int, capacity_tokens: int) -> None:
        """Adds the constants `rotary.cosines` and `rotary.sines`, as wide as the aligned heads."""
        added = (self._model.shape.head_dim - head_dim) // 2
        cosines, sines = rotary_caches(self._model.numerics, head_dim, capacity_tokens)
        self._float_constant("rotary.cosines", np.pad(cosines, ((0, 0), (0, added))))
        self._float_constant("rotary.sines", np.pad(sines, ((0, 0), (0, added))))

    def _attention(self, index: int, normed: str, scale: float) -> str:
        """Attention of layer `index`: rotates queries and keys, appends keys and values to the cache, attends."""
        prefix, cache = f"layers.{index}.attn", (f"{index}.key", f"{index}.value")
        packed = self._linear(normed, f"{prefix}.q", f"{prefix}.k", f"{prefix}.v", output=f"{prefix}.qkv")
        past = [f"past.{name}" for name in cache]
        present = [f"present.{name}" for name in cache]
        positions = ["seqlens_k", "total_sequence_length", "rotary.cosines", "rotary.sines"]
        attended = self._node(
            "GroupQueryAttention",
            [packed, "", "", *past, *positions],
            [f"{prefix}.output", *present],
            MICROSOFT,
            num_heads=self._model.shape.heads,
            kv_num_heads=self._model.shape.kv_heads,
            scale=scale,
            do_rotary=1,
            rotary_interleaved=0,
        )
        if self._precision is Precision.INT4:
            attended = self._without_padding(attended)
        return self._linear(attended, f"{prefix}.o", output=f"{prefix}.projected")

    def _without_padding(self, attended: str) -> str:
        """The attention's output without the dimensions that aligning heads added: blocks must begin where they do in
        the model's own matrix, or they would be quantised otherwise than the proxy thinks."""
        own, aligned = self._weights.shape, self._model.shape.head_dim
        if own.head_dim == aligned:
            return attended
        halves = np.arange(own.heads * aligned).reshape(own.heads, 2, aligned // 2)
        kept = halves[:, :, : own.head_dim // 2].ravel()
        if "attention.kept" not in {each.name for each in self.initializers}:
            self._constant("attention.kept", kept)
        return self._node("Gather", [attended, "attention.kept"], [f"{attended}.own"], axis=-1)

    def _ffn(self, prefix: str, normed: str) -> str:
        """The SwiGLU network of the layer `prefix`."""
        gate, up = f"{prefix}.ffn.gate", f"{prefix}.ffn.up"
        packed = self._linear(normed, gate, up, output=f"{prefix}.ffn.gate_up")
        self._node("Split", [packed], [f"{gate}.output", f"{up}.output"], axis=-1, num_outputs=2)
        # QuickGelu with alpha = 1 is x · sigmoid(x), the SiLU, as one fused node.
        silu = self._node("QuickGelu", [f"{gate}.output"], [f"{gate}.silu"], MICROSOFT, alpha=1.0)
        product = self._node("Mul", [silu, f"{up}.output"], [f"{prefix}.ffn.product"])
        return self._linear(product, f"{prefix}.ffn.down", output=f"{prefix}.ffn.output")

    def _head(self, normed: str) -> None:
        """The value `logits`, in float32 whatever the other floats are."""
        if self._floats is Precision.FP32:
            self._linear(normed, "head", output="logits")
        else:
            self._node("Cast", [self._linear(normed, "head", output="head.output")], ["logits"], to=TensorProto.FLOAT)

    def _add_and_norm(self, value: str, residual: str, norm: str) -> tuple[str, str]:
        """The normed sum of `value` and `residual`, and the sum itself."""
        normed, total = f"{norm}.output", f"{norm}.residual"
        self._node(
            "SkipSimplifiedLayerNormalization",
            [value, residual, self._weight(norm)],
            [normed, "", "", total],
            MICROSOFT,
            epsilon=self._model.numerics.norm_eps,
        )
        return normed, total

    def _linear(self, value: str, *names: str, output: str) -> str:
        """`value` times the transposed weights `names` (`[out, in]` each), their outputs side by side."""
        parts = [self._model.arrays[name] for name in names]
        name = f"{output}.weight"
        if self._precision in FLOAT_TYPES:
            stored = _side_by_side([stored_floats(part, self._floats) for part in parts])
            return self._node("MatMul", [value, self._constant(name, stored, FLOAT_TYPES[self._floats])], [output])
        if self._precision is Precision.INT4:
            return self._four_bit(value, names, output)
        quantised = [quantise(part) for part in parts]
        values = self._constant(name, _side_by_side([part.values for part in quantised]))
        scales = self._constant(f"{output}.scales", np.concatenate([part.scales for part in quantised]))
        return self._node("DynamicQuantizeMatMul", [value, values, scales], [output], MICROSOFT)

    def _four_bit(self, value: str, names: Sequence[str], output: str) -> str:
        """As `_linear`, with weights of four bits in blocks."""
        parts = [self._weights.arrays[name] if name.endswith("attn.o") else self._model.arrays[name] for name in names]
        values, scales = packed_blocks(parts)
        return self._node(
            "MatMulNBits",
            [value, self._constant(f"{output}.weight", values), self._float_constant(f"{output}.scales", scales)],
            [output],
            MICROSOFT,
            K=parts[0].shape[1],
            N=len(scales),
            bits=4,
            block_size=INT4_BLOCK,
            **({"accuracy_level": INT8_ACTIVATIONS} if self._floats is Precision.FP32 else {}),
        )

    def _weight(self, name: str) -> str:
        """The canonical weight, unquantised."""
        return self._float_constant(name, self._model.arrays[name])

    def _float_constant(self, name: str, array: FloatArray) -> str:
        return self._constant(name, stored_floats(array, self._floats), FLOAT_TYPES[self._floats])

    def _constant(self, name: str, array: NDArray[np.generic], data_type: int | None = None) -> str:
        self.initializers.append(self._data.append(name, array, data_type))
        return name

    def _node(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: object
    ) -> str:
        """Adds a node named after its first output, and returns that output."""
        self.nodes.append(
            helper.make_node(operator, inputs, outputs, name=f"{outputs[0]}/{operator}", domain=domain, **attributes)
        )
        return outputs[0]


def _side_by_side(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The transposes of the `[out, in]` parts side by side: `[in, sum of outs]`, in one pass over memory."""
    stacked = np.empty((parts[0].shape[1], sum(part.shape[0] for part in parts)), parts[0].dtype)
    column = 0
    for part in parts:
        # In blocks that fit the cache, a transposition is four times faster.
        for row in range(0, len(part), _BLOCK_ROWS):
            block = part[row : row + _BLOCK_ROWS]
            stacked[:, column : column + len(block)] = block.T
            column += len(block)
    return stacked


def _inputs(shape: DraftShape, capacity_tokens: int, float_type: int) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, "n"]),
        helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, [1]),
        helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, []),
        *_cache_values("past", shape, capacity_tokens, float_type),
    ]


def _outputs(shape: DraftShape, capacity_tokens: int, float_type: int) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "n", shape.head_rows]),
        helper.make_tensor_value_info("argmax", TensorProto.INT64, [1, "n"]),
        *_cache_values("present", shape, capacity_tokens, float_type),
    ]


def _cache_values(prefix: str, shape: DraftShape, capacity_tokens: int, float_type: int) -> list[onnx.ValueInfoProto]:
    size = [1, shape.kv_heads, capacity_tokens, shape.head_dim]
    names = chain.from_iterable((f"{prefix}.{i}.key", f"{prefix}.{i}.value") for i in range(shape.layers))
    return [helper.make_tensor_value_info(name, float_type, size) for name in names]
