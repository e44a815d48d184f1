"""`autotune init`: through the command line, in this process."""

import json
from pathlib import Path

import pytest

from autotune.config_file import schema, template
from tests.support.command_line import Autotune, error_line


def test_it_writes_a_file_that_run_reads(autotune: Autotune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = autotune("init")
    assert (done.code, done.err) == (0, "")
    assert done.out == "tune.toml: every setting, commented out; `autotune run --config tune.toml` reads it\n"
    assert (tmp_path / "tune.toml").read_text() == template()
    (tmp_path / "tune.toml").write_text(template().replace('#lookahead = "0:8"', 'lookahead = "8:0"'))
    assert "--lookahead 8:0: the range is empty" in error_line(autotune("run", "--config", "tune.toml"))


def test_it_replaces_only_if_asked(autotune: Autotune, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("trials = 3\n")
    assert "exists: choose another name, or add --force" in error_line(autotune("init", tmp_path / "mine.toml"))
    assert (tmp_path / "mine.toml").read_text() == "trials = 3\n"
    assert autotune("init", tmp_path / "mine.toml", "--force").code == 0
    assert (tmp_path / "mine.toml").read_text() == template()


def test_it_prints_the_schema(autotune: Autotune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = autotune("init", "--schema")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == schema()
    assert not list(tmp_path.iterdir())
