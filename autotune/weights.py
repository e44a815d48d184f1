"""Model weights under canonical names, whatever library they came from.

Canonical names (matrices are `[out, in]`, as in a linear layer `y = x Wᵀ`; those of `autotune.shape.Style` only where
the style has them):

============================== ===================================================================================
`embed`                        [vocab, embed_dim]; embed_dim is the hidden size unless the style says otherwise
`embed.project`                [hidden, embed_dim] (style `embed_dim`)
`positions`                    [positions, hidden], added to the embedding (style `learned_positions`)
`layers.I.attn.norm`           [hidden], and `layers.I.attn.norm.bias` (style `norm`); so every norm
`layers.I.attn.q`              [heads * head_dim, hidden]; `layers.I.attn.q.bias` [out] (style `biases`); so all
`layers.I.attn.k`, `v`         [kv_heads * head_dim, hidden]
`layers.I.attn.q_norm`, `k_…`  [head_dim] (style `qk_norm`)
`layers.I.attn.o`              [hidden, heads * head_dim]
`layers.I.ffn.norm`            [hidden]
`layers.I.ffn.gate`            [ffn, hidden] (style `gated`)
`layers.I.ffn.up`              [ffn, hidden]
`layers.I.ffn.down`            [hidden, ffn]
`norm`                         [hidden] (style `norm_first`)
`head.project`                 [embed_dim, hidden] (style `embed_dim`)
`head`                         [head_rows, embed_dim]
============================== ===================================================================================

A head is trimmed where the shape has a `draft_vocab`: row i then stands for token `token_ids[i]`, not for token i.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autotune.shape import DraftShape, weight_shapes

FloatArray = NDArray[np.float32]
TokenIds = NDArray[np.int64]


_MOST_RANDOM = 1 << 20
"""Random numbers that an array is made of; larger arrays repeat them."""
_MOST_ALIKE = 4096
"""Large arrays with the same number of inputs, each of which is to begin elsewhere in the same random numbers."""


@dataclass(frozen=True)
class RopeScaling:
    """Rotary wavelengths stretched for longer contexts.

    Linear: all of them, by `factor`.  LLaMA 3.1's way, where the other three are given: those longer than
    `original_context_tokens / low_freq_factor` by `factor`, those shorter than `… / high_freq_factor` not at all, and
    those between by something between.
    """

    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_context_tokens: int | None = None


@dataclass(frozen=True)
class Numerics:
    """What a model's arithmetic needs beside its shape and weights."""

    family: str
    norm_eps: float
    rope_theta: float
    context_tokens: int
    """Longest sequence the model was made for (positions)."""
    rope_scaling: RopeScaling | None = None


@dataclass(frozen=True)
class ModelWeights:
    """A model in memory (or memory-mapped): shape, numerics and fp32 arrays by canonical name."""

    shape: DraftShape
    numerics: Numerics
    arrays: Mapping[str, FloatArray]
    token_ids: TokenIds | None = None
    """`[draft_vocab]` the tokens of a trimmed head's rows, ascending; None: row i is token i."""
    random_seed: int | None = None
    """What `random_weights` makes the same arrays of, so that they need not be stored; None: they are a model's."""

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


def random_weights(shape: DraftShape, numerics: Numerics, seed: int = 0) -> ModelWeights:
    """Random, NaN-free weights of the right sizes: latency does not depend on their values.

    They take next to no memory: large arrays are views of a few random numbers, their rows overlapping.  No two arrays
    are equal, since a runtime may keep equal ones only once, and then measures as smaller and faster than it is.
    """
    rng = np.random.default_rng(seed)
    shared: dict[int, FloatArray] = {}
    span = max(_MOST_RANDOM, *(size[0] for _, size in weight_shapes(shape)))  # every row begins at another number
    begun: Counter[int] = Counter()

    def normal(count: int, inputs: int) -> FloatArray:
        return rng.standard_normal(count, dtype=np.float32) / np.float32(np.sqrt(inputs))

    def array(name: str, size: tuple[int, ...]) -> FloatArray:
        if len(size) == 1:
            return np.zeros(size, np.float32) if name.endswith("bias") else np.ones(size, np.float32)
        rows, inputs = size
        if rows * inputs <= _MOST_RANDOM:
            return normal(rows * inputs, inputs).reshape(size)
        if inputs not in shared:
            shared[inputs] = normal(span + _MOST_ALIKE + inputs, inputs)
        begin, step = begun[inputs] % _MOST_ALIKE, span // rows
        begun[inputs] += 1
        windows = np.lib.stride_tricks.sliding_window_view(shared[inputs], inputs)
        return windows[begin::step][:rows]

    arrays = {name: array(name, size) for name, size in weight_shapes(shape)}
    # Which tokens a trimmed head keeps does not matter for latency either.
    token_ids = None if shape.draft_vocab is None else np.arange(shape.draft_vocab)
    return ModelWeights(shape, numerics, arrays, token_ids, seed)


def trimmed(weights: ModelWeights, token_ids: TokenIds) -> ModelWeights:
    """The model whose head covers only these tokens `[draft_vocab]` (ascending, distinct)."""
    if weights.token_ids is not None:
        raise ValueError("the head is trimmed already")
    shape = replace(weights.shape, draft_vocab=len(token_ids))
    return ModelWeights(
        shape, weights.numerics, {**weights.arrays, "head": weights.arrays["head"][token_ids]}, token_ids
    )
