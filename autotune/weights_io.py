"""Canonical weights on disk: one safetensors file and its description, for handing drafts to other processes."""

from pathlib import Path

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass
from safetensors import safe_open

from autotune.candidate import DraftShape
from autotune.tensor_file import write_tensors
from autotune.weights import ModelWeights, Numerics


@dataclass(frozen=True)
class _Description:
    shape: DraftShape
    numerics: Numerics


_TOKEN_IDS = "token_ids"
_DESCRIPTION = TypeAdapter(_Description)


def save_weights(weights: ModelWeights, folder: Path) -> None:
    """Write `weights.safetensors` and `weights.json` into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {} if weights.token_ids is None else {_TOKEN_IDS: weights.token_ids}
    write_tensors(folder / "weights.safetensors", {**weights.arrays, **ids}, {})
    description = _Description(shape=weights.shape, numerics=weights.numerics)
    (folder / "weights.json").write_bytes(_DESCRIPTION.dump_json(description))


def load_weights(folder: Path) -> ModelWeights:
    """The weights `save_weights` wrote."""
    description = _DESCRIPTION.validate_json((folder / "weights.json").read_bytes())
    with safe_open(folder / "weights.safetensors", framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    token_ids = arrays.pop(_TOKEN_IDS, None)
    return ModelWeights(description.shape, description.numerics, arrays, token_ids)
