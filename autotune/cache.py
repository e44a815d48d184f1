"""The cache folder: everything in it is keyed by content, written beside and renamed into place."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from autotune.errors import BadRequest

logger = logging.getLogger(__name__)


def cache_root() -> Path:
    """The cache folder: `$AUTOTUNE_CACHE`, or the platform's user cache."""
    chosen = os.environ.get("AUTOTUNE_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("autotune", appauthor=False)


def content_key(*parts: object) -> str:
    """A hexadecimal key of JSON-serialisable parts; equal contents have equal keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_hashes(package: str) -> dict[str, str]:
    """SHA-256 of every Python file of one of our packages: what it writes changes when they do."""
    root = Path(str(files(package)))
    return {str(path.relative_to(root)): file_sha256(path) for path in sorted(root.rglob("*.py"))}


def source_digest(names: Iterable[str]) -> str:
    """One hash of the sources of several of our packages and modules; no module is loaded for it."""
    hashes = {}
    for name in names:
        package, _, module = name.rpartition(".")
        file = Path(str(files(package))) / f"{module}.py"
        hashes[name] = file_sha256(file) if file.exists() else source_hashes(name)
    return content_key(hashes)[:16]


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A temporary sibling folder that becomes `destination` when the block ends well, and vanishes otherwise.

    An existing `destination` is replaced.  Raises BadRequest where the disk refuses (full, read-only).
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    except OSError as error:
        raise BadRequest(f"cannot write {destination}: {error.strerror or error}") from error
    try:
        beside.chmod(0o755)
        yield beside
        if destination.exists():
            shutil.rmtree(destination)
        beside.rename(destination)
    except OSError as error:
        raise BadRequest(f"cannot write {destination}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def cached_folder(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The cache folder `kind/key`, made by `make(folder)` if it is not there yet (one maker at a time)."""
    destination = cache_root() / kind / key
    if destination.is_dir():
        logger.debug("%s: from the cache, %s", kind, destination)
        return destination
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadRequest(f"cannot write the cache {cache_root()}: {error.strerror or error}") from error
    with FileLock(destination.with_suffix(".lock")):
        if not destination.is_dir():
            logger.debug("%s: making %s", kind, destination)
            with new_folder(destination) as folder:
                make(folder)
    return destination


def cache_bytes() -> int:
    """Bytes of all files in the cache."""
    return sum(path.stat().st_size for path in cache_root().rglob("*") if path.is_file())
