import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from autotune.errors import BadRequest
from autotune.targets import check_same_tokenizer, demo_folder, list_targets, resolve_target
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
    with pytest.raises(BadRequest, match="unknown target 'demmo': give 'demo' or a folder"):
        resolve_target("demmo")


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
