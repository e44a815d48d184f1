"""Norms of a decoder in ONNX, alone and fused with the sum before them."""

from autotune.compile.graphs.graph_writer import MICROSOFT, GraphWriter
from autotune.shape import Norm


def norm(writer: GraphWriter, value: str, name: str, output: str) -> str:
    """`value` normed by the weight `name`."""
    simplified = writer.style.norm is Norm.RMS
    return writer.node(
        "SimplifiedLayerNormalization" if simplified else "LayerNormalization",
        [value, *_weights(writer, name)],
        [output],
        axis=-1,
        epsilon=writer.model.weights.numerics.norm_eps,
    )


def add_and_norm(
    writer: GraphWriter, value: str, residual: str, name: str, bias: str, output: str | None = None
) -> tuple[str, str]:
    """The normed sum of `value`, its `bias` (an empty name: it has none) and `residual`, and the sum itself.

    output: what the normed sum is to be called.
    """
    normed, total = output or f"{name}.output", f"{name}.residual"
    simplified = writer.style.norm is Norm.RMS
    writer.node(
        "SkipSimplifiedLayerNormalization" if simplified else "SkipLayerNormalization",
        [value, residual, *_weights(writer, name), *([bias] if bias else [])],
        [normed, "", "", total],
        MICROSOFT,
        epsilon=writer.model.weights.numerics.norm_eps,
    )
    return normed, total


def _weights(writer: GraphWriter, name: str) -> list[str]:
    bias = writer.bias(name)
    return [writer.weight(name), *([bias] if bias else [])]
