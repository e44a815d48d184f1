"""The database file: SQLite, keyed by content, safe with several processes, rebuilt where it is damaged.

Every operation opens the file, does one short transaction and closes it, so nothing is held between them and a forked
or killed process leaves nothing behind.  Writers of the same key overwrite each other with equally good numbers.
"""

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from autotune.cache import cache_root
from autotune.database.entries import Entry, make_entry, value_json
from autotune.database.subjects import AcceptanceSubject, Subject, subject_json, subject_key
from autotune.errors import BadRequest

logger = logging.getLogger(__name__)

FILE_SCHEMA = 1
BUSY_TIMEOUT_S = 20.0
_APPLICATION_ID = 0x64617475
"""SQLite's mark of whose file it is."""
_DESCRIPTION = ("key", "kind", "shape", "backend", "precision", "device", "versions", "created", "bytes")
_COLUMNS = (*_DESCRIPTION, "subject", "value")
_CREATE = f"""
BEGIN;
CREATE TABLE entries (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, shape TEXT NOT NULL, backend TEXT, precision TEXT NOT NULL, device TEXT,
    versions TEXT NOT NULL, created TEXT NOT NULL, bytes INTEGER NOT NULL, subject TEXT NOT NULL, value TEXT NOT NULL
);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {FILE_SCHEMA};
COMMIT;
"""
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_READ_ONLY = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}

T = TypeVar("T")


class _Damaged(Exception):
    """The file is no database of ours."""


@dataclass(frozen=True)
class Row:
    """What is said of an entry without reading its value."""

    key: str
    kind: str
    shape: str
    backend: str | None
    """None: no program is behind it."""
    precision: str
    device: str | None
    """Fingerprint; None: it depends on no device."""
    versions: dict[str, str]
    created: str
    bytes: int


class DatabaseFile:
    """The file of that path, which need not exist; every method raises BadRequest where it cannot be used."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_root() / "tuning.db"

    def find(self, subject: Subject) -> Entry | None:
        """What is known about the subject; None if nothing is, or nothing that makes sense."""
        return self._entry(subject_key(subject))

    def add(self, entries: Iterable[Entry], *, replace: bool) -> int:
        """How many entries were added, all of them or (on an error) none; known keys are replaced or else kept."""
        rows = [_row(entry) for entry in entries]
        verb = "REPLACE" if replace else "IGNORE"
        statement = f"INSERT OR {verb} INTO entries VALUES ({', '.join('?' * len(_COLUMNS))})"

        def insert(db: sqlite3.Connection) -> int:
            return db.executemany(statement, rows).rowcount

        return self._write(insert)

    def rows(self) -> list[Row]:
        """All entries without their values, oldest first."""
        columns = ", ".join(_DESCRIPTION)
        found = self._read(lambda db: db.execute(f"SELECT {columns} FROM entries ORDER BY created, key").fetchall())
        return [_parse_row(values) for values in found or []]

    def entries(self) -> Iterator[Entry]:
        """All entries, oldest first; those that make no sense are left out."""
        for row in self.rows():
            entry = self._entry(row.key)
            if entry is not None:
                yield entry

    def _entry(self, key: str) -> Entry | None:
        """The entry of that key; None if there is none, or it makes no sense."""
        statement = "SELECT subject, value, created FROM entries WHERE key = ?"
        found = self._read(lambda db: db.execute(statement, [key]).fetchone())
        if found is None:
            return None
        subject, value, created = found
        try:
            return make_entry(json.loads(subject), json.loads(value), created)
        except ValueError as error:  # of another version's fields, or damaged below SQLite's notice
            logger.debug("the entry %s is not used: %s", key, error)
            return None

    def remove(self, keys: Sequence[str]) -> None:
        """Remove the entries of these keys and give their space back to the disk."""
        if not keys:
            return
        self._write(lambda db: db.executemany("DELETE FROM entries WHERE key = ?", [[key] for key in keys]).rowcount)
        with suppress(BadRequest):  # another process is reading: the space is used again later
            self._read(lambda db: db.execute("VACUUM"))

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """What `work` returns; None if there is no file."""
        return self._with_file(work) if self.path.exists() else None

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, done as one transaction; the file is made if there is none."""

        def transaction(db: sqlite3.Connection) -> T:
            db.execute("BEGIN IMMEDIATE")
            try:
                done = work(db)
            except BaseException:
                db.rollback()
                raise
            db.commit()
            return done

        with self._refusals():
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self._lock():
                    self._create()
        return self._with_file(transaction)

    def _with_file(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._refusals():
            try:
                return self._try(work)
            except _Damaged:
                self._rebuild()
                return self._try(work)

    def _try(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with closing(self._connect()) as db:
                return work(db)
        except sqlite3.DatabaseError as error:
            if _code(error) in _DAMAGE:
                raise _Damaged(str(error)) from error
            raise

    def _connect(self) -> sqlite3.Connection:
        """The opened file, known to be ours."""
        try:
            return self._open("mode=rw")
        except sqlite3.OperationalError as error:
            if _code(error) not in _READ_ONLY or not self.path.is_file():
                raise
            return self._open("mode=ro&immutable=1")  # a cache that nobody may write, so nobody does

    def _open(self, how: str) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?{how}"
        db = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            self._check(db)
            db.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            db.close()
            raise
        return db

    def _check(self, db: sqlite3.Connection) -> None:
        """Raise _Damaged unless it is a database of ours, BadRequest if a newer version made it."""
        owner = db.execute("PRAGMA application_id").fetchone()[0]
        schema = db.execute("PRAGMA user_version").fetchone()[0]
        if owner == _APPLICATION_ID and schema > FILE_SCHEMA:
            raise BadRequest(
                f"the tuning database {self.path} has schema {schema}, newer than the {FILE_SCHEMA} known here: "
                "upgrade draft-autotune, or go without it (--no-database)"
            )
        columns = tuple(row[1] for row in db.execute("PRAGMA table_info(entries)"))
        if owner != _APPLICATION_ID or schema != FILE_SCHEMA or columns != _COLUMNS:
            raise _Damaged("it is no tuning database")

    def _create(self) -> None:
        """Make the file, under the lock, if it is still missing: made beside and renamed, so never seen half-made."""
        if self.path.exists():
            return
        beside = self.path.with_name(f".{self.path.name}.new")
        beside.unlink(missing_ok=True)  # of a process that was killed here
        with closing(sqlite3.connect(beside, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_CREATE)
        beside.rename(self.path)

    def _rebuild(self) -> None:
        """Move a damaged file aside and make a new one, unless another process just did."""
        with self._lock():
            try:
                if self.path.exists():
                    self._try(_check_pages)
            except _Damaged as error:
                aside = _free_name(self.path)
                for ending in ("-wal", "-shm", ""):  # SQLite looks for a file's log beside it
                    with suppress(FileNotFoundError):
                        self.path.with_name(self.path.name + ending).rename(aside.with_name(aside.name + ending))
                logger.warning("the tuning database %s is damaged (%s): moved to %s", self.path, error, aside.name)
            self._create()

    def _lock(self) -> FileLock:
        return FileLock(self.path.with_suffix(".lock"), timeout=BUSY_TIMEOUT_S)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn what the disk refuses into a BadRequest."""
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            detail = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise BadRequest(f"cannot use the tuning database {self.path}: {detail}") from error
        except _Damaged as error:
            raise BadRequest(f"cannot use the tuning database {self.path}: {error}") from error


def _check_pages(db: sqlite3.Connection) -> None:
    """Raise _Damaged unless SQLite finds the whole file in order."""
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise _Damaged(str(found).splitlines()[-1])


def _row(entry: Entry) -> tuple[object, ...]:
    subject, value = entry.subject, json.dumps(value_json(entry), allow_nan=False)
    return (
        entry.key,
        subject.kind,
        str(subject.shape),
        None if isinstance(subject, AcceptanceSubject) else subject.backend,
        subject.precision.value,
        None if isinstance(subject, AcceptanceSubject) else subject.device,
        json.dumps(subject.versions, sort_keys=True),
        entry.created,
        len(value),
        json.dumps(subject_json(subject), sort_keys=True),
        value,
    )


def _parse_row(values: Sequence[object]) -> Row:
    key, kind, shape, backend, precision, device, versions, created, size = values
    try:
        parsed = json.loads(str(versions))
    except ValueError:  # damaged below SQLite's notice: of no versions that we know
        parsed = {}
    return Row(
        key=str(key),
        kind=str(kind),
        shape=str(shape),
        backend=None if backend is None else str(backend),
        precision=str(precision),
        device=None if device is None else str(device),
        versions=parsed,
        created=str(created),
        bytes=int(str(size)),
    )


def _free_name(path: Path) -> Path:
    """A name to move a damaged file to, after the present second, that no file has."""
    stem = f"{path.name}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    name, count = path.with_name(stem), 1
    while name.exists():
        count += 1
        name = path.with_name(f"{stem}-{count}")
    return name


def _code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
