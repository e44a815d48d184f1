"""The `autotune` command as a whole: help, versions, usage errors, endings."""

import errno
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer

from autotune import cli, run
from autotune.errors import Interrupted, TrainingDiverged
from autotune.run_settings import SECTIONS
from tests.support.command_line import Autotune, error_line

COMMANDS = ("run", "init", "traces", "generate", "serve", "bench", "verify", "doctor", "paper", "targets", "db")
HEAVY = {
    "torch",
    "transformers",
    "optuna",
    "onnx",
    "onnxruntime",
    "tvm",
    "altair",
    "vl_convert",
    "sqlalchemy",
    "numpy",
    "autotune.config",
}


def test_help_loads_nothing_heavy() -> None:
    """Of the command and of all its sub-commands, in a fresh process."""
    program = f"""
import json, sys
from autotune.cli import app
for words in [[], *([name] for name in {COMMANDS})]:
    try:
        app([*words, "--help"])
    except SystemExit as stop:
        assert not stop.code, words
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
    root = Path(cli.__file__).parents[1]
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    assert not set(json.loads(shown.stderr.splitlines()[-1])) & HEAVY
    assert shown.stdout.count("Usage:") == 1 + len(COMMANDS)
    for flag in ("--lookahead", "--elastic-budget", "--max-memory", "--repeats", "--json", "--stop"):
        assert flag in shown.stdout


def test_version(autotune: Autotune) -> None:
    done = autotune("--version")
    assert (done.code, done.out) == (0, f"autotune {version('draft-autotune')}\n")


def test_the_package_runs_as_a_module() -> None:
    root = Path(cli.__file__).parents[1]
    shown = subprocess.run(
        [sys.executable, "-m", "autotune", "--version"], capture_output=True, text=True, check=True, cwd=root
    )
    assert shown.stdout.startswith("autotune ")


@pytest.mark.parametrize(
    "words", [["--no-such-flag"], ["run", "--no-such-flag"], ["fly"], ["verify"], ["run", "--trials", "x"]]
)
def test_usage_errors(autotune: Autotune, words: list[str]) -> None:
    done = autotune(*words)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


def test_targets(autotune: Autotune) -> None:
    done = autotune("targets")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()[:3]] == ["name", "demo", "llama-65b"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Interrupted("stopped; --resume continues the run"), 130, "stopped; --resume continues the run"),
        (TrainingDiverged("the loss\nbecame NaN"), 2, "the loss became NaN"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/trials.jsonl"), 2, "/x/trials.jsonl: No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "/x: Permission denied"),
    ],
)
def test_expected_failures_are_one_line(
    autotune: Autotune, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, message: str
) -> None:
    monkeypatch.setattr(run, "tune", raising(error))
    assert message in error_line(autotune("run"), code)


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise error

    return fail


def test_an_interrupt_ends_with_130(autotune: Autotune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "tune", raising(KeyboardInterrupt()))
    done = autotune("run")
    assert done.code == 130
    assert "Traceback" not in done.err


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "tune", raising(OSError(errno.ENOTCONN, "what?")))
    monkeypatch.setattr(sys, "argv", ["autotune", "run"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(OSError, match="what"):
        cli.main()


def test_a_termination_signal_is_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt):
        cli._interrupt(signal.SIGTERM, None)


def every_command() -> Iterator[tuple[list[str], Any]]:
    """Every command with the words that lead to it."""
    waiting: list[tuple[list[str], Any]] = [([], typer.main.get_command(cli.app))]
    while waiting:
        words, command = waiting.pop()
        for name in command.list_commands(typer.Context(command)) if hasattr(command, "list_commands") else ():
            waiting.append(([*words, name], command.get_command(typer.Context(command), name)))
        if words and words != ["db"]:
            yield words, command


def test_every_command_has_examples_that_its_options_allow() -> None:
    for words, command in every_command():
        heading, *examples = (command.epilog or "").splitlines()
        assert heading == "[bold]Examples[/]", words
        for example in examples:
            name, *rest = shlex.split(example)
            assert name == "autotune"
            assert rest[: len(words)] == words
            command.make_context(words[-1], rest[len(words) :])


def test_commands_and_settings_are_grouped(autotune: Autotune) -> None:
    def headings(*words: str) -> list[str]:
        return re.findall(r"^╭─ (.+?) ─+╮$", autotune(*words, "--help").out, re.MULTILINE)

    commands = ["Search", "Runs", "Artifacts", "Targets and traces", "Machine and research"]
    assert headings() == ["Options", "Output", *commands]
    assert headings("run") == ["Options", *SECTIONS]


@pytest.mark.parametrize("words", [[], ["db"]])
def test_without_a_command_help_is_shown(autotune: Autotune, words: list[str]) -> None:
    done = autotune(*words)
    assert done.code == 2
    assert "Usage:" in done.out + done.err
    assert "error" not in done.err
