"""Digests of models and arrays, for content keys."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.cache import content_key
from autotune.weights import ModelWeights


def digest_of(parts: Iterable[str | NDArray[Any]]) -> str:
    """Hexadecimal SHA-256 of texts and arrays in their order; of arrays also the type and the shape."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
        else:
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def weights_digest(weights: ModelWeights) -> str:
    """A hash of a model: shape, numerics, every array, and the tokens of a trimmed head."""

    def parts() -> Iterator[str | NDArray[Any]]:
        yield content_key(vars(weights.shape), vars(weights.numerics))
        for name, array in sorted(weights.arrays.items()):
            yield name
            yield array
        if weights.token_ids is not None:
            yield weights.token_ids

    return digest_of(parts())
