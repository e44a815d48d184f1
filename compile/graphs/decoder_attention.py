"""Attention of a decoder's layers in ONNX: projections, norms of queries and keys, and the fused operator.

Of several sequences, each has a cache and an operator of its own: ONNX Runtime's attention takes more than one new
token behind a cache for a single sequence only, and this way every sequence may be at another position.
"""

import math

import numpy as np

from autotune.compile.graphs.graph_writer import MICROSOFT, GraphWriter
from autotune.number_formats import Precision
from autotune.rotary import rotary_caches


def sequence_names(name: str, batch: int) -> list[str]:
    """The names of a value for each sequence; the name itself for a single one."""
    return [name] if batch == 1 else [f"{name}.{sequence}" for sequence in range(batch)]


def cache_names(layer: int, sequence: int, batch: int) -> tuple[str, str]:
    """Names of keys and values in the cache of a sequence, without `past.` or `present.`."""
    key, value = (sequence_names(f"{layer}.{kind}", batch)[sequence] for kind in ("key", "value"))
    return key, value


class Attention:
    """Adds the attention of every layer to a graph."""

    def __init__(self, writer: GraphWriter, capacity_tokens: int, batch: int):
        self._writer = writer
        self._batch = batch
        self._scale = 1 / math.sqrt(writer.model.weights.shape.head_dim)
        self._rotary = [] if writer.style.learned_positions else self._rotary_constants(capacity_tokens)
        self._positions = self._split("seqlens_k", axis=0)

    def layer(self, index: int, normed: str) -> str:
        """What layer `index` attends to, projected, but for the projection's bias."""
        writer, prefix = self._writer, f"layers.{index}.attn"
        packed = writer.linear(normed, *(f"{prefix}.{part}" for part in "qkv"), output=f"{prefix}.qkv")
        if writer.style.qk_norm:
            packed = self._normed_heads(prefix, packed)
        rows = [self._attend(index, sequence, value) for sequence, value in enumerate(self._split(packed, axis=0))]
        attended = rows[0] if self._batch == 1 else writer.node("Concat", rows, [f"{prefix}.output"], axis=0)
        if writer.precision is Precision.INT4:
            attended = self._own_dimensions(attended)
        return writer.linear(attended, f"{prefix}.o", output=f"{prefix}.projected", biased=False)

    def _attend(self, index: int, sequence: int, packed: str) -> str:
        """Rotates queries and keys of a sequence, appends keys and values to its cache, attends."""
        cache = cache_names(index, sequence, self._batch)
        return self._writer.node(
            "GroupQueryAttention",
            [
                *(packed, "", ""),
                *(f"past.{name}" for name in cache),
                *(self._positions[sequence], "total_sequence_length"),
                *self._rotary,
            ],
            [
                sequence_names(f"layers.{index}.attn.output", self._batch)[sequence],
                *(f"present.{name}" for name in cache),
            ],
            MICROSOFT,
            num_heads=self._writer.shape.heads,
            kv_num_heads=self._writer.shape.kv_heads,
            scale=self._scale,
            do_rotary=int(bool(self._rotary)),
            rotary_interleaved=0,
        )

    def _rotary_constants(self, capacity_tokens: int) -> list[str]:
        """Adds cosines and sines, as wide as the aligned heads."""
        own, aligned = self._writer.model.weights.shape.head_dim, self._writer.shape.head_dim
        added = ((0, 0), (0, (aligned - own) // 2))
        caches = rotary_caches(self._writer.model.weights.numerics, own, capacity_tokens)
        return [
            self._writer.float_constant(f"rotary.{name}", np.pad(cache, added))
            for name, cache in zip(("cosines", "sines"), caches, strict=True)
        ]

    def _normed_heads(self, prefix: str, packed: str) -> str:
        """The packed queries, keys and values with every query's and key's head normed."""
        writer, head_dim = self._writer, self._writer.shape.head_dim
        queries, keys = writer.shape.heads * head_dim, writer.shape.kv_heads * head_dim
        sizes = writer.host_constant("attention.sizes", np.array([queries, keys, keys]))
        parts = [f"{prefix}.{part}.output" for part in "qkv"]
        writer.node("Split", [packed, sizes], parts, axis=-1)
        by_head = writer.host_constant("attention.by_head", np.array([0, 0, -1, head_dim]))
        flat = writer.host_constant("attention.flat", np.array([0, 0, -1]))
        normed = []
        for part in "qk":
            heads = writer.node("Reshape", [f"{prefix}.{part}.output", by_head], [f"{prefix}.{part}.heads"])
            heads = writer.node(
                "SimplifiedLayerNormalization",
                [heads, writer.weight(f"{prefix}.{part}_norm")],
                [f"{prefix}.{part}.normed_heads"],
                axis=-1,
                epsilon=writer.model.norm_eps,
            )
            normed.append(writer.node("Reshape", [heads, flat], [f"{prefix}.{part}.normed"]))
        return writer.node("Concat", [*normed, parts[-1]], [f"{prefix}.qkv.normed"], axis=-1)

    def _own_dimensions(self, attended: str) -> str:
        """The attention's output without the dimensions that aligning heads added."""
        if self._writer.shape.head_dim == self._writer.model.weights.shape.head_dim:
            return attended
        if "attention.kept" not in {each.name for each in self._writer.initializers}:
            self._writer.constant("attention.kept", self._writer.model.kept())
        return self._writer.node("Gather", [attended, "attention.kept"], [f"{attended}.own"], axis=-1)

    def _split(self, value: str, axis: int) -> list[str]:
        """The value of each sequence."""
        names = sequence_names(value, self._batch)
        if self._batch > 1:
            self._writer.node("Split", [value], names, axis=axis, num_outputs=self._batch)
        return names
