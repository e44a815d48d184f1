"""The arrays that the CUDA kernels read, made from a model's weights."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.candidate import Precision
from autotune.compile.graphs.tvm_cuda_code import words
from autotune.compile.graphs.tvm_cuda_kernels import Matrix, padded
from autotune.quantization import from_bfloat16_bits, to_bfloat16_bits
from autotune.rotary import rotary_caches
from autotune.shape import layer_weight_shapes
from autotune.weights import FloatArray, ModelWeights


def packed_weights(
    weights: ModelWeights, precision: Precision, matrices: Mapping[str, Matrix], capacity_tokens: int
) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays by parameter name and in the order of the parameters; matrices: how each kind is stored."""
    shape = weights.shape

    def pack(name: str, matrix: FloatArray) -> NDArray[Any]:
        blocks, columns, _ = matrices[name].size[0]
        return _words(precision, _filled(matrix, blocks * columns)).reshape(matrices[name].size[0])

    cosines, sines = rotary_caches(weights.numerics, shape.head_dim, capacity_tokens)
    yield "cosines", cosines
    yield "sines", sines
    yield "embed", _words(precision, weights.arrays["embed"])
    if weights.token_ids is not None:
        yield "ids", weights.token_ids.astype(np.int64)
    yield "norm", _gain(precision, weights.arrays["norm"])
    yield "head", pack("head", weights.arrays["head"])
    for index in range(shape.layers):
        parts = {name: weights.layer(index, name) for name in layer_weight_shapes(shape)}
        yield f"attn_norm_{index}", _gain(precision, parts["attn.norm"])
        queries, keys = (_halves_paired(parts[f"attn.{part}"], shape.head_dim) for part in "qk")
        yield f"qkv_{index}", pack("qkv", np.concatenate([queries, keys, parts["attn.v"]]))
        yield f"o_{index}", pack("o", parts["attn.o"])
        yield f"ffn_norm_{index}", _gain(precision, parts["ffn.norm"])
        gate_up = np.stack([parts["ffn.gate"], parts["ffn.up"]], axis=1).reshape(-1, shape.hidden)
        yield f"gate_up_{index}", pack("gate_up", gate_up)
        yield f"down_{index}", pack("down", parts["ffn.down"])


def _halves_paired(matrix: FloatArray, head_dim: int) -> FloatArray:
    """The rows of each head in the order 0, half, 1, half + 1, …: a rotation turns each such pair."""
    heads = matrix.reshape(-1, 2, head_dim // 2, matrix.shape[1])
    return heads.transpose(0, 2, 1, 3).reshape(matrix.shape)


def _filled(matrix: FloatArray, rows: int) -> FloatArray:
    """The matrix with zero rows added."""
    return np.pad(matrix, ((0, rows - len(matrix)), (0, 0))) if len(matrix) < rows else matrix


def _words(precision: Precision, matrix: FloatArray) -> NDArray[Any]:
    """The matrix `[rows, width]` in words `[rows, words]`, the last vector filled up with zeros."""
    width = words(precision, matrix.shape[1]) * (1 if precision is Precision.FP32 else 2)
    if width > matrix.shape[1]:
        matrix = np.pad(matrix, ((0, 0), (0, width - matrix.shape[1])))
    match precision:
        case Precision.FP16:
            return np.ascontiguousarray(matrix.astype(np.float16)).view(np.uint32)
        case Precision.BF16:
            return to_bfloat16_bits(matrix).view(np.uint32)
        case _:
            return np.ascontiguousarray(matrix, np.float32)


def _gain(precision: Precision, norm: FloatArray) -> FloatArray:
    """A norm's weights as numbers of this precision, in float32 all the same, filled up with zeros."""
    if precision is Precision.FP16:
        norm = norm.astype(np.float16).astype(np.float32)
    if precision is Precision.BF16:
        norm = from_bfloat16_bits(to_bfloat16_bits(norm))
    return np.pad(norm, (0, padded(len(norm)) - len(norm)))
