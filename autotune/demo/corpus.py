"""The text a demo model learns from: Python's standard library, split by file into training and held-out documents."""

import os
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autotune.errors import BadRequest

_SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__", "idlelib", "lib2to3", "turtledemo"})
_TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
_SMALLEST, _LARGEST = 500, 300_000
_CODE_PAGE_MARKS = ("decoding_table", "decoding_map", "Decoding Table")
_HELD_OUT_MODULUS = 25


@dataclass(frozen=True)
class Document:
    """A source file: its path below the library (`./ast.py`, `json/decoder.py`) and its text."""

    path: str
    text: str

    @property
    def is_test(self) -> bool:
        """Whether it lies in a folder of tests."""
        return not _TEST_FOLDERS.isdisjoint(Path(self.path).parts)


@dataclass(frozen=True)
class Corpus:
    """Documents to train on, and documents no training sees."""

    training: tuple[Document, ...]
    held_out: tuple[Document, ...]


def standard_library() -> Path:
    """The folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def read_corpus(library: Path) -> Corpus:
    """The documents of a library folder, in a fixed order; about one file in 25 that is no test is held out.

    Left out are tables of code pages, very short and very long files, and files that are not UTF-8.
    """
    training: list[Document] = []
    held_out: list[Document] = []
    for document in _documents(library):
        (held_out if not document.is_test and is_held_out(document.path) else training).append(document)
    if not training or not held_out:
        raise BadRequest(
            f"{library} has too little Python source ({len(training)} files to train on, {len(held_out)} held out): "
            "give a folder with at least a hundred files"
        )
    return Corpus(tuple(training), tuple(held_out))


def is_held_out(path: str) -> bool:
    """Whether the document of that path is held out: a hash decides, so that it never depends on other files."""
    folder, _, name = path.rpartition("/")
    return zlib.crc32((folder + name).encode()) % _HELD_OUT_MODULUS == 0


def _documents(library: Path) -> Iterator[Document]:
    """Every usable document."""
    for folder, folders, files in os.walk(library):
        folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS)
        relative = Path(os.path.relpath(folder, library))
        for name in sorted(name for name in files if name.endswith(".py")):
            try:
                text = Path(folder, name).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # some tests are in other encodings on purpose
            if not _SMALLEST <= len(text) <= _LARGEST:
                continue
            if relative.name == "encodings" and any(mark in text for mark in _CODE_PAGE_MARKS):
                continue
            yield Document(f"{'.' if relative == Path() else relative.as_posix()}/{name}", text)
