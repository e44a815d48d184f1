"""A run's folder: what was asked (`run.json`), what was found (`trials.jsonl`); safe against a kill at any moment."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from autotune.errors import BadRequest
from autotune.results import TrialRecord

RUN_SCHEMA = 1
_RECORD = TypeAdapter(TrialRecord)


class RunFolder:
    """One run's folder.  Open it with `RunFolder.open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.study_file = path / "study.db"
        self.report = path / "report"
        self.artifact = path / "artifact"
        self.work = path / "work"
        self._run_file = path / "run.json"
        self._trials_file = path / "trials.jsonl"

    @staticmethod
    @contextmanager
    def open(path: Path, identity: dict[str, Any], *, resume: bool) -> "Iterator[RunFolder]":
        """The folder for a run that is defined by `identity`, locked against a second process.

        A new run needs a folder that is missing or empty; `resume` continues one of equal identity.
        Raises BadRequest otherwise, and where the folder cannot be written.
        """
        folder = RunFolder(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path / ".lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise BadRequest(f"{path} is in use by another autotune process") from None
        except OSError as error:
            raise BadRequest(f"cannot write the output folder {path}: {error.strerror or error}") from None
        try:
            folder._claim(identity, resume=resume)
            yield folder
        finally:
            lock.release()

    def append(self, record: TrialRecord) -> None:
        """Add a record; it is on disk when this returns."""
        line = _RECORD.dump_json(record) + b"\n"
        with self._trials_file.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def records(self) -> list[TrialRecord]:
        """All records.  A last line that was cut by a kill is dropped from the file; other damage is a BadRequest."""
        if not self._trials_file.exists():
            return []
        content = self._trials_file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with self._trials_file.open("r+b") as file:
                file.truncate(len(whole))
        try:
            return [_RECORD.validate_json(line) for line in whole.splitlines()]
        except ValidationError as error:
            raise BadRequest(f"{self._trials_file} is damaged: {error.errors()[0]['msg']}") from None

    def _claim(self, identity: dict[str, Any], *, resume: bool) -> None:
        written = {"schema_version": RUN_SCHEMA, **identity}
        others = [entry for entry in self.path.iterdir() if entry.name != ".lock"]
        if not self._run_file.exists():
            if others:
                raise BadRequest(f"{self.path} is not empty and holds no run: choose another --out")
            self._write_identity(written)
            return
        if not resume:
            raise BadRequest(f"{self.path} holds a run already: add --resume to continue it, or choose another --out")
        try:
            before = json.loads(self._run_file.read_text())
        except ValueError:
            raise BadRequest(f"{self._run_file} is damaged: choose another --out") from None
        if before.get("schema_version") != RUN_SCHEMA:
            raise BadRequest(f"{self.path} was written by schema {before.get('schema_version')}, not {RUN_SCHEMA}")
        changed = sorted(key for key in written.keys() | before.keys() if written.get(key) != before.get(key))
        if changed:
            raise BadRequest(
                f"{self.path} holds a different run (differs in: {', '.join(changed)}): "
                "repeat its settings to resume it, or choose another --out"
            )

    def _write_identity(self, identity: dict[str, Any]) -> None:
        try:
            beside = self._run_file.with_suffix(".tmp")
            beside.write_text(json.dumps(identity, indent=2, sort_keys=True) + "\n")
            beside.rename(self._run_file)
        except OSError as error:
            raise BadRequest(f"cannot write the output folder {self.path}: {error.strerror or error}") from None
