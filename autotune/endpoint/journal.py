"""Continuations as they come in, kept on disk, so that a recording cut short asks nothing twice."""

import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from autotune.cache import cache_root
from autotune.errors import BadRequest


@dataclass(frozen=True)
class Continuation:
    """What a server answered to one prompt."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    """`[T]` log-probability of each token in the distribution it was drawn from."""
    top: tuple[int, ...]
    """`[T]` most likely token at each place; -1 where unknown."""
    prompt_top: tuple[int, ...] | None
    """`[P]` the same of the prompt, its first unknown; None if the server does not tell."""


@dataclass(frozen=True)
class _Entry:
    key: str
    continuation: Continuation


_ENTRY = TypeAdapter(_Entry)


class Journal:
    """The continuations of one endpoint under one way of sampling, by the key of their request.

    A line each, appended and flushed at once; one process at a time.
    """

    def __init__(self, key: str) -> None:
        self._path = cache_root() / "endpoints" / f"{key}.jsonl"
        self._lock = threading.Lock()
        self._known: dict[str, Continuation] = {}

    def __enter__(self) -> "Journal":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._process_lock = FileLock(self._path.with_suffix(".lock"))
            self._process_lock.acquire()
            self._known = _read(self._path)
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise BadRequest(f"cannot write {self._path}: {error.strerror or error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._process_lock.release()

    @property
    def known(self) -> Mapping[str, Continuation]:
        """What has been answered so far."""
        return self._known

    def add(self, key: str, continuation: Continuation) -> None:
        """Keep an answer; threads may call this at once."""
        line = json.dumps(asdict(_Entry(key, continuation)))
        with self._lock:
            self._file.write(line + "\n")
            self._file.flush()
            self._known[key] = continuation


def _read(path: Path) -> dict[str, Continuation]:
    """The whole lines of a journal; one that a killed process left unfinished is cut off."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    known = {}
    for line in whole.splitlines():
        try:
            entry = _ENTRY.validate_json(line)
        except ValidationError as error:
            raise BadRequest(f"{path} is corrupt ({error.errors()[0]['msg']}): delete it") from error
        known[entry.key] = entry.continuation
    return known
