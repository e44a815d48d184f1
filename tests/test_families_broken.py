"""Broken checkpoints: each refused in one line that says what to do, before anything is built on it."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from autotune.errors import BadRequest
from autotune.families.checkpoint import INDEX_FILE, conversion_line
from autotune.targets import resolve_target
from tests.support.checkpoints import edit_json, save_llama, save_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    save_llama(folder, shard_size="20KB")
    save_tokenizer(folder)
    return folder


@pytest.fixture
def sharded(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def shards_of(folder: Path) -> dict[str, str]:
    shards: dict[str, str] = json.loads((folder / INDEX_FILE).read_text())["weight_map"]
    return shards


def refused(folder: Path) -> str:
    with pytest.raises(BadRequest) as caught:
        resolve_target(str(folder))
    return str(caught.value)


def test_the_whole_one_is_read(sharded: Path) -> None:
    assert len(set(shards_of(sharded).values())) > 2
    assert resolve_target(str(sharded)).shape.layers == 2


def test_a_missing_shard(sharded: Path) -> None:
    shard = sorted(set(shards_of(sharded).values()))[1]
    (sharded / shard).unlink()
    assert f"lacks the shard {shard} that its index names: fetch it again" in refused(sharded)


def test_a_shard_of_another_checkpoint(sharded: Path) -> None:
    first, second = sorted(set(shards_of(sharded).values()))[:2]
    shutil.copy(sharded / first, sharded / second)
    assert "index and shards are of different checkpoints, fetch them again" in refused(sharded)


def test_a_tensor_that_no_shard_has(sharded: Path) -> None:
    shards = shards_of(sharded)
    edit_json(sharded / INDEX_FILE, weight_map=shards | {"extra.weight": next(iter(shards.values()))})
    assert "tensor 'extra.weight' is in" in (message := refused(sharded))
    assert "in none of the shards" in message


def test_a_tensor_in_another_shard_than_the_index_says(sharded: Path) -> None:
    shards = shards_of(sharded)
    name, shard = next(item for item in shards.items() if list(shards.values()).count(item[1]) > 1)
    other = next(value for value in shards.values() if value != shard)
    edit_json(sharded / INDEX_FILE, weight_map=shards | {name: other})
    assert f"says that tensor {name!r} is in {other}, but it is in {shard}" in refused(sharded)


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/passwd", "..", 7, "pytorch_model.bin"])
def test_an_index_that_leaves_the_folder(sharded: Path, shard: object) -> None:
    shards: dict[str, object] = dict(shards_of(sharded))
    edit_json(sharded / INDEX_FILE, weight_map=shards | {next(iter(shards)): shard})
    assert f"names the shard {shard!r}, which is no safetensors file of the folder" in refused(sharded)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}'])
def test_an_index_that_is_none(sharded: Path, content: str) -> None:
    (sharded / INDEX_FILE).write_text(content)
    assert INDEX_FILE in refused(sharded)


def test_a_shard_cut_short(sharded: Path) -> None:
    shard = sharded / sorted(set(shards_of(sharded).values()))[-1]
    shard.write_bytes(shard.read_bytes()[:-1])
    assert f"{shard} is corrupt or cut short" in refused(sharded)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles_are_refused(tiny_checkpoint: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "pickled"))
    (folder / "model.safetensors").rename(folder / name)
    message = refused(folder)
    assert "has only pickled PyTorch weights" in message
    assert f"convert it with `{conversion_line(str(folder))}` and give that folder" in message


def test_the_conversion_line_converts(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "pickled"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    monkeypatch.chdir(tmp_path)
    program = conversion_line(str(folder)).removeprefix('python -c "').removesuffix('"')
    exec(compile(program, "conversion", "exec"), {})
    converted, original = resolve_target("pickled-safetensors"), resolve_target(str(tiny_checkpoint))
    assert converted.shape == original.shape
    ours, theirs = converted.read_weights().arrays, original.read_weights().arrays
    assert all((ours[name] == theirs[name]).all() for name in theirs)
