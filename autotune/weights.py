"""Model weights under canonical names, whatever library they came from.

Canonical names (matrices are `[out, in]`, as in a linear layer `y = x Wᵀ`):

====================== ====================================
`embed`                [vocab, hidden]
`layers.I.attn.norm`   [hidden]
`layers.I.attn.q`      [heads * head_dim, hidden]
`layers.I.attn.k`, `v` [kv_heads * head_dim, hidden]
`layers.I.attn.o`      [hidden, heads * head_dim]
`layers.I.ffn.norm`    [hidden]
`layers.I.ffn.gate`    [ffn, hidden]
`layers.I.ffn.up`      [ffn, hidden]
`layers.I.ffn.down`    [hidden, ffn]
`norm`                 [hidden]
`head`                 [head_rows, hidden]
====================== ====================================

A head is trimmed where the shape has a `draft_vocab`: row i then stands for token `token_ids[i]`, not for token i.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autotune.candidate import DraftShape

FloatArray = NDArray[np.float32]
TokenIds = NDArray[np.int64]


@dataclass(frozen=True)
class Numerics:
    """What a model's arithmetic needs beside its shape and weights."""

    family: str
    norm_eps: float
    rope_theta: float
    context_tokens: int
    """Longest sequence the model was made for (positions)."""


@dataclass(frozen=True)
class ModelWeights:
    """A model in memory (or memory-mapped): shape, numerics and fp32 arrays by canonical name."""

    shape: DraftShape
    numerics: Numerics
    arrays: Mapping[str, FloatArray]
    token_ids: TokenIds | None = None
    """`[draft_vocab]` the tokens of a trimmed head's rows, ascending; None: row i is token i."""

    def __post_init__(self) -> None:
        listed = None if self.token_ids is None else len(self.token_ids)
        if listed != self.shape.draft_vocab:
            raise ValueError(
                f"{listed} token ids are listed, but the shape has a draft vocabulary of {self.shape.draft_vocab}"
            )
        for name, expected in weight_shapes(self.shape):
            if name not in self.arrays:
                raise ValueError(f"weight {name!r} is missing")
            if self.arrays[name].shape != expected:
                raise ValueError(f"weight {name!r} is {self.arrays[name].shape}, expected {expected}")

    def layer(self, index: int, name: str) -> FloatArray:
        """The array `layers.<index>.<name>`."""
        return self.arrays[f"layers.{index}.{name}"]


def layer_weight_shapes(shape: DraftShape) -> Mapping[str, tuple[int, ...]]:
    """Array shapes of one layer, by canonical name without the `layers.I.` prefix."""
    query, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return {
        "attn.norm": (shape.hidden,),
        "attn.q": (query, shape.hidden),
        "attn.k": (kv, shape.hidden),
        "attn.v": (kv, shape.hidden),
        "attn.o": (shape.hidden, query),
        "ffn.norm": (shape.hidden,),
        "ffn.gate": (shape.ffn, shape.hidden),
        "ffn.up": (shape.ffn, shape.hidden),
        "ffn.down": (shape.hidden, shape.ffn),
    }


def weight_shapes(shape: DraftShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every canonical name of a model of this shape, with its array's shape."""
    yield "embed", (shape.vocab, shape.hidden)
    for index in range(shape.layers):
        for name, expected in layer_weight_shapes(shape).items():
            yield f"layers.{index}.{name}", expected
    yield "norm", (shape.hidden,)
    yield "head", (shape.head_rows, shape.hidden)


def random_weights(shape: DraftShape, numerics: Numerics, seed: int = 0) -> ModelWeights:
    """Random, NaN-free weights of the right sizes: latency does not depend on their values."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, FloatArray] = {}
    for name, size in weight_shapes(shape):
        if len(size) == 1:
            arrays[name] = np.ones(size, np.float32)
        else:
            arrays[name] = rng.standard_normal(size, dtype=np.float32) / np.float32(np.sqrt(size[1]))
    # Which tokens a trimmed head keeps does not matter for latency either.
    token_ids = None if shape.draft_vocab is None else np.arange(shape.draft_vocab)
    return ModelWeights(shape, numerics, arrays, token_ids)


def trimmed(weights: ModelWeights, token_ids: TokenIds) -> ModelWeights:
    """The model whose head covers only these tokens `[draft_vocab]` (ascending, distinct)."""
    if weights.token_ids is not None:
        raise ValueError("the head is trimmed already")
    shape = replace(weights.shape, draft_vocab=len(token_ids))
    return ModelWeights(
        shape, weights.numerics, {**weights.arrays, "head": weights.arrays["head"][token_ids]}, token_ids
    )
