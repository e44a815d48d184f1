"""The ONNX graph of a LLaMA decoder, written node by node with ONNX Runtime's fused operators.

One graph serves prefill, decode and verification: any number n of new tokens at any position, one sequence.

=============================== ========= ====================================================================
input                           type      meaning
=============================== ========= ====================================================================
`tokens` `[1, n]`               int64     the new tokens
`seqlens_k` `[1]`               int32     position of the last new token
`total_sequence_length` `[]`    int32     positions in the cache afterwards, the new ones included
`past.I.key`, `past.I.value`    float32   `[1, kv_heads, capacity_tokens, head_dim]`, head_dim rounded up to 16s
=============================== ========= ====================================================================

Outputs: `logits` `[1, n, vocab]` float32, `argmax` `[1, n]` int64 (the first of equal maxima), and `present.I.key`,
`present.I.value`, to be bound to the same memory as `past.I.…`: the cache is then updated in place, never copied.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from autotune.candidate import DraftShape, Precision
from autotune.compile.graphs.external_data import ExternalData
from autotune.compile.graphs.head_alignment import aligned_heads
from autotune.quantization import is_quantised, quantise
from autotune.weights import FloatArray, ModelWeights, Numerics

GRAPH_VERSION = "1"
"""Raise it when the graph of given weights changes: compiled programs are cached by it."""

HEAD_MULTIPLE = 16
"""GroupQueryAttention rotates only heads of a multiple of this size; others are padded."""

_MICROSOFT = "com.microsoft"
_OPSETS = (helper.make_opsetid("", 20), helper.make_opsetid(_MICROSOFT, 1))
_IR_VERSION = 10
_BLOCK_ROWS = 64


def llama_graph(
    weights: ModelWeights, precision: Precision, capacity_tokens: int, data: ExternalData
) -> onnx.ModelProto:
    """The decoder's graph; its arrays are appended to `data`."""
    model = aligned_heads(weights, HEAD_MULTIPLE)
    writer = _GraphWriter(model, precision, data)
    writer.decoder(weights.shape.head_dim, capacity_tokens)
    graph = helper.make_graph(
        writer.nodes,
        "llama",
        inputs=_inputs(model.shape, capacity_tokens),
        outputs=_outputs(model.shape, capacity_tokens),
        initializer=writer.initializers,
    )
    return helper.make_model(graph, opset_imports=_OPSETS, ir_version=_IR_VERSION)


def rotary_caches(numerics: Numerics, head_dim: int, positions: int) -> tuple[FloatArray, FloatArray]:
    """Cosines and sines `[positions, head_dim / 2]`; dimension i is rotated together with i + head_dim / 2."""
    frequencies = 1.0 / numerics.rope_theta ** (np.arange(0, head_dim, 2) / head_dim)
    angles = np.outer(np.arange(positions), frequencies)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


class _GraphWriter:
    """Nodes and initialisers in the making; each method adds some and returns the name of their result."""

    def __init__(self, precision: Precision, data: ExternalData):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._precision = precision
        self._data = data

    def decoder(self, weights: ModelWeights, capacity_tokens: int) -> None:
        """Everything from `tokens` to `argmax`."""
        cosines, sines = rotary_caches(weights.numerics, weights.shape.head_dim, capacity_tokens)
        self._constant("rotary.cosines", cosines)
        self._constant("rotary.sines", sines)
        residual = self._node("Gather", [self._constant("embed", weights.arrays["embed"]), "tokens"], ["embedded"])
        normed = self._node(
            "SimplifiedLayerNormalization",
            [residual, self._constant("layers.0.attn.norm", weights.layer(0, "attn.norm"))],
            ["layers.0.attn.input"],
            axis=-1,
            epsilon=weights.numerics.norm_eps,
        )
        for index in range(weights.shape.layers):
            normed, residual = self._layer(index, weights, normed, residual)
        logits = self._linear(normed, "head", [weights.arrays["head"]], output="logits")
        self._node("ArgMax", [logits], ["argmax"], axis=-1, keepdims=0)

    def _layer(self, index: int, weights: ModelWeights, normed: str, residual: str) -> tuple[str, str]:
        """Layer `index`: the normed input of what follows it, and the residual stream behind it."""
        prefix = f"layers.{index}"

        def linear(value: str, name: str, *parts: str) -> str:
            return self._linear(value, f"{prefix}.{name}", [weights.layer(index, part) for part in parts])

        packed = linear(normed, "attn.qkv", "attn.q", "attn.k", "attn.v")
        attended = self._attention(index, weights.shape, packed)
        normed, residual = self._add_and_norm(
            linear(attended, "attn.o", "attn.o"), residual, f"{prefix}.ffn.norm", weights
        )
        packed = linear(normed, "ffn.gate_up", "ffn.gate", "ffn.up")
        gate, up = f"{prefix}.ffn.gate", f"{prefix}.ffn.up"
        self._node("Split", [packed], [gate, up], axis=-1, num_outputs=2)
        # QuickGelu with alpha = 1 is x · sigmoid(x), the SiLU, as one fused node.
        gated = self._node("QuickGelu", [gate], [f"{gate}.silu"], _MICROSOFT, alpha=1.0)
        product = self._node("Mul", [gated, up], [f"{prefix}.ffn.product"])
        last = index + 1 == weights.shape.layers
        next_norm = "norm" if last else f"layers.{index + 1}.attn.norm"
        return self._add_and_norm(linear(product, "ffn.down", "ffn.down"), residual, next_norm, weights)

    def _attention(self, index: int, shape: DraftShape, packed: str) -> str:
        """Rotates queries and keys, appends keys and values to the cache, attends; `packed` holds q, k and v."""
        cache = [f"{index}.key", f"{index}.value"]
        return self._node(
            "GroupQueryAttention",
            [
                packed,
                "",
                "",
                *(f"past.{name}" for name in cache),
                "seqlens_k",
                "total_sequence_length",
                "rotary.cosines",
                "rotary.sines",
            ],
            [f"layers.{index}.attn.output", *(f"present.{name}" for name in cache)],
            _MICROSOFT,
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            do_rotary=1,
            rotary_interleaved=0,
        )

    def _add_and_norm(self, value: str, residual: str, norm: str, weights: ModelWeights) -> tuple[str, str]:
        """The normed sum of `value` and `residual`, and the sum itself."""
        normed, total = f"{norm}.output", f"{norm}.residual"
        gain = self._constant(norm, weights.arrays[norm])
        self._node(
            "SkipSimplifiedLayerNormalization",
            [value, residual, gain],
            [normed, "", "", total],
            _MICROSOFT,
            epsilon=weights.numerics.norm_eps,
        )
        return normed, total

    def _linear(self, value: str, name: str, parts: Sequence[FloatArray], output: str = "") -> str:
        """`value · [parts]ᵀ`, the parts `[out, in]` stacked along their outputs; stored `[in, out]` as MatMul wants."""
        output = output or f"{name}.output"
        if self._precision is Precision.FP32 or not is_quantised(name):
            return self._node("MatMul", [value, self._constant(name, _stacked_columns(parts))], [output])
        quantised = [quantise(part) for part in parts]
        values = self._constant(f"{name}.int8", _stacked_columns([part.values for part in quantised]))
        scales = self._constant(f"{name}.scales", np.concatenate([part.scales for part in quantised]))
        return self._node("DynamicQuantizeMatMul", [value, values, scales], [output], _MICROSOFT)

    def _constant(self, name: str, array: NDArray[np.generic]) -> str:
        self.initializers.append(self._data.append(name, array))
        return name

    def _node(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: object
    ) -> str:
        """Adds a node named after its first output, and returns that output."""
        self.nodes.append(
            helper.make_node(operator, inputs, outputs, name=f"{outputs[0]}/{operator}", domain=domain, **attributes)
        )
        return outputs[0]


def _stacked_columns(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
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


def _inputs(shape: DraftShape, capacity_tokens: int) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, "n"]),
        helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, [1]),
        helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, []),
        *_cache_values("past", shape, capacity_tokens),
    ]


def _outputs(shape: DraftShape, capacity_tokens: int) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "n", shape.vocab]),
        helper.make_tensor_value_info("argmax", TensorProto.INT64, [1, "n"]),
        *_cache_values("present", shape, capacity_tokens),
    ]


def _cache_values(prefix: str, shape: DraftShape, capacity_tokens: int) -> list[onnx.ValueInfoProto]:
    size = [1, shape.kv_heads, capacity_tokens, shape.head_dim]
    names = chain.from_iterable((f"{prefix}.{i}.key", f"{prefix}.{i}.value") for i in range(shape.layers))
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name in names]
