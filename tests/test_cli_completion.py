"""Shell completion: names are those of the registries, and completing one loads nothing heavy."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from autotune import cli_completion
from autotune.candidate import Precision
from autotune.cli_completion import choices_of, complete_model, complete_setting, complete_shown
from autotune.compile.base import BACKENDS
from autotune.database.subjects import Subject
from autotune.devices import DEVICES
from autotune.objective import ObjectiveKind
from autotune.presets import presets
from autotune.proxy.base import ESTIMATORS
from autotune.proxy.loss_choice import Loss
from autotune.run_settings import SETTINGS
from autotune.samplers import SamplerName
from autotune.trace_recording import RUNNERS

ROOT = Path(__file__).parents[1]


def complete(words: str, shell: str = "bash") -> list[str]:
    """What the shell is offered behind these words, by a fresh process, as its script asks for it."""
    parts = words.split(" ")
    environment = {
        **os.environ,
        "_AUTOTUNE_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(parts) - 1),
        "_TYPER_COMPLETE_ARGS": words,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    program = """
import sys
from autotune.cli import main
try:
    main()
finally:
    heavy = {"numpy", "torch", "optuna", "onnxruntime", "tvm", "autotune.config"} & set(sys.modules)
    assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_names_are_those_there_are() -> None:
    assert set(choices_of("sampler")) == set(get_args(SamplerName))
    assert set(choices_of("objective")) == set(ObjectiveKind)
    assert set(choices_of("loss")) == {"auto", *Loss}
    assert set(choices_of("proxy")) == set(ESTIMATORS)
    assert set(choices_of("backend")) == set(choices_of("target_backend")) == set(BACKENDS)
    assert set(choices_of("precision")) == set(choices_of("target_precision")) == set(Precision)
    assert set(choices_of("device")) == set(DEVICES)
    assert set(choices_of("train_device")) == {"auto", *DEVICES}
    assert cli_completion.RUNNERS == RUNNERS
    assert set(cli_completion.KINDS) == {subject.__dataclass_fields__["kind"].default for subject in get_args(Subject)}
    assert choices_of("trials") == ()


def test_models_are_those_of_the_presets() -> None:
    assert complete_model("") == ["demo", *presets().models]
    assert complete_shown("") == ["demo", *presets().models, *presets().drafts]
    assert complete_model("llama-6") == ["llama-65b"]


def test_what_is_no_name_is_left_to_the_shell() -> None:
    assert [key for key in SETTINGS if complete_setting(key)] == [
        "target",
        "source",
        "device",
        "precision",
        "backend",
        "sampler",
        "objective",
        "target_precision",
        "target_backend",
        "proxy",
        "loss",
        "train_device",
    ]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("autotune ve", ["verify"]),
        ("autotune run --sam", ["--sampler"]),
        ("autotune run --sampler t", ["tpe"]),
        ("autotune run --precision fp32,int", ["fp32,int8", "fp32,int4"]),
        ("autotune run --precision int8,int", ["int8,int4"]),
        ("autotune targets show llama-65", ["llama-65b"]),
        ("autotune traces --with tr", ["transformers"]),
        ("autotune db list --kind b", ["burst"]),
    ],
)
def test_bash_is_offered(words: str, offered: list[str]) -> None:
    assert complete(words) == offered


def test_fish_and_zsh_are_offered_the_same() -> None:
    assert complete("autotune run --proxy e", "fish") == ["elastic"]
    assert complete("autotune run --proxy e", "zsh") == ["_arguments '*: :((\"elastic\"))'"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_shown(shell: str) -> None:
    environment = {**os.environ, "_AUTOTUNE_COMPLETE": f"source_{shell}"}
    done = subprocess.run(
        [sys.executable, "-c", "from autotune.cli import main; main()"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "_AUTOTUNE_COMPLETE=complete_" in done.stdout
