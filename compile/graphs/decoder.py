"""The ONNX graph of a decoder, written node by node with ONNX Runtime's fused operators.

One graph serves prefill, decode and verification: any number n of new tokens at any position, of one sequence or of
`batch` that compute together, each at a position of its own.

=============================== ========= ====================================================================
input                           type      meaning
=============================== ========= ====================================================================
`tokens` `[batch, n]`           int64     the new tokens
`seqlens_k` `[batch]`           int32     position of the last new token
`total_sequence_length` `[]`    int32     positions in the cache afterwards, the new ones included
`past.I.key`, `past.I.value`    floats    `[1, kv_heads, capacity_tokens, head_dim]`, head_dim rounded up to 16s
=============================== ========= ====================================================================

Outputs: `logits` `[batch, n, head_rows]` float32, `argmax` `[batch, n]` int64 (the first of equal maxima, as a token
of the whole vocabulary), and `present.I.key`, `present.I.value`, to be bound to the same memory as `past.I.…`: the
cache is then updated in place, never copied.

Of several sequences, sequence B has the caches `past.I.key.B` and so on, and `total_sequence_length` is the capacity
(attention takes the true length from `seqlens_k`).

Floats are float32, or one of the half precisions: weights, activations and cache alike, but for the logits.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper

from autotune.compile.graphs.decoder_attention import Attention, cache_names
from autotune.compile.graphs.decoder_norms import add_and_norm, norm
from autotune.compile.graphs.external_data import ExternalData
from autotune.compile.graphs.floats import FLOAT_TYPES
from autotune.compile.graphs.graph_writer import IR_VERSION, MICROSOFT, OPSETS, GraphWriter
from autotune.compile.graphs.head_alignment import HeadAlignment
from autotune.number_formats import Precision
from autotune.weights import ModelWeights

GRAPH_VERSION = "4"
"""Raise it when the graph of given weights changes: compiled programs are cached by it."""

HEAD_MULTIPLE = 16
"""GroupQueryAttention rotates only heads of a multiple of this size; others are padded."""

HIDDEN = "hidden"
"""The value that the head reads: `[batch, n, hidden]`."""
TOKEN_IDS = "token_ids"
"""The constant of a trimmed head: the token of each of its rows."""


def decoder_graph(
    weights: ModelWeights,
    precision: Precision,
    capacity_tokens: int,
    data: ExternalData,
    floats: Precision = Precision.FP32,
    batch: int = 1,
) -> onnx.ModelProto:
    """The decoder's graph; its arrays are appended to `data`.

    precision: of the matrices; floats: of everything else, and of the matrices too if they are not quantised.
    """
    writer = GraphWriter(HeadAlignment(weights, HEAD_MULTIPLE), precision, data, floats)
    attention = Attention(writer, capacity_tokens, batch)
    _head(writer, _layers(writer, attention, _embedding(writer, capacity_tokens, batch)))
    graph = helper.make_graph(
        writer.nodes,
        "decoder",
        inputs=[
            helper.make_tensor_value_info("tokens", TensorProto.INT64, [batch, "n"]),
            helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, [batch]),
            helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, []),
            *_cache_values("past", writer, capacity_tokens, batch),
        ],
        outputs=[
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, "n", writer.shape.head_rows]),
            helper.make_tensor_value_info("argmax", TensorProto.INT64, [batch, "n"]),
            *_cache_values("present", writer, capacity_tokens, batch),
        ],
        initializer=writer.initializers,
    )
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=IR_VERSION)


def _embedding(writer: GraphWriter, capacity_tokens: int, batch: int) -> str:
    """What the first layer reads: `[batch, n, hidden]`."""
    value = writer.node("Gather", [writer.weight("embed"), "tokens"], ["embed.output"])
    if writer.style.embed_dim:
        value = writer.linear(value, "embed.project", output="embed.projected")
    if not writer.style.learned_positions:
        return value
    table = writer.float_constant("positions", writer.model.weights.arrays["positions"][:capacity_tokens])
    row = writer.node("Gather", [table, _positions(writer, batch)], ["positions.output"])
    return writer.node("Add", [value, row], ["embed.positioned"])


def _positions(writer: GraphWriter, batch: int) -> str:
    """The position of every new token, `[batch, n]`: that of the last one less the number of those behind.

    Counted out of the tokens themselves: what asks for a shape would stop at the host, and could not be captured as a
    CUDA graph.
    """
    one = writer.host_constant("positions.one", np.array(1, np.int64))
    axis = writer.host_constant("positions.axis", np.array(1, np.int64))
    ones = writer.node("Clip", ["tokens", one, one], ["positions.ones"])
    behind = writer.node("CumSum", [ones, axis], ["positions.behind"], exclusive=1, reverse=1)
    last = writer.node("Cast", ["seqlens_k"], ["positions.last"], to=TensorProto.INT64)
    if batch > 1:
        axes = writer.host_constant("positions.axes", np.array([1], np.int64))
        last = writer.node("Unsqueeze", [last, axes], ["positions.last_of_each"])
    return writer.node("Sub", [last, behind], ["positions.rows"])


def _layers(writer: GraphWriter, attention: Attention, stream: str) -> str:
    """What the head reads."""
    first = writer.style.norm_first
    residual = stream
    normed = norm(writer, stream, "layers.0.attn.norm", "layers.0.attn.norm.output") if first else stream
    for index in range(writer.shape.layers):
        prefix, last = f"layers.{index}", index + 1 == writer.shape.layers
        following = "norm" if last else f"layers.{index + 1}.attn.norm"
        names = (f"{prefix}.ffn.norm", following) if first else (f"{prefix}.attn.norm", f"{prefix}.ffn.norm")
        attended = attention.layer(index, normed)
        normed, total = add_and_norm(writer, attended, residual, names[0], writer.bias(f"{prefix}.attn.o"))
        residual = total if first else normed
        computed = _ffn(writer, prefix, normed)
        output = HIDDEN if last else None
        normed, total = add_and_norm(writer, computed, residual, names[1], writer.bias(f"{prefix}.ffn.down"), output)
        residual = total if first else normed
    return normed


def _ffn(writer: GraphWriter, prefix: str, normed: str) -> str:
    """The network of the layer `prefix`, but for the bias of its last product."""
    gate, up = f"{prefix}.ffn.gate", f"{prefix}.ffn.up"
    if writer.style.gated:
        packed = writer.linear(normed, gate, up, output=f"{prefix}.ffn.gate_up")
        writer.node("Split", [packed], [f"{gate}.output", f"{up}.output"], axis=-1, num_outputs=2)
        # QuickGelu with alpha = 1 is x · sigmoid(x), the SiLU, as one fused node.
        silu = writer.node("QuickGelu", [f"{gate}.output"], [f"{gate}.silu"], MICROSOFT, alpha=1.0)
        inner = writer.node("Mul", [silu, f"{up}.output"], [f"{prefix}.ffn.inner"])
    else:
        inner = writer.node("Relu", [writer.linear(normed, up, output=f"{up}.output")], [f"{prefix}.ffn.inner"])
    return writer.linear(inner, f"{prefix}.ffn.down", output=f"{prefix}.ffn.output", biased=False)


def _head(writer: GraphWriter, hidden: str) -> None:
    """Adds `logits`, in float32 whatever the other floats are, and `argmax`."""
    if writer.style.embed_dim:
        hidden = writer.linear(hidden, "head.project", output="head.projected")
    if writer.floats is Precision.FP32:
        writer.linear(hidden, "head", output="logits")
    else:
        writer.node("Cast", [writer.linear(hidden, "head", output="head.output")], ["logits"], to=TensorProto.FLOAT)
    token_ids = writer.model.weights.token_ids
    if token_ids is None:
        writer.node("ArgMax", ["logits"], ["argmax"], axis=-1, keepdims=0)
    else:
        row = writer.node("ArgMax", ["logits"], ["argmax.row"], axis=-1, keepdims=0)
        writer.node("Gather", [writer.constant(TOKEN_IDS, token_ids), row], ["argmax"])


def _cache_values(kind: str, writer: GraphWriter, capacity_tokens: int, batch: int) -> Iterator[onnx.ValueInfoProto]:
    """Keys and values of every layer and sequence."""
    size = [1, writer.shape.kv_heads, capacity_tokens, writer.shape.head_dim]
    for layer in range(writer.shape.layers):
        for sequence in range(batch):
            for name in cache_names(layer, sequence, batch):
                yield helper.make_tensor_value_info(f"{kind}.{name}", FLOAT_TYPES[writer.floats], size)
