"""Hugging Face checkpoint folders: config.json and (sharded) safetensors, with one-line errors."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.errors import BadRequest
from autotune.families.base import Config
from autotune.json_file import read_json
from autotune.tensor_file import StoredTensor, open_tensors, write_tensors
from autotune.weights import FloatArray

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
GENERATION_FILE = "generation_config.json"

PICKLES = (".bin", ".pth", ".pt")
_BLOCK_ELEMENTS = 1 << 18


def read_config(folder: Path) -> Config:
    """The parsed config.json of a checkpoint folder."""
    if not folder.is_dir():
        raise BadRequest(f"{folder} is not a folder: give a Hugging Face checkpoint folder")
    if not (folder / CONFIG_FILE).exists():
        raise BadRequest(f"{folder} has no {CONFIG_FILE}: it is not a Hugging Face checkpoint folder")
    return read_json(folder / CONFIG_FILE)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold a checkpoint's weights, the index of a sharded one included."""
    if (folder / WEIGHTS_FILE).exists():
        return (folder / WEIGHTS_FILE,)
    if (folder / INDEX_FILE).exists():
        shards = sorted(set(_shard_of(folder).values()))
        return (folder / INDEX_FILE, *(folder / shard for shard in shards))
    if any(path.suffix in PICKLES for path in folder.iterdir()):
        raise BadRequest(
            f"{folder} has only pickled PyTorch weights, which can run code when they are read: if you trust it, "
            f"convert it with `{conversion_line(str(folder))}` and give that folder"
        )
    raise BadRequest(f"{folder} has no weights: neither {WEIGHTS_FILE} nor {INDEX_FILE}")


def missing_weights(folder: Path) -> tuple[str, ...]:
    """Names of the weight files a folder lacks, those of a sharded checkpoint by its index."""
    if (folder / WEIGHTS_FILE).exists():
        return ()
    if not (folder / INDEX_FILE).exists():
        return (WEIGHTS_FILE,)
    return tuple(shard for shard in sorted(set(_weight_map(folder).values())) if not (folder / shard).exists())


def has_weights(folder: Path) -> bool:
    """Whether a folder holds weights of any kind, whole or not; without, it describes an architecture alone."""
    return any(path.suffix in (".safetensors", *PICKLES) or path.name == INDEX_FILE for path in folder.iterdir())


def conversion_line(name: str) -> str:
    """The command that writes a checkpoint of pickled weights anew as safetensors, its tokenizer with it."""
    converted = converted_folder(name)
    code = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        f"M.from_pretrained({name!r}, dtype='auto').save_pretrained({converted!r}); "
        f"T.from_pretrained({name!r}).save_pretrained({converted!r})"
    )
    return f'python -c "{code}"'


def converted_folder(name: str) -> str:
    """The folder that `conversion_line` writes."""
    return f"{name.rstrip('/').rpartition('/')[2]}-safetensors"


class CheckpointTensors:
    """The arrays of a checkpoint by their Hugging Face names, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stored: dict[str, StoredTensor] = {}
        files = weight_files(folder)
        for path in files:
            if path.name != INDEX_FILE:
                self._stored.update(open_tensors(path).tensors)
        if files[0].name == INDEX_FILE:
            self._check_index(_shard_of(folder))

    def _check_index(self, shard_of: Mapping[str, str]) -> None:
        """BadRequest unless every tensor of the index is in the shard it names."""
        for name, shard in shard_of.items():
            stored = self._stored.get(name)
            if stored is None:
                where = "in none of the shards"
            elif stored.path.name != shard:
                where = f"in {stored.path.name}"
            else:
                continue
            raise BadRequest(
                f"{self.folder / INDEX_FILE} says that tensor {name!r} is in {shard}, but it is {where}: index and "
                "shards are of different checkpoints, fetch them again"
            )

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def has_prefix(self, prefix: str) -> bool:
        """Whether any name starts so."""
        return any(name.startswith(prefix) for name in self._stored)

    def same(self, name: str, other: str) -> bool:
        """Whether both arrays are stored alike, bit by bit."""
        first, second = self._stored[name], self._stored[other]
        return first.dtype == second.dtype and same_values(first.read(), second.read())

    def check_vocabulary(self, name: str, vocab: int) -> None:
        """BadRequest if the named table, where it is there at all, does not have a row for each of `vocab` tokens."""
        stored = self._stored.get(name)
        if stored is not None and stored.shape and stored.shape[0] != vocab:
            rows = stored.shape[0]
            raise BadRequest(
                f"{self.folder / CONFIG_FILE} says vocab_size {vocab}, but {name!r} has {rows} rows: fetch the "
                f"checkpoint again, or set vocab_size to {rows} if its vocabulary was padded or resized to that"
            )

    def check(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """Where the named array lies; BadRequest if it is missing or of another shape."""
        stored = self._stored.get(name)
        if stored is None:
            raise BadRequest(f"the checkpoint {self.folder} has no tensor {name!r}")
        if stored.shape != shape:
            raise BadRequest(
                f"tensor {name!r} of {self.folder} is {list(stored.shape)}, but {CONFIG_FILE} asks for {list(shape)}"
            )
        return stored

    def fp32(self, name: str, shape: tuple[int, ...]) -> FloatArray:
        """The named array in fp32; BadRequest if it is missing, of another shape, or has NaN or infinite entries."""
        array = self.check(name, shape).read_fp32()
        if not all(np.isfinite(block).all() for block in _blocks(array)):
            raise BadRequest(f"tensor {name!r} of {self.folder} has NaN or infinite entries: the checkpoint is damaged")
        return array


def same_values(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two arrays are equal, found out block by block; large ones are mostly told apart by their first."""
    if first is second:
        return True
    return first.shape == second.shape and all(
        np.array_equal(ours, theirs) for ours, theirs in zip(_blocks(first), _blocks(second), strict=True)
    )


def _blocks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Its rows, in blocks of about a megabyte: what is computed from a block of a large array takes little memory."""
    rows = max(1, _BLOCK_ELEMENTS // max(1, math.prod(array.shape[1:])))
    return (array[start : start + rows] for start in range(0, len(array), rows))


def write_files(folder: Path, config: Config, arrays: Mapping[str, NDArray[Any]], like: Path | None) -> None:
    """Write config.json, model.safetensors and, if `like` has one, its generation_config.json."""
    write_tensors(folder / WEIGHTS_FILE, arrays, {"format": "pt"})
    try:
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if like is not None and (like / GENERATION_FILE).exists():
            shutil.copyfile(like / GENERATION_FILE, folder / GENERATION_FILE)
    except OSError as error:
        raise BadRequest(f"cannot write the checkpoint {folder}: {error.strerror or error}") from error


def _shard_of(folder: Path) -> Mapping[str, str]:
    """Shard file name of each tensor, from the index of a sharded checkpoint; all of them are there."""
    shards = _weight_map(folder)
    for shard in shards.values():
        if not (folder / shard).exists():
            raise BadRequest(f"{folder} lacks the shard {shard} that its index names: fetch it again")
    return shards


def _weight_map(folder: Path) -> Mapping[str, str]:
    """Shard file name of each tensor, as the index says."""
    shards = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise BadRequest(f"{folder / INDEX_FILE} has no weight_map: fetch the checkpoint again")
    for shard in shards.values():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise BadRequest(
                f"{folder / INDEX_FILE} names the shard {shard!r}, which is no safetensors file of the folder"
            )
    return shards
