"""`autotune db`: every command through the command line, in this process, on a cache of its own."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from autotune import cli
from autotune.candidate import Precision
from autotune.database.file import DatabaseFile
from tests.support.entries import acceptance_entry, all_kinds, burst_entry

OTHER = burst_entry(7, device="cpu:Another [bold]processor[/]:64 cores", precision=Precision.INT4)


class Exit(NamedTuple):
    code: int
    out: str
    err: str


Db = Callable[..., Exit]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "cache"


@pytest.fixture
def db(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Db]:
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def call(*words: object) -> Exit:
        monkeypatch.setattr(sys, "argv", ["autotune", "db", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        code = caught.value.code
        return Exit(code if isinstance(code, int) else 0, *capsys.readouterr())

    return call


@pytest.fixture
def filled(cache: Path) -> DatabaseFile:
    file = DatabaseFile()
    file.add([*all_kinds(), OTHER], replace=True)
    return file


def error_line(done: Exit) -> str:
    assert done.code == 2, done
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    return line


def test_list_says_what_fits(db: Db, filled: DatabaseFile) -> None:
    done = db("list")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert len(lines) == 1 + 4 + 1
    (other,) = [line for line in lines if "7L-4H-48F-32D" in line]
    assert "no: device cpu:Another [bold]processor[/]:64 cores" in other
    assert sum(line.rstrip().endswith("yes") for line in lines) == 3
    assert lines[-1].startswith(f"{filled.path}: 4 entries, 3 of them usable here, ")


def test_list_as_json_and_filtered(db: Db, filled: DatabaseFile) -> None:
    listed = json.loads(db("list", "--json", "--kind", "burst", "--backend", "onnxruntime", "--shape", "7L").out)
    assert [(entry["key"], entry["fits"]) for entry in listed] == [(OTHER.key, False)]
    assert listed[0]["device_differs"] == "cpu:Another [bold]processor[/]:64 cores"
    assert len(json.loads(db("list", "--json").out)) == 4


def test_an_empty_database_is_no_error(db: Db, cache: Path) -> None:
    done = db("list")
    assert done.out == f"{cache / 'tuning.db'}: 0 entries, 0 of them usable here, 0 B\n"
    assert json.loads(db("list", "--json").out) == []
    assert not cache.exists()


@pytest.mark.parametrize("name", ["known.jsonl", "known.gz"])
def test_export_and_import(db: Db, filled: DatabaseFile, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    assert db("export", out).out == f"{out}: 4 entries\n"
    filled.remove([OTHER.key])
    assert db("import", out).out == f"{out}: 1 of 4 entries added, 3 were known already\n"
    assert filled.find(OTHER.subject) == OTHER


def test_what_cannot_be_imported_is_one_line(db: Db, filled: DatabaseFile, tmp_path: Path) -> None:
    source = tmp_path / "known.jsonl"
    source.write_text(f"{burst_entry(9).to_json()}\n{{}}\n")
    assert f"{source}, line 2: created, schema, subject, value is missing" in error_line(db("import", source))
    assert "does not exist" in error_line(db("import", tmp_path / "missing"))
    assert "is a folder" in error_line(db("export", tmp_path))
    assert len(filled.rows()) == 4


def test_prune(db: Db, filled: DatabaseFile) -> None:
    dry = db("prune", "--other-devices", "--dry-run").out
    assert dry.startswith("would remove 1 entries (")
    assert dry.endswith(" B); 3 are kept\n")
    assert len(filled.rows()) == 4
    assert db("prune", "--other-devices").out == dry.replace("would remove", "removed")
    assert {row.key for row in filled.rows()} == {entry.key for entry in all_kinds()}
    assert db("prune", "--other-versions", "--older-than", "36500d").out.startswith("removed 0 entries")
    filled.add([acceptance_entry(0.25, "2999-01-01T00:00:00Z")], replace=True)
    assert db("prune", "--older-than", "1d").out.startswith("removed 2 entries")
    assert db("prune", "--all").out.startswith("removed 1 entries")
    assert filled.rows() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say what to prune: --older-than, --other-versions, --other-devices or --all"),
        (["--older-than", "long"], "Invalid value for '--older-than': 'long' is not a duration; write 30s"),
        (["--older-than", "-3"], "'-3' is not a duration: it must be finite and not negative"),
        (["--older-than", "nan"], "'nan' is not a duration: it must be finite and not negative"),
        (["--older-than", "9999999d"], "that is before the calendar begins"),
    ],
)
def test_prune_needs_a_reason(db: Db, filled: DatabaseFile, words: list[str], message: str) -> None:
    assert message in error_line(db("prune", *words))
    assert len(filled.rows()) == 4


def test_a_database_that_cannot_be_used_is_one_line(db: Db, cache: Path, tmp_path: Path) -> None:
    (cache / "tuning.db").mkdir(parents=True)
    for words in (["list"], ["export", tmp_path / "out"], ["prune", "--all"]):
        assert "cannot use the tuning database" in error_line(db(*words))


def test_the_commands_are_listed(db: Db) -> None:
    done = db("--help")
    assert all(name in done.out for name in ("list", "export", "import", "prune"))
