"""The `autotune` command in tests: run in this process, through its entry point."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from autotune import cli


class Exit(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Autotune = Callable[..., Exit]


@pytest.fixture
def autotune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Autotune]:
    """The command, run in this process."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*words: object) -> Exit:
        monkeypatch.setattr(sys, "argv", ["autotune", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        code = caught.value.code
        return Exit(code if isinstance(code, int) else 0, *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def refused(autotune: Autotune, tmp_path: Path) -> Callable[..., str]:
    """The message of `autotune run` with bad flags: one line, exit code 2, and nothing written."""

    def call(*words: object, target: object = "demo", out: Path = tmp_path / "out") -> str:
        before = sorted(tmp_path.rglob("*"))
        done = autotune("run", "--target", target, "--out", out, *words)
        assert sorted(tmp_path.rglob("*")) == before
        return error_line(done)

    return call


def error_line(done: Exit, code: int = 2) -> str:
    """The one line that a command failed with; nothing else was printed."""
    assert done.code == code, done
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line
    return line
