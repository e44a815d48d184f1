"""A run's folder: what was asked (`run.json`), what was found (`trials.jsonl`, and `refined.jsonl` where builds were
scored on more traces afterwards); safe against a kill at any moment.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from autotune.errors import BadRequest
from autotune.json_file import read_json
from autotune.refinement import Refined
from autotune.results import TargetLatency, TrialRecord

RUN_SCHEMA = 1
_LOCK_FILE = ".lock"
_LOCK_WAIT_S = 0.5
"""For whoever asks just then whether the folder is in use."""
_UNFINISHED_RUN_FILE = "run.tmp"
_RECORD = TypeAdapter(TrialRecord)
_REFINED = TypeAdapter(Refined)
_LATENCY = TypeAdapter(TargetLatency)

_Line = TypeVar("_Line")


class RunFolder:
    """One run's folder.  Open it with `RunFolder.open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.study_file = path / "study.db"
        self.facts_file = path / "facts.json"
        self.report = path / "report"
        self.artifact = path / "artifact"
        self.work = path / "work"
        self._run_file = path / "run.json"
        self._trials_file = path / "trials.jsonl"
        self._refined_file = path / "refined.jsonl"
        self._latency_file = path / "target.json"

    @staticmethod
    @contextmanager
    def open(path: Path, identity: dict[str, Any], *, resume: bool) -> "Iterator[RunFolder]":
        """The folder for a run that is defined by `identity`, locked against a second process.

        A new run needs a folder that is missing or empty; `resume` continues one of equal identity.
        Raises BadRequest otherwise, before anything is written, and where the folder cannot be written.  A new run
        that is refused inside the block, before its first record, leaves the folder free for a better request.
        """
        folder = RunFolder(path)
        written = {"schema_version": RUN_SCHEMA, **identity}
        try:
            folder._check(written, resume=resume)
            path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path / _LOCK_FILE)
            lock.acquire(timeout=_LOCK_WAIT_S)
        except Timeout:
            raise BadRequest(f"{path} is in use by another autotune process") from None
        except OSError as error:
            raise BadRequest(f"cannot write the output folder {path}: {error.strerror or error}") from None
        new = False
        try:
            folder._check(written, resume=resume)  # again: another process may have come before the lock was ours
            _drop_cut_line(folder._trials_file)
            _drop_cut_line(folder._refined_file)
            new = not folder._run_file.exists()
            if new:
                folder._write_identity(written)
            yield folder
        except BadRequest:
            if new and not folder._trials_file.exists():
                folder._withdraw()
            raise
        finally:
            lock.release()

    @staticmethod
    def existing(path: Path) -> "RunFolder":
        """The folder of a run that is there, for reading only; BadRequest if there is none, or of another schema."""
        folder = RunFolder(path)
        if not folder._run_file.is_file():
            raise BadRequest(f"{path} holds no run: give the --out folder of an `autotune run`")
        _check_schema(path, read_json(folder._run_file))
        return folder

    @property
    def in_use(self) -> bool:
        """Whether a process has the folder open for a run."""
        try:
            with FileLock(self.path / _LOCK_FILE, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # no run can have it open where nothing can be written
            return False

    def append(self, record: TrialRecord) -> None:
        """Add a record; it is on disk when this returns."""
        _append(self._trials_file, _RECORD.dump_json(record))

    def append_refined(self, refined: Refined) -> None:
        """Add what a build came to on more traces; it is on disk when this returns."""
        _append(self._refined_file, _REFINED.dump_json(refined))

    def read_latency(self) -> TargetLatency | None:
        """The target's latencies that this run's records were scored with; None if they were not measured yet."""
        try:
            return _LATENCY.validate_json(self._latency_file.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise BadRequest(f"{self._latency_file} is damaged: {error.errors()[0]['msg']}") from None

    def write_latency(self, latency: TargetLatency) -> None:
        """Keep the target's latencies, so that a resumed run goes on with the same yardstick."""
        _replace(self._latency_file, _LATENCY.dump_json(latency))

    def write_facts(self, content: bytes) -> None:
        """Keep what a report is made from beside the records (see `autotune.saved_run`)."""
        _replace(self.facts_file, content)

    def records(self) -> list[TrialRecord]:
        """All records.  A last line that is cut, by a kill or as it is just being written, is left out; other damage is
        a BadRequest."""
        return _read_lines(self._trials_file, _RECORD)

    def refined(self) -> list[Refined]:
        """All that was scored on more traces, read as `records` are."""
        return _read_lines(self._refined_file, _REFINED)

    def _check(self, written: dict[str, Any], *, resume: bool) -> None:
        """Raise BadRequest unless the folder is free for, or already holds, the run that `written` identifies."""
        if not self._run_file.exists():
            left_by_us = {_LOCK_FILE, _UNFINISHED_RUN_FILE}
            if self.path.is_dir() and any(entry.name not in left_by_us for entry in self.path.iterdir()):
                raise BadRequest(f"{self.path} is not empty and holds no run: choose another --out")
            return
        if not resume:
            raise BadRequest(f"{self.path} holds a run already: add --resume to continue it, or choose another --out")
        before = read_json(self._run_file)
        _check_schema(self.path, before)
        changed = sorted(key for key in written.keys() | before.keys() if written.get(key) != before.get(key))
        if changed:
            raise BadRequest(
                f"{self.path} holds a different run (differs in: {', '.join(changed)}): "
                "repeat its settings to resume it, or choose another --out"
            )

    def _withdraw(self) -> None:
        """Take away what a new run wrote; only the lock's empty file stays."""
        shutil.rmtree(self.work, ignore_errors=True)
        left = (
            self.study_file,
            self._run_file,
            self.facts_file,
            self._latency_file,
            self._latency_file.with_suffix(".tmp"),
        )
        for file in left:
            file.unlink(missing_ok=True)

    def _write_identity(self, identity: dict[str, Any]) -> None:
        try:
            beside = self.path / _UNFINISHED_RUN_FILE
            beside.write_text(json.dumps(identity, indent=2, sort_keys=True) + "\n")
            beside.rename(self._run_file)
        except OSError as error:
            raise BadRequest(f"cannot write the output folder {self.path}: {error.strerror or error}") from None


def _append(path: Path, line: bytes) -> None:
    """Add a line to a file; it is on disk when this returns."""
    with path.open("ab") as file:
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it there."""
    beside = path.with_suffix(".tmp")
    beside.write_bytes(content)
    beside.rename(path)


def _check_schema(path: Path, identity: dict[str, Any]) -> None:
    if identity.get("schema_version") != RUN_SCHEMA:
        raise BadRequest(
            f"{path} was written by a version of autotune whose runs have schema {identity.get('schema_version')}; "
            f"this one reads schema {RUN_SCHEMA}: use that version, or run anew into another folder"
        )


def _whole_lines(content: bytes) -> bytes:
    """The content without a last line that was cut."""
    return content[: content.rfind(b"\n") + 1]


def _drop_cut_line(path: Path) -> None:
    """Take a last line that was cut by a kill off the file."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = _whole_lines(content)
    if whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))


def _read_lines(path: Path, adapter: TypeAdapter[_Line]) -> list[_Line]:
    """All whole lines of a file; damage is a BadRequest."""
    if not path.exists():
        return []
    try:
        return [adapter.validate_json(line) for line in _whole_lines(path.read_bytes()).splitlines()]
    except ValidationError as error:
        raise BadRequest(f"{path} is damaged: {error.errors()[0]['msg']}") from None
