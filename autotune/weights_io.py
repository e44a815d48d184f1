"""Canonical weights on disk: one safetensors file and its description, for handing drafts to other processes."""

from pathlib import Path

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from autotune.shape import DraftShape
from autotune.tensor_file import open_tensors, write_tensors
from autotune.weights import ModelWeights, Numerics, random_weights


@dataclass(frozen=True)
class _Description:
    shape: DraftShape
    numerics: Numerics
    random_seed: int | None = None


_FILE = "weights.safetensors"
_TOKEN_IDS = "token_ids"
_DESCRIPTION = TypeAdapter(_Description)


def save_weights(weights: ModelWeights, folder: Path) -> None:
    """Write `weights.json` and, unless the weights are random, `weights.safetensors` into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    description = _Description(weights.shape, weights.numerics, weights.random_seed)
    if weights.random_seed is None:
        ids = {} if weights.token_ids is None else {_TOKEN_IDS: weights.token_ids}
        write_tensors(folder / _FILE, {**weights.arrays, **ids}, {})
    (folder / "weights.json").write_bytes(_DESCRIPTION.dump_json(description))


def load_weights(folder: Path) -> ModelWeights:
    """The weights `save_weights` wrote, memory-mapped."""
    description = _DESCRIPTION.validate_json((folder / "weights.json").read_bytes())
    if description.random_seed is not None:
        return random_weights(description.shape, description.numerics, description.random_seed)
    arrays = {name: stored.read() for name, stored in open_tensors(folder / _FILE).tensors.items()}
    token_ids = arrays.pop(_TOKEN_IDS, None)
    return ModelWeights(description.shape, description.numerics, arrays, token_ids)
