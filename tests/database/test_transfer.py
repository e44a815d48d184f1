"""Export and import: everything arrives, what is known stays, and a malformed file changes nothing."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.database import transfer
from autotune.database.file import DatabaseFile
from autotune.database.transfer import export_entries, import_entries
from autotune.errors import BadRequest
from tests.support.entries import all_kinds, burst_entry


@pytest.fixture
def file(tmp_path: Path) -> DatabaseFile:
    file = DatabaseFile(tmp_path / "tuning.db")
    file.add(all_kinds(), replace=True)
    return file


@pytest.fixture
def other(tmp_path: Path) -> DatabaseFile:
    return DatabaseFile(tmp_path / "elsewhere" / "tuning.db")


@pytest.mark.parametrize("name", ["known.jsonl", "known.jsonl.gz"])
def test_everything_arrives_with_its_date(file: DatabaseFile, other: DatabaseFile, tmp_path: Path, name: str) -> None:
    assert export_entries(file, tmp_path / name) == 3
    assert ((tmp_path / name).read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")
    assert import_entries(other, tmp_path / name) == (3, 3)
    assert list(other.entries()) == list(file.entries())
    assert import_entries(other, tmp_path / name) == (3, 0)


def test_known_keys_are_kept(file: DatabaseFile, other: DatabaseFile, tmp_path: Path) -> None:
    export_entries(file, tmp_path / "known.jsonl")
    own = burst_entry(step_s=0.005, created="2026-09-09T09:09:09Z")
    other.add([own], replace=True)
    assert import_entries(other, tmp_path / "known.jsonl") == (3, 2)
    assert other.find(own.subject) == own


def refused(file: DatabaseFile, source: Path, message: str) -> None:
    before = file.rows()
    with pytest.raises(BadRequest, match=message) as caught:
        import_entries(file, source)
    assert "\n" not in str(caught.value)
    assert file.rows() == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda line: line[:-40], "line 2: not valid JSON"),
        (lambda line: b"\xff\xfe", "line 2: not valid JSON"),
        (lambda line: b"", "line 2: it is empty"),
        (lambda line: b"[" * 100_000, "line 2: not valid JSON"),
        (lambda line: b"[]", "line 2: a JSON object is needed, not a list"),
        (lambda line: line.replace(b'"schema": 1', b'"schema": 9'), "line 2: schema 9 is newer than the 1 known"),
        (lambda line: line.replace(b'"overhead_s": 0.0005', b'"overhead_s": NaN'), "line 2: an overhead is not finite"),
        (lambda line: line.replace(b'"target"', b'"burst"'), "line 2: "),
    ],
)
def test_a_malformed_line_is_named_and_nothing_is_imported(
    file: DatabaseFile, other: DatabaseFile, tmp_path: Path, spoil: Callable[[bytes], bytes], message: str
) -> None:
    burst, target, acceptance = (entry.to_json().encode() for entry in all_kinds())
    source = tmp_path / "known.jsonl"
    source.write_bytes(b"\n".join([burst, spoil(target), acceptance, b""]))
    refused(file, source, message)
    refused(other, source, message)
    assert not other.path.exists()


def test_a_line_beyond_measure_is_refused_unread(
    file: DatabaseFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MOST_LINE_BYTES", 1000)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b" " * 100_000))
    refused(file, tmp_path / "bomb.gz", "line 1: longer than any entry")


def test_files_that_hold_nothing_to_import(file: DatabaseFile, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    refused(file, tmp_path / "empty", "holds no entries")
    refused(file, tmp_path / "missing", "missing does not exist")
    refused(file, tmp_path, "cannot read")
    export_entries(file, tmp_path / "whole.gz")
    for length in (1, 5, 40, -5):
        (tmp_path / "cut.gz").write_bytes((tmp_path / "whole.gz").read_bytes()[:length])
        refused(file, tmp_path / "cut.gz", r"cut\.gz")


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda content: b"\x1f\x8b" + content))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_file_is_refused(file: DatabaseFile, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "any").write_bytes(content)
    refused(file, tmp_path / "any", "any")


def test_nothing_to_export(other: DatabaseFile, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="holds nothing to export"):
        export_entries(other, tmp_path / "out.jsonl")
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written(file: DatabaseFile, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BadRequest, match="is a folder: name a file"):
        export_entries(file, tmp_path)
    for out in (tmp_path / "no" / "out.jsonl", Path("/proc/out.jsonl")):
        with pytest.raises(BadRequest, match=f"cannot write {out}: "):
            export_entries(file, out)
    assert sorted(tmp_path.iterdir()) == before


def test_an_export_replaces_the_one_before(file: DatabaseFile, tmp_path: Path) -> None:
    out = tmp_path / "known.jsonl"
    out.write_text("old")
    export_entries(file, out)
    assert [json.loads(line)["schema"] for line in out.read_text().splitlines()] == [1, 1, 1]
