"""`autotune targets`: through the command line, in this process."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune import cli

Targets = Callable[..., tuple[int, str, str]]


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Targets:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("autotune.hub.HF_HUB_CACHE", str(tmp_path / "hub"))

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["autotune", "targets", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        code = caught.value.code
        return (code if isinstance(code, int) else 0, *capsys.readouterr())

    return call


def test_the_list(targets: Targets) -> None:
    code, out, _ = targets()
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert "65.3 B" in lines["llama-65b"]
    assert "huggyllama/llama-65b" in lines["llama-65b"]
    assert " no " in lines["llama-65b"]
    assert " yes " in lines["demo"]
    assert "5L-32H-11008F-4096D" in lines["noft-wide-796m"]


def test_the_list_as_json(targets: Targets) -> None:
    code, out, _ = targets("--json")
    document = json.loads(out)
    models = {model["id"]: model for model in document["models"]}
    assert code == 0
    assert models["opt-66b"]["shape"]["layers"] == 64
    assert (models["opt-66b"]["source"], models["opt-66b"]["here"], models["demo"]["here"]) == ("opt-6.7b", False, True)
    assert document["drafts"][0]["id"] == "noft-1.3b"


def test_showing_a_preset(targets: Targets, tmp_path: Path) -> None:
    code, out, _ = targets("show", "llama-65b")
    assert code == 0
    assert "65,285,660,672" in out
    assert "fp32 243.2 GiB, bf16 121.6 GiB" in out
    assert "5,120 KiB a token in fp32" in out
    assert f"{tmp_path / 'hub'} for huggyllama/llama-65b" in out
    assert "autotune run --target llama-65b --source llama-7b --download" in out


def test_showing_as_json(targets: Targets) -> None:
    shown = json.loads(targets("show", "llama-3.1-8b", "--json")[1])
    assert (shown["gated"], shown["source"], shown["here"]) == (True, "llama-3.2-1b", None)
    assert shown["numerics"]["rope_scaling"]["factor"] == 8.0
    assert shown["kv_bytes_per_token"] == {"fp32": 2 * 32 * 8 * 128 * 4, "bf16": 2 * 32 * 8 * 128 * 2}
    assert shown["weight_bytes"]["bf16"] == 2 * shown["parameters"]


def test_showing_a_folder(targets: Targets, tiny_checkpoint: Path) -> None:
    shown = json.loads(targets("show", str(tiny_checkpoint), "--json")[1])
    assert shown["here"] == shown["id"] == str(tiny_checkpoint.resolve())
    assert shown["repository"] is None
    assert list(shown["commands"]) == ["run"]


def test_showing_a_named_draft(targets: Targets) -> None:
    code, out, _ = targets("show", "noft-wide-796m")
    assert code == 0
    assert "5L-32H-11008F-4096D" in out
    assert "autotune run --target llama-65b --source llama-7b" in out
    shown = json.loads(targets("show", "noft-wide-796m", "--json")[1])
    assert shown["source"] == "llama-7b"
    assert shown["kv_bytes_per_token"]["bf16"] == 2 * 5 * 4096 * 2


def test_pickled_weights_are_converted_not_fetched(targets: Targets) -> None:
    commands = json.loads(targets("show", "opt-66b", "--json")[1])["commands"]
    assert list(commands) == ["convert target", "convert source", "then run", "plan without weights"]
    assert "'facebook/opt-66b'" in commands["convert target"]
    assert commands["then run"] == "autotune run --target opt-66b-safetensors --source opt-6.7b-safetensors"
    assert commands["plan without weights"] == "autotune run --target opt-66b --source opt-6.7b"
    assert "pickled weights only" in targets("show", "opt-66b")[1]


def test_a_pickled_source_is_converted_and_the_target_fetched(targets: Targets) -> None:
    commands = json.loads(targets("show", "llama-2-7b", "--json")[1])["commands"]
    assert list(commands) == ["convert source", "then run", "plan without weights"]
    run = "autotune run --target llama-2-7b --source Sheared-LLaMA-1.3B-safetensors --download"
    assert commands["then run"] == run


def test_an_unknown_name(targets: Targets) -> None:
    code, out, err = targets("show", "lama-65b")
    assert (code, out) == (2, "")
    assert err.startswith("error: unknown target 'lama-65b': did you mean llama-65b")
    assert len(err.splitlines()) == 1


def test_a_draft_is_no_target(targets: Targets) -> None:
    assert "that is a draft's shape, see `autotune targets show noft-1.3b`" in targets("show", "NoFT-1.3B")[2]
