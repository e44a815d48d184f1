"""The state of a training on disk: replaced at once or not at all, taken up only if whole and the right one."""

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.errors import BadRequest
from autotune.tensor_file import open_tensors, write_tensors

_WEIGHT = "weight"


class CheckpointRefused(Exception):
    """A checkpoint is damaged, or that of another training; the message says which."""


def write_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, step: int, key: str
) -> None:
    """Write all that `read_checkpoint` needs; BadRequest where the disk refuses, and an older file then stays.

    key: names the training, so that no other takes it up.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, tensor in tensors.items():
        arrays[f"{name}|{_WEIGHT}"] = tensor.detach().cpu().numpy()
        for kind, value in optimizer.state.get(tensor, {}).items():
            arrays[f"{name}|{kind}"] = value.cpu().numpy()
    write_tensors(path, arrays, {"step": str(step), "key": key, "checksum": _checksum(arrays)})


def read_checkpoint(path: Path, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, key: str) -> int:
    """The step a checkpoint was written after, once its state is that of the tensors and the optimiser.

    Raises CheckpointRefused, and changes nothing, unless the file is whole and was written under the same key.
    """
    try:
        file = open_tensors(path)
        if file.metadata.get("key") != key:
            raise CheckpointRefused(f"{path} was written by another training")
        arrays = {name: np.array(stored.read()) for name, stored in file.tensors.items()}
        step = int(file.metadata["step"])
    except (BadRequest, KeyError, ValueError) as error:
        raise CheckpointRefused(f"{path} is damaged ({error})") from error
    weights = {name for name in arrays if name.endswith(f"|{_WEIGHT}")}
    if file.metadata.get("checksum") != _checksum(arrays) or weights != {f"{name}|{_WEIGHT}" for name in tensors}:
        raise CheckpointRefused(f"{path} is damaged (its checksum is wrong)")
    for key_of_array, array in arrays.items():
        name, _, kind = key_of_array.partition("|")
        tensor, value = tensors[name], torch.from_numpy(array)
        if kind == _WEIGHT:
            with torch.no_grad():
                tensor.copy_(value)
        else:
            optimizer.state[tensor][kind] = value.to(tensor.device)
    return step


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> str:
    """A CRC of all arrays, names included."""
    return f"{_crc(sorted(arrays.items())):08x}"


def _crc(arrays: Iterable[tuple[str, NDArray[Any]]]) -> int:
    crc = 0
    for name, array in arrays:
        crc = zlib.crc32(np.ascontiguousarray(array).data, zlib.crc32(name.encode(), crc))
    return crc
