import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from autotune.demo.train import main

SMALL = ["--layers=1", "--heads=1", "--head-dim=8", "--hidden=16", "--ffn=16", "--vocab=280"]
SMALL += ["--context=32", "--batch-tokens=64"]


@pytest.fixture
def run() -> object:
    app = typer.Typer()
    app.command()(main)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_trains_and_prints_the_folder(run, library: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result: Result = run("--out", tmp_path / "demo", "--library", library, "--tokens", 640, *SMALL)

    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'demo'}\n"
    assert "steps 0 … 10 of 64 tokens each" in result.stderr
    assert json.loads((tmp_path / "demo" / "config.json").read_text())["hidden_size"] == 16


def test_bad_request_is_one_line_and_exit_code_2(run, library: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result: Result = run("--out", tmp_path / "demo", "--library", library, "--tokens", 5, *SMALL)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert "too small for one step" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "demo").exists()
