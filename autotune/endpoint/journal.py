"""Continuations as they come in, kept on disk, so that a recording cut short asks nothing twice."""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from filelock import FileLock
from pydantic import Base64Bytes, TypeAdapter, ValidationError

from autotune.alternatives import Alternatives
from autotune.cache import cache_root
from autotune.errors import BadRequest


@dataclass(frozen=True)
class Packed:
    """`Alternatives`, their arrays as bytes: in lines of numbers they would fill the memory."""

    counts: Base64Bytes
    tokens: Base64Bytes
    logprobs: Base64Bytes

    @classmethod
    def pack(cls, alternatives: Alternatives) -> "Packed":
        """The bytes of these."""
        return cls(alternatives.counts.tobytes(), alternatives.tokens.tobytes(), alternatives.logprobs.tobytes())

    def unpack(self) -> Alternatives:
        """What was packed."""
        return Alternatives(
            np.frombuffer(self.counts, np.int32),
            np.frombuffer(self.tokens, np.int32),
            np.frombuffer(self.logprobs, np.float32),
        )


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
    alternatives: Packed | None = None
    """Of prompt and continuation; None where none were asked for, or told."""


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
            # Without a buffer, nothing is left to be written after a write that failed.
            self._file = self._path.open("ab", buffering=0)
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
        """Keep an answer; threads may call this at once.  BadRequest, and no line, where the disk is full."""
        line = memoryview(_ENTRY.dump_json(_Entry(key, continuation)) + b"\n")
        with self._lock:
            whole_bytes = os.fstat(self._file.fileno()).st_size
            try:
                while line:
                    line = line[self._file.write(line) :]
            except OSError as error:
                self._file.truncate(whole_bytes)
                raise BadRequest(f"cannot write {self._path}: {error.strerror or error}") from error
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
