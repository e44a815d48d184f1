"""`-v` and `-q`, before the command and behind it, and what is plain where there is no terminal."""

import logging
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune import doctor
from tests.support.command_line import Autotune, error_line

ROOT = Path(__file__).parents[1]
PACKAGE = logging.getLogger("autotune")
STYLED = re.compile(rb"\x1b\[[0-9;]*m")


@pytest.fixture(autouse=True)
def _talkative(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A doctor that logs at every level."""
    examine = doctor.examine

    def talk() -> doctor.Diagnosis:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            PACKAGE.getChild("doctor").log(level, "[%d]", level)
        return examine()

    monkeypatch.setattr(doctor, "examine", talk)
    yield
    assert PACKAGE.level == logging.NOTSET
    assert not PACKAGE.handlers


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["doctor"], ["warning: [30]", "error: [40]"]),
        (["doctor", "--quiet"], ["error: [40]"]),
        (["-q", "doctor"], ["error: [40]"]),
        (["doctor", "-v"], ["debug: doctor: [10]", "info: doctor: [20]", "warning: [30]", "error: [40]"]),
        (["--verbose", "doctor"], ["debug: doctor: [10]", "info: doctor: [20]", "warning: [30]", "error: [40]"]),
        (["-v", "doctor", "-q"], ["error: [40]"]),
    ],
)
def test_the_log_is_on_stderr(autotune: Autotune, words: list[str], lines: list[str]) -> None:
    done = autotune(*words)
    assert done.code == 0
    assert done.err.splitlines() == lines
    assert "Backends" in done.out


def test_both_at_once_are_refused(autotune: Autotune) -> None:
    assert "--verbose and --quiet exclude each other" in error_line(autotune("doctor", "-v", "-q"))


def test_every_command_takes_them(autotune: Autotune) -> None:
    for words in (["targets"], ["targets", "show", "demo"], ["db", "list"]):
        done = autotune(*words, "-q")
        assert (done.code, done.err) == (0, "")
        assert done.out


def test_quiet_progress(autotune: Autotune, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("def one():\ndef two():\ndef three():\n")
    words = ["traces", "--prompts", tmp_path / "p.txt", "--max-new-tokens", 2, "--out", tmp_path / "t.safetensors"]
    assert autotune(*words).err == "Recording traces …\n"
    done = autotune(*words, "-q")
    assert (done.code, done.err) == (0, "")
    assert "3 traces" in done.out


SHOW = """
import sys, time
from autotune.terminal import TerminalObserver
with TerminalObserver() as observer:
    observer.phase("Compiling")
    observer.progress(0.5)
    time.sleep(0.3)
    observer.phase("Searching")
    observer.note("a note")
"""


def on_terminal(program: str, **environment: str) -> bytes:
    """What a program writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    settings = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    settings |= {"TERM": "xterm-256color", "COLUMNS": "100", **environment}
    done = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=settings, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    try:
        while piece := os.read(ours, 4096):
            written += piece
    except OSError:  # Linux says so when the other end is closed
        pass
    finally:
        os.close(ours)
    assert done.wait(60) == 0
    return written


def test_a_terminal_has_colours_and_a_spinner() -> None:
    written = on_terminal(SHOW)
    assert STYLED.search(written)
    assert "✓".encode() in written


def test_no_color_is_heeded() -> None:
    written = on_terminal(SHOW, NO_COLOR="1")
    assert not STYLED.search(written)
    assert "✓ Compiling".encode() in written


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["db", "list"]])
def test_no_color_is_heeded_by_commands(words: list[str]) -> None:
    program = f"import sys; sys.argv = ['autotune', *{words}]\nfrom autotune.cli import main\nmain()\n"
    assert not STYLED.search(on_terminal(program, NO_COLOR="1"))
    if "--help" in words:
        assert STYLED.search(on_terminal(program))


def test_a_dumb_terminal_gets_plain_lines() -> None:
    assert on_terminal(SHOW, TERM="dumb").replace(b"\r\n", b"\n").decode() == "Compiling …\nSearching …\n  a note\n"


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}, {"NO_COLOR": "1"}])
def test_a_pipe_gets_plain_lines(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHOW], cwd=ROOT, env=os.environ | environment, capture_output=True, check=True
    )
    assert done.stdout == b""
    assert STYLED.sub(b"", done.stderr).decode() == "Compiling …\nSearching …\n  a note\n"


def test_help_in_a_pipe_is_plain() -> None:
    words = [sys.executable, "-m", "autotune", "run", "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    assert b"\x1b" not in done.stdout


def test_errors_on_a_terminal_are_one_line_too() -> None:
    written = on_terminal(
        "import sys; sys.argv = ['autotune', 'fly']\nfrom autotune.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code == 2\n"
    )
    assert written.replace(b"\r\n", b"\n") == b"error: No such command 'fly'. (see `autotune --help`)\n"
