"""`autotune generate`, `bench` and `verify`: through the command line."""

import subprocess
import sys
from pathlib import Path

import pytest

from autotune import cli
from tests.support.command_line import Autotune, error_line


@pytest.mark.parametrize("command", [["generate", "--prompt", "x"], ["bench"], ["verify"]])
def test_a_folder_that_is_no_artifact(autotune: Autotune, tmp_path: Path, command: list[str]) -> None:
    name, *words = command
    assert "is not an artifact: it has no readable manifest.json" in error_line(autotune(name, tmp_path, *words))
    assert "is not an artifact" in error_line(autotune(name, tmp_path / "nowhere", *words))
    (tmp_path / "manifest.json").write_text('{"schema_version": 99}')
    assert "newer than the 2 known here: upgrade" in error_line(autotune(name, tmp_path, *words))


def test_a_benchmark_cannot_be_written_over_a_folder(autotune: Autotune, tmp_path: Path) -> None:
    assert "is a folder: name a file" in error_line(autotune("bench", tmp_path, "--out", tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate"], "give either --prompt TEXT or --prompts FILE"),
        (["generate", "--prompt", "x", "--prompts", "file"], "give either --prompt TEXT or --prompts FILE"),
        (["generate", "--prompt", "x", "--batch", "4"], "are for several prompts: give --prompts FILE"),
        (["generate", "--prompt", "x", "--lookahead", "0"], "are for several prompts: give --prompts FILE"),
        (["generate", "--prompts", "/nowhere"], "prompts file /nowhere does not exist"),
        (["generate", "--prompts", "x", "--out", "/nowhere/out"], "the folder /nowhere does not exist"),
        (["bench", "--lookahead", "2"], "--lookahead is for a batch: give --batch"),
    ],
)
def test_options_of_batches_that_do_not_fit(autotune: Autotune, tmp_path: Path, words: list[str], message: str) -> None:
    assert message in error_line(autotune(words[0], tmp_path, *words[1:]))


def test_a_report_of_a_benchmark_that_could_not_be_written(autotune: Autotune, tmp_path: Path) -> None:
    done = autotune("bench", tmp_path, "--out", tmp_path / "no" / "bench.json")
    assert "the folder" in error_line(done)
    assert "does not exist" in error_line(done)


def test_a_prompt_of_an_argument_or_of_stdin_must_be_text() -> None:
    script = "import sys; from autotune.cli import main; sys.argv[0] = 'autotune'; main()"
    root = Path(cli.__file__).parents[1]
    for prompt, given in ((b"caf\xe9", b""), (b"-", b"caf\xe9")):
        words: list[bytes | str] = [sys.executable, "-c", script, "generate", "/nowhere", "--prompt", prompt]
        done = subprocess.run(words, input=given, capture_output=True, check=False, cwd=root)
        assert done.returncode == 2
        assert done.stderr.count(b"\n") == 1
        assert b"error: the prompt is not UTF-8" in done.stderr
