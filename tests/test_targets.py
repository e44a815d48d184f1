import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from autotune.errors import BadRequest
from autotune.targets import (
    Blueprint,
    Target,
    check_same_tokenizer,
    default_source,
    demo_folder,
    find_model,
    find_tokenizer,
    list_targets,
    resolve_target,
)
from tests.support.checkpoints import edit_json, save_llama, save_tokenizer


@pytest.fixture
def copied(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copied"))


def test_the_demo_is_known_by_name() -> None:
    demo = resolve_target("demo")
    assert (demo.id, demo.checkpoint, demo.family) == ("demo", demo_folder(), "llama")
    config = json.loads((demo_folder() / "config.json").read_text())
    assert (demo.shape.layers, demo.shape.hidden) == (config["num_hidden_layers"], config["hidden_size"])
    assert (demo.numerics.context_tokens, demo.eos_ids, demo.bos_id) == (config["max_position_embeddings"], (0,), 0)
    assert demo in list_targets()
    weights = demo.read_weights()
    assert weights.shape == demo.shape
    assert demo.shape.parameters == sum(array.size for array in weights.arrays.values())


def test_a_folder_is_a_target(tiny_checkpoint: Path) -> None:
    target = resolve_target(str(tiny_checkpoint))
    assert target.checkpoint == tiny_checkpoint.resolve()
    assert resolve_target(target.id) == target
    assert target.tokenizer_fingerprint == target.open_tokenizer().fingerprint


def test_the_fingerprint_is_of_the_contents(tiny_checkpoint: Path, copied: Path) -> None:
    original = resolve_target(str(tiny_checkpoint)).fingerprint
    assert resolve_target(str(copied)).fingerprint == original
    seen = {original}

    weights = copied / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    seen.add(resolve_target(str(copied)).fingerprint)
    edit_json(copied / "config.json", rms_norm_eps=1e-4)
    seen.add(resolve_target(str(copied)).fingerprint)
    edit_json(copied / "generation_config.json", eos_token_id=[0, 3])
    seen.add(resolve_target(str(copied)).fingerprint)
    save_tokenizer(copied, ("other words entirely, other merges",))
    seen.add(resolve_target(str(copied)).fingerprint)
    assert len(seen) == 5


def test_every_shard_counts(tiny_checkpoint: Path, tmp_path: Path) -> None:
    fingerprints = set()
    for name in ("one", "two"):
        save_llama(tmp_path / name, shard_size="20KB")
        save_tokenizer(tmp_path / name)
        if name == "two":
            shard = sorted((tmp_path / name).glob("model-*.safetensors"))[-1]
            content = bytearray(shard.read_bytes())
            content[-1] ^= 1
            shard.write_bytes(content)
        fingerprints.add(resolve_target(str(tmp_path / name)).fingerprint)
    assert len(fingerprints) == 2


def test_unknown_names_are_told_what_is_known() -> None:
    with pytest.raises(BadRequest, match=r"unknown target 'demmo': did you mean demo\? Or give a folder"):
        resolve_target("demmo")
    with pytest.raises(BadRequest, match=r"unknown target 'llama-56b': did you mean llama-65b or"):
        find_model("llama-56b")
    with pytest.raises(BadRequest, match=r"unknown target './none': there is no such folder"):
        find_model("./none")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("autotune.hub.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def snapshot(hub_cache: Path, repository: str) -> Path:
    """The folder of a repository's snapshot in the hub's cache."""
    stored = hub_cache / f"models--{repository.replace('/', '--')}"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs/main").write_text("0" * 40)
    return stored / "snapshots" / ("0" * 40)


def test_a_preset_without_weights_is_a_blueprint(hub_cache: Path) -> None:
    model = find_model("llama-65b")
    assert (type(model), model.id, model.family, model.shape.layers) == (Blueprint, "llama-65b", "llama", 80)
    assert default_source(model) == "llama-7b"
    by_repository = find_model("huggyllama/llama-65b")
    assert (by_repository.id, by_repository.shape) == ("huggyllama/llama-65b", model.shape)
    assert default_source(find_model("llama-7b")) is None
    with pytest.raises(
        BadRequest, match=r"weights of llama-65b are not here \(looked for huggyllama/llama-65b in .*hub"
    ):
        resolve_target("llama-65b")


def test_a_preset_whose_weights_are_in_the_cache_is_a_target(hub_cache: Path, tiny_checkpoint: Path) -> None:
    folder = snapshot(hub_cache, "huggyllama/llama-65b")
    shutil.copytree(tiny_checkpoint, folder)
    model = resolve_target("llama-65b")
    assert (model.id, model.checkpoint) == ("llama-65b", folder)
    assert resolve_target(model.id) == model
    (folder / "model.safetensors").unlink()
    assert type(find_model("llama-65b")) is Blueprint
    assert find_tokenizer("llama-65b") == folder


def test_a_repository_that_is_half_here_is_a_blueprint(hub_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"our/tiny is neither a folder nor in the hub's cache"):
        find_model("our/tiny")
    folder = snapshot(hub_cache, "our/tiny")
    save_llama(folder, shard_size="20KB")
    save_tokenizer(folder)
    assert isinstance(find_model("our/tiny"), Target)
    next(folder.glob("model-00002*")).unlink()
    assert type(find_model("our/tiny")) is Blueprint


def test_a_folder_with_a_config_alone_is_a_blueprint(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    model = find_model(str(copied))
    assert (type(model), model.id) == (Blueprint, str(copied))
    with pytest.raises(BadRequest, match=r"copied has no weights"):
        resolve_target(str(copied))


def test_the_tokenizer_of_a_model_that_is_elsewhere(hub_cache: Path, tiny_checkpoint: Path) -> None:
    assert find_tokenizer(str(tiny_checkpoint)) == tiny_checkpoint.resolve()
    assert find_tokenizer("demo") == demo_folder()
    with pytest.raises(BadRequest, match=r"tokenizer of llama-65b is not here .*--download"):
        find_tokenizer("llama-65b")


def test_a_target_needs_its_tokenizer(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    with pytest.raises(BadRequest, match=r"has no tokenizer.json"):
        resolve_target(str(copied))


def test_a_tokenizer_larger_than_the_model_is_refused(copied: Path) -> None:
    demo = demo_folder()
    shutil.copy(demo / "tokenizer.json", copied / "tokenizer.json")
    with pytest.raises(BadRequest, match=r"tokenizer has id [0-9]{4}, but the model only 320 embedding rows"):
        resolve_target(str(copied))


def test_equal_tokenizers_pass_whatever_their_folder(tiny_checkpoint: Path, copied: Path) -> None:
    check_same_tokenizer(resolve_target(str(tiny_checkpoint)), resolve_target(str(copied)))


def test_a_tokenizer_written_differently_but_equal_passes(tiny_checkpoint: Path, copied: Path) -> None:
    path = copied / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4))
    target, source = resolve_target(str(tiny_checkpoint)), resolve_target(str(copied))
    assert target.tokenizer_fingerprint != source.tokenizer_fingerprint
    check_same_tokenizer(target, source)


def test_different_tokenizers_are_refused_with_the_difference(tiny_checkpoint: Path, copied: Path) -> None:
    target = resolve_target(str(tiny_checkpoint))

    def difference() -> str:
        with pytest.raises(BadRequest, match="have different tokenizers") as caught:
            check_same_tokenizer(target, resolve_target(str(copied)))
        return str(caught.value)

    original = json.loads((copied / "tokenizer.json").read_text())

    changed = json.loads(json.dumps(original))
    vocabulary = changed["model"]["vocab"]
    vocabulary["!"], vocabulary['"'] = vocabulary['"'], vocabulary["!"]
    (copied / "tokenizer.json").write_text(json.dumps(changed))
    assert "2 tokens have other ids, the first is '!' (1 and 2)" in difference()

    changed = json.loads(json.dumps(original))
    changed["model"]["vocab"]["zzz"] = max(original["model"]["vocab"].values()) + 1
    (copied / "tokenizer.json").write_text(json.dumps(changed))
    assert "their vocabularies have" in difference()

    changed = json.loads(json.dumps(original))
    changed["added_tokens"][0]["special"] = False
    (copied / "tokenizer.json").write_text(json.dumps(changed))
    assert "<|end|> is special in one of them only" in difference()

    (copied / "tokenizer.json").write_text(json.dumps(original))
    edit_json(copied / "generation_config.json", eos_token_id=[0, 7])
    assert "their EOS ids are [0] and [0, 7]" in difference()


def test_models_of_different_width_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    save_llama(tmp_path, vocab_size=384)
    save_tokenizer(tmp_path)
    with pytest.raises(BadRequest, match="their embeddings have 320 and 384 rows"):
        check_same_tokenizer(resolve_target(str(tiny_checkpoint)), resolve_target(str(tmp_path)))


def test_targets_are_values(tiny_checkpoint: Path) -> None:
    target = resolve_target(str(tiny_checkpoint))
    assert hash(target) == hash(dataclasses.replace(target))
