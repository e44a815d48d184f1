"""The tuning database as a file to carry elsewhere: JSON lines, one entry each, gzipped if the name ends in .gz."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from autotune.database.entries import BadEntry, Entry, parse_entry
from autotune.database.file import DatabaseFile
from autotune.errors import BadRequest

_GZIP_MAGIC = b"\x1f\x8b"
MOST_LINE_BYTES = 64 << 20
"""Longer lines are refused unread: no entry comes near it."""


def export_entries(file: DatabaseFile, out: Path) -> int:
    """How many entries were written to `out`, which appears whole or not at all."""
    if not file.rows():
        raise BadRequest(f"the tuning database {file.path} holds nothing to export")
    if out.is_dir():
        raise BadRequest(f"{out} is a folder: name a file")
    beside = out.with_name(f".{out.name}.new")
    count = 0
    try:
        with gzip.open(beside, "wb") if out.suffix == ".gz" else beside.open("wb") as written:
            for entry in file.entries():
                written.write(entry.to_json().encode() + b"\n")
                count += 1
        beside.rename(out)
    except OSError as error:
        raise BadRequest(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        beside.unlink(missing_ok=True)
    return count


def import_entries(file: DatabaseFile, source: Path) -> tuple[int, int]:
    """Entries read and entries added: all that were not known yet, or (BadRequest) none if one line is malformed."""
    entries: dict[str, Entry] = {}
    try:
        for number, line in enumerate(_lines(source), start=1):
            try:
                entry = parse_entry(line)
            except BadEntry as error:
                raise BadRequest(f"{source}, line {number}: {error}") from None
            entries.setdefault(entry.key, entry)
    except FileNotFoundError:
        raise BadRequest(f"{source} does not exist") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise BadRequest(f"{source} is damaged or cut short: its compression does not end well") from None
    except OSError as error:
        raise BadRequest(f"cannot read {source}: {error.strerror or error}") from None
    if not entries:
        raise BadRequest(f"{source} holds no entries")
    return len(entries), file.add(entries.values(), replace=False)


def _lines(source: Path) -> Iterator[bytes]:
    with source.open("rb") as raw:
        packed = raw.peek(2)[:2] == _GZIP_MAGIC
        stream = gzip.GzipFile(fileobj=raw) if packed else raw
        number = 0
        while line := stream.readline(MOST_LINE_BYTES + 1):
            number += 1
            if len(line) > MOST_LINE_BYTES:
                raise BadRequest(f"{source}, line {number}: longer than any entry")
            if line.strip():
                yield line
            else:
                raise BadRequest(f"{source}, line {number}: it is empty")
