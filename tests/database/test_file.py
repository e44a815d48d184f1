"""The database file: several processes at once, damage, other versions, and disks that refuse."""

import logging
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from autotune.database.entries import Entry
from autotune.database.file import FILE_SCHEMA, DatabaseFile
from autotune.errors import BadRequest
from tests.database.test_entries import acceptance_entries, burst_entries
from tests.support.entries import acceptance_entry, all_kinds, burst_entry

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> DatabaseFile:
    return DatabaseFile(tmp_path / "cache" / "tuning.db")


def test_what_is_stored_is_found(file: DatabaseFile) -> None:
    assert file.add(all_kinds(), replace=True) == 3
    for entry in all_kinds():
        assert DatabaseFile(file.path).find(entry.subject) == entry
    assert file.find(burst_entry(layers=7).subject) is None
    assert sorted(entry.key for entry in file.entries()) == sorted(entry.key for entry in all_kinds())


@given(burst_entries() | acceptance_entries())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_any_entry_is_found_again(file: DatabaseFile, entry: Entry) -> None:
    file.add([entry], replace=True)
    assert file.find(entry.subject) == entry


def test_reading_makes_no_file(file: DatabaseFile) -> None:
    assert file.find(burst_entry().subject) is None
    assert file.rows() == list(file.entries()) == []
    file.remove([])
    assert not file.path.parent.exists()


def test_the_default_is_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path))
    assert DatabaseFile().path == tmp_path / "tuning.db"


def test_known_keys_are_replaced_or_kept(file: DatabaseFile) -> None:
    old, new = burst_entry(), burst_entry(step_s=0.002, created="2026-05-06T07:08:09Z")
    assert file.add([old], replace=True) == 1
    assert file.add([new, burst_entry(layers=5)], replace=False) == 1
    assert file.find(old.subject) == old
    assert file.add([new], replace=True) == 1
    assert file.find(old.subject) == new
    assert len(file.rows()) == 2


def test_rows_say_in_plain_words_what_is_there(file: DatabaseFile) -> None:
    file.add([burst_entry(), acceptance_entry(created="2026-01-01T00:00:00Z")], replace=True)
    accepted, burst = file.rows()
    entry = burst_entry()
    assert (burst.kind, burst.shape, burst.backend, burst.precision) == (
        "burst",
        "2L-4H-48F-32D",
        "onnxruntime",
        "fp32",
    )
    assert (burst.key, burst.created) == (entry.key, entry.created)
    assert burst.device == entry.subject.device  # type: ignore[union-attr]
    assert burst.versions == entry.subject.versions
    assert burst.bytes > 100
    assert (accepted.kind, accepted.precision, accepted.backend, accepted.device) == ("acceptance", "int8", None, None)


def test_removing_gives_the_space_back(file: DatabaseFile) -> None:
    big = [burst_entry(layers=layers) for layers in range(1, 60)]
    file.add(big, replace=True)
    before = file.path.stat().st_size
    file.remove([entry.key for entry in big[1:]])
    assert [row.key for row in file.rows()] == [big[0].key]
    assert file.path.stat().st_size < before / 2


def test_an_addition_is_whole_or_not_at_all(file: DatabaseFile) -> None:
    file.add([burst_entry()], replace=True)
    broken = replace(burst_entry(layers=4), created=None)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        file.add([burst_entry(layers=3), broken], replace=True)
    assert len(file.rows()) == 1


WRITER = """
import sys
from pathlib import Path
from autotune.database.file import DatabaseFile
from tests.support.entries import burst_entry
file, first = DatabaseFile(Path(sys.argv[1])), int(sys.argv[2])
for layers in range(first, first + 20):
    entry = burst_entry(layers)
    file.add([entry], replace=True)
    assert file.find(entry.subject) == entry
    assert file.find(burst_entry(1).subject) in (None, burst_entry(1))
"""


def start(script: str, *words: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def test_two_processes_make_and_fill_it_together(file: DatabaseFile) -> None:
    writers = [start(WRITER, file.path, first) for first in (1, 11)]
    for writer in writers:
        _, stderr = writer.communicate(timeout=120)
        assert writer.returncode == 0, stderr
        assert stderr == ""
    assert {row.shape for row in file.rows()} == {str(burst_entry(layers).subject.shape) for layers in range(1, 31)}
    with closing(sqlite3.connect(file.path)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_killed_writer_leaves_it_whole(file: DatabaseFile) -> None:
    endless = WRITER.replace("range(first, first + 20)", "[n % 60 + 1 for n in range(10**6)]")
    with start(endless, file.path, 0) as writer:
        while len(file.rows()) < 5:
            assert writer.poll() is None, writer.stderr
        writer.send_signal(signal.SIGKILL)
    assert file.find(burst_entry(1).subject) == burst_entry(1)
    assert file.add([burst_entry(100)], replace=True) == 1


def filled(path: Path) -> bytes:
    file = DatabaseFile(path)
    file.add([burst_entry(layers) for layers in range(1, 60)], replace=True)
    return path.read_bytes()


def of_another_program(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE entries (key TEXT PRIMARY KEY, photo BLOB);")


def of_other_columns(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript("ALTER TABLE entries DROP COLUMN device;")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "not SQLite": lambda path: path.write_bytes(b"what is this? " * 1000),
    "empty": lambda path: path.write_bytes(b""),
    "a few bytes": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2]),
    "garbage within": lambda path: path.write_bytes(
        path.read_bytes()[:4096] + b"\xa5" * (len(path.read_bytes()) - 4096)
    ),
    "another program's": of_another_program,
    "other columns": of_other_columns,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("first", ["find", "add", "rows"])
def test_a_damaged_file_is_moved_aside_and_rebuilt(
    file: DatabaseFile, caplog: pytest.LogCaptureFixture, damage: str, first: str
) -> None:
    filled(file.path)
    DAMAGE[damage](file.path)
    damaged = file.path.read_bytes()
    with caplog.at_level(logging.WARNING):
        if first == "add":
            assert file.add([burst_entry(90)], replace=True) == 1
        else:
            assert not (file.find(burst_entry(3).subject) if first == "find" else file.rows())
    (warning,) = caplog.messages
    (aside,) = file.path.parent.glob("tuning.db.corrupt-*Z")
    assert "tuning.db is damaged (" in warning
    assert warning.endswith(f"moved to {aside.name}")
    assert "\n" not in warning
    if damage not in ("another program's", "other columns"):
        assert aside.read_bytes() == damaged
    file.add([burst_entry(91)], replace=True)
    assert DatabaseFile(file.path).find(burst_entry(91).subject) == burst_entry(91)
    assert len(caplog.messages) == 1


def test_damage_on_pages_that_nobody_reads_is_found_in_time(file: DatabaseFile) -> None:
    content = bytearray(filled(file.path))
    content[-4096:] = b"\xa5" * 4096
    file.path.write_bytes(content)
    found = [file.find(burst_entry(layers).subject) for layers in range(1, 60)]
    assert all(entry is None or entry == burst_entry(layers) for layers, entry in enumerate(found, start=1))


def test_two_damaged_files_in_a_second_are_both_kept(file: DatabaseFile) -> None:
    for content in (b"one", b"two"):
        file.path.parent.mkdir(exist_ok=True)
        file.path.write_bytes(content)
        assert file.rows() == []
    assert len(list(file.path.parent.glob("tuning.db.corrupt-*"))) == 2


def test_a_value_damaged_below_sqlites_notice_is_not_known(file: DatabaseFile) -> None:
    entry = burst_entry()
    for column, content in (("value", "{"), ("value", "{}"), ("created", "once")):
        file.add([entry, acceptance_entry()], replace=True)
        with closing(sqlite3.connect(file.path)) as db:
            db.execute(f"UPDATE entries SET {column} = ? WHERE key = ?", [content, entry.key])
            db.commit()
        assert file.find(entry.subject) is None
        assert list(file.entries()) == [acceptance_entry()]
    file.add([entry], replace=True)
    assert file.find(entry.subject) == entry


def test_versions_damaged_below_sqlites_notice_are_no_versions(file: DatabaseFile) -> None:
    file.add([burst_entry()], replace=True)
    with closing(sqlite3.connect(file.path)) as db:
        db.execute("UPDATE entries SET versions = '{'")
        db.commit()
    assert [row.versions for row in file.rows()] == [{}]


def test_a_newer_schema_is_one_line_and_left_alone(file: DatabaseFile) -> None:
    filled(file.path)
    with closing(sqlite3.connect(file.path)) as db:
        db.execute(f"PRAGMA user_version = {FILE_SCHEMA + 1}")
    for use in (lambda: file.find(burst_entry().subject), lambda: file.add(all_kinds(), replace=True), file.rows):
        with pytest.raises(BadRequest, match="has schema 2, newer than the 1 known here: upgrade draft-autotune") as e:
            use()
        assert "\n" not in str(e.value)
    assert not list(file.path.parent.glob("*corrupt*"))


def test_a_folder_or_a_file_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.database.file.BUSY_TIMEOUT_S", 0.2)  # waiting for a lock in /proc
    (tmp_path / "tuning.db").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "tuning.db", tmp_path / "file" / "tuning.db", Path("/proc/tuning.db")):
        with pytest.raises(BadRequest, match="cannot use the tuning database"):
            DatabaseFile(path).add([burst_entry()], replace=True)


def test_a_writer_that_holds_on_for_too_long(file: DatabaseFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.database.file.BUSY_TIMEOUT_S", 0.05)
    file.add([burst_entry()], replace=True)
    with closing(sqlite3.connect(file.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BadRequest, match="database is locked"):
            file.add([burst_entry(3)], replace=True)
        assert file.find(burst_entry().subject) == burst_entry()
        other.execute("ROLLBACK")
    assert file.add([burst_entry(3)], replace=True) == 1


@pytest.fixture
def locked_folder() -> Iterator[Path]:
    """A folder with a filled database that this process may read but not write, whoever it runs as."""
    folder = Path(tempfile.mkdtemp())
    filled(folder / "tuning.db")
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_cache_that_may_not_be_written_is_read(locked_folder: Path) -> None:
    file = DatabaseFile(locked_folder / "tuning.db")
    assert file.find(burst_entry(3).subject) == burst_entry(3)
    assert len(file.rows()) == 59
    with pytest.raises(BadRequest, match="cannot use the tuning database"):
        file.add([burst_entry(90)], replace=True)


FULL_DISK = """
import sys
from pathlib import Path
from autotune.database.file import DatabaseFile
from autotune.errors import BadRequest
from tests.support.entries import burst_entry
file = DatabaseFile(Path(sys.argv[1]))
try:
    for layers in range(2, 1000):
        file.add([burst_entry(layers)], replace=True)
except BadRequest as error:
    print(error)
assert file.find(burst_entry(1).subject) == burst_entry(1)
"""


def test_a_full_disk_is_one_line_and_harms_nothing(file: DatabaseFile) -> None:
    file.add([burst_entry(1)], replace=True)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    writer = start(FULL_DISK, file.path, preexec_fn=limit)
    stdout, stderr = writer.communicate(timeout=60)
    assert writer.returncode == 0, stderr
    assert stdout.startswith("cannot use the tuning database ")
    assert stdout.count("\n") == 1
    assert file.find(burst_entry(1).subject) == burst_entry(1)
    assert file.add([burst_entry(1000)], replace=True) == 1
