"""A larger model of the same function: the demo target widened and deepened, so that its cost is that of its size.

The residual stream is repeated `times` times, which a norm by the root mean square does not notice; matrices that read
it share their weights out over the copies, those that write it write every copy; heads and FFN channels are repeated
likewise, and new layers write zeros.  The function is unchanged up to rounding.  A draft of the small model is thus
just as good for the large one, whose verification costs what its size says: *inflated verification cost*, not a better
model.
"""

from dataclasses import replace

import numpy as np

from autotune.weights import FloatArray, ModelWeights


def grow(weights: ModelWeights, times: int, layers: int, seed: int = 0) -> ModelWeights:
    """The same function with `times` the width and `layers` layers in all (at least as many as it has)."""
    shape, arrays, rng = weights.shape, weights.arrays, np.random.default_rng(seed)
    grown_shape = replace(
        shape,
        layers=layers,
        heads=shape.heads * times,
        kv_heads=shape.kv_heads * times,
        hidden=shape.hidden * times,
        ffn=shape.ffn * times,
    )

    def reading(matrix: FloatArray) -> FloatArray:
        """`[out, in · times]`: the weights shared out over the copies of what is read, unevenly, as 1 in all."""
        shares = rng.uniform(0.5, 1.5, (times, matrix.shape[1])).astype(np.float32)
        shares /= shares.sum(0)
        return np.concatenate([matrix * share for share in shares], 1)

    def repeated(matrix: FloatArray) -> FloatArray:
        return np.concatenate([reading(matrix) for _ in range(times)], 0)

    grown: dict[str, FloatArray] = {
        "embed": np.tile(arrays["embed"], (1, times)),
        "norm": np.tile(arrays["norm"], times),
        "head": reading(arrays["head"]),
    }
    places = np.linspace(0, layers - 1, shape.layers).round().astype(int).tolist()
    for layer in range(layers):
        source = places.index(layer) if layer in places else None
        for name in ("attn.norm", "ffn.norm"):
            own = arrays[f"layers.{source or 0}.{name}"]
            grown[f"layers.{layer}.{name}"] = np.tile(own, times)
        for name in ("attn.q", "attn.k", "attn.v", "attn.o", "ffn.gate", "ffn.up", "ffn.down"):
            matrix = repeated(arrays[f"layers.{source or 0}.{name}"])
            silent = source is None and name in ("attn.o", "ffn.down")
            grown[f"layers.{layer}.{name}"] = np.zeros_like(matrix) if silent else matrix
    return ModelWeights(grown_shape, weights.numerics, grown)
