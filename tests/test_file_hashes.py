import os
import time
from pathlib import Path

import pytest

from autotune import file_hashes
from autotune.cache import file_sha256
from autotune.file_hashes import known_sha256


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The files that were really hashed."""
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    hashed: list[Path] = []

    def counting(path: Path) -> str:
        hashed.append(path)
        return file_sha256(path)

    monkeypatch.setattr(file_hashes, "file_sha256", counting)
    return hashed


def old_file(path: Path, content: bytes, age_s: float = 60.0) -> Path:
    path.write_bytes(content)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_a_file_is_read_once(tmp_path: Path, read: list[Path]) -> None:
    path = old_file(tmp_path / "weights", b"one")
    assert known_sha256(path) == known_sha256(path) == file_sha256(path)
    assert len(read) == 1


def test_a_changed_file_is_read_again(tmp_path: Path, read: list[Path]) -> None:
    path = old_file(tmp_path / "weights", b"one")
    known_sha256(path)
    old_file(path, b"two", age_s=50.0)
    assert known_sha256(path) == file_sha256(path)
    replaced = old_file(tmp_path / "other", b"six", age_s=50.0)
    os.utime(replaced, ns=(path.stat().st_mtime_ns,) * 2)
    replaced.replace(path)
    assert known_sha256(path) == file_sha256(path)
    assert len(read) == 3


def test_a_file_just_written_is_not_trusted(tmp_path: Path, read: list[Path]) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    known_sha256(path)
    known_sha256(path)
    assert len(read) == 2


def test_a_damaged_note_and_a_cache_that_cannot_be_written_cost_time_only(
    tmp_path: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = old_file(tmp_path / "weights", b"one")
    known_sha256(path)
    (note,) = (tmp_path / "cache" / "hashes").iterdir()
    note.write_text("half a ha")
    assert known_sha256(path) == file_sha256(path)
    (tmp_path / "a file").touch()
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "a file"))
    assert known_sha256(path) == file_sha256(path)
    assert len(read) == 3
