"""Widens attention heads to a size that a fused attention operator accepts, without changing the function."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autotune.shape import DraftShape
from autotune.weights import FloatArray, ModelWeights


@dataclass(frozen=True)
class HeadAlignment:
    """Weights as they are for heads rounded up to a multiple (an even number).

    A rotary embedding turns dimension i together with i + head_dim / 2, so both halves of each head get zeros at their
    ends; heads that are not rotated get them at their own.  The new dimensions stay zero throughout; only the scores'
    scale, 1 / √head_dim, must remain the old one.
    """

    weights: ModelWeights
    multiple: int

    @property
    def head_dim(self) -> int:
        """Dimensions of an aligned head."""
        return -(-self.weights.shape.head_dim // self.multiple) * self.multiple

    @property
    def shape(self) -> DraftShape:
        """The model's shape with aligned heads."""
        return replace(self.weights.shape, head_dim=self.head_dim)

    @property
    def norm_eps(self) -> float:
        """What a norm over an aligned head adds to the mean square: zeros make that mean smaller, and this with it."""
        return self.weights.numerics.norm_eps * self.weights.shape.head_dim / self.head_dim

    def array(self, name: str) -> FloatArray:
        """The weight of that canonical name; itself, not a copy, where nothing is added."""
        array = self.weights.arrays[name]
        if self.head_dim == self.weights.shape.head_dim:
            return array
        kind = name.partition("attn.")[2]
        if kind in ("q_norm", "k_norm"):
            # The mean over the aligned head is smaller, so what is divided by its root comes out larger.
            return self._padded(array) * np.float32(np.sqrt(self.weights.shape.head_dim / self.head_dim))
        if kind in ("q", "k", "v", "q.bias", "k.bias", "v.bias"):
            return self._padded(array)
        return self._padded(array.T).T if kind == "o" else array

    def kept(self) -> NDArray[np.int64]:
        """Where the model's own dimensions are among those of all aligned heads, `[heads * head_dim]`."""
        own = self.weights.shape
        parts = np.arange(own.heads * self.head_dim).reshape(own.heads, self._parts, -1)
        return parts[:, :, : own.head_dim // self._parts].ravel()

    @property
    def _parts(self) -> int:
        """Pieces of a head that zeros are added to."""
        return 1 if self.weights.shape.style.learned_positions else 2

    def _padded(self, rows: FloatArray) -> FloatArray:
        """Rows `[…, of heads]` with zeros added to each head."""
        pieces = rows.reshape(-1, self.weights.shape.head_dim // self._parts, *rows.shape[1:])
        added = (self.head_dim - self.weights.shape.head_dim) // self._parts
        padding = ((0, 0), (0, added), *((0, 0) for _ in rows.shape[1:]))
        return np.pad(pieces, padding).reshape(-1, *rows.shape[1:])
