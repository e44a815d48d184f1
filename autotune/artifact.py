"""The shipped artifact: the folder by which a search hands a draft to a runtime.

    manifest.json   what it is, for which target, how fast, how it was made, and every file's size and SHA-256
    draft/          the compiled program (absent when the verdict is "do not speculate")
    checkpoint/     the same draft as a Hugging Face checkpoint, for other engines; always with the whole vocabulary
    tokenizer/      the tokenizer both models share

It is written beside and renamed into place, verified when it is opened, and nothing in it is ever unpickled.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pydantic import TypeAdapter, ValidationError

from autotune.cache import file_sha256, new_folder
from autotune.candidate import Drafting, DraftShape, Precision
from autotune.errors import ArtifactError
from autotune.results import Figure, KernelTuning

MANIFEST_FILE = "manifest.json"
MANIFEST_SCHEMA = 1
DRAFT_FOLDER = "draft"
CHECKPOINT_FOLDER = "checkpoint"
TOKENIZER_FOLDER = "tokenizer"


@dataclass(frozen=True)
class TargetIdentity:
    """The target a draft belongs to."""

    id: str
    fingerprint: str
    tokenizer_fingerprint: str
    backend: str = "onnxruntime"
    """The compiler it was measured with; the draft may have another."""
    device: str = "cpu"
    """The kind of device it was measured on; the draft was compiled for the same."""
    precision: Precision = Precision.FP32
    """What it was compiled in: what the pair emits is this program's output."""


@dataclass(frozen=True)
class DraftDescription:
    """The compiled draft."""

    shape: DraftShape
    parameters: int
    backend: str
    precision: Precision
    drafting: Drafting = Drafting.CALLS
    """How it drafts fastest, by measurement; the program in `draft/` says the same."""


@dataclass(frozen=True)
class Figures:
    """What was predicted of the pair and what was measured by decoding with it."""

    tokens_per_round_estimated: Figure
    tokens_per_round_measured: Figure
    tokens_per_s_predicted: Figure
    tokens_per_s_measured: Figure
    speedup_predicted: Figure
    speedup_measured: Figure


@dataclass(frozen=True)
class Provenance:
    """How the artifact was made."""

    created: str
    command: str
    seed: int
    git_revision: str | None
    versions: dict[str, str]
    kernel_tuning: KernelTuning | None = None
    """None where it was not asked for."""


@dataclass(frozen=True)
class FileEntry:
    """A file of the artifact; `path` is relative, with forward slashes, and stays inside the folder."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything a runtime must know, and everything a reader may ask."""

    target: TargetIdentity
    lookahead: int
    """k; 0 means that the target alone is faster than any pair found."""
    lookahead_schedule: tuple[tuple[int, int, int], ...]
    """(smallest batch, largest batch, k): the batch sizes that were measured."""
    draft: DraftDescription | None
    figures: Figures | None
    device: str
    threads: int
    eos_ids: tuple[int, ...]
    provenance: Provenance
    notes: tuple[str, ...] = ()
    """What a user of the artifact should know besides."""
    files: tuple[FileEntry, ...] = ()
    schema_version: int = MANIFEST_SCHEMA


@dataclass(frozen=True)
class _Versioned:
    """What the manifest of every schema has, however much else changes."""

    schema_version: int


_MANIFEST = TypeAdapter(Manifest)
_VERSIONED = TypeAdapter(_Versioned)


def write_artifact(destination: Path, manifest: Manifest, fill: Callable[[Path], None]) -> Manifest:
    """Write the artifact; `fill(folder)` puts the files there.  Returns the manifest with its list of files."""
    with new_folder(destination) as folder:
        fill(folder)
        files = tuple(
            FileEntry(path.relative_to(folder).as_posix(), path.stat().st_size, file_sha256(path))
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        )
        complete = replace(manifest, files=files)
        (folder / MANIFEST_FILE).write_bytes(_MANIFEST.dump_json(complete, indent=2))
    return complete


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact; ArtifactError if it is missing, malformed or of a newer schema."""
    path = folder / MANIFEST_FILE
    try:
        text = path.read_bytes()
    except OSError:
        raise ArtifactError(f"{folder} is not an artifact: it has no readable {MANIFEST_FILE}") from None
    try:
        version = _VERSIONED.validate_json(text).schema_version
        if version > MANIFEST_SCHEMA:
            raise ArtifactError(
                f"{path} has schema {version}, newer than the {MANIFEST_SCHEMA} known here: upgrade draft-autotune"
            )
        return _MANIFEST.validate_json(text)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise ArtifactError(f"{path} is malformed: {place or 'JSON'}: {fault['msg']}") from None


def verify_artifact(folder: Path) -> Manifest:
    """The manifest, once every file was found inside the folder with its recorded size and SHA-256.

    Raises ArtifactError that names the first file that is missing, changed, not listed or outside the folder.
    """
    manifest = read_manifest(folder)
    root = folder.resolve()
    for entry in manifest.files:
        path = folder / entry.path
        if not _stays_inside(PurePosixPath(entry.path), root):
            raise ArtifactError(f"{folder}: the manifest names {entry.path!r}, which leaves the artifact's folder")
        if not os.path.isfile(path):  # unlike Path.is_file, False too for a name that no file system allows
            raise ArtifactError(f"{folder}: {entry.path} is missing")
        if path.stat().st_size != entry.size_bytes or file_sha256(path) != entry.sha256:
            raise ArtifactError(f"{folder}: {entry.path} was changed since the artifact was written")
    listed = {entry.path for entry in manifest.files} | {MANIFEST_FILE}
    unlisted = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).as_posix() not in listed
    )
    if unlisted:
        raise ArtifactError(f"{folder}: {unlisted[0]} is not listed in the manifest")
    if manifest.lookahead and manifest.draft is None:
        raise ArtifactError(f"{folder}: the manifest asks for lookahead {manifest.lookahead} but describes no draft")
    return manifest


def _stays_inside(relative: PurePosixPath, root: Path) -> bool:
    """Whether a manifest's path leads, links followed, to somewhere below the resolved `root`."""
    if relative.is_absolute() or ".." in relative.parts:
        return False
    try:
        return (root / relative).resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):  # a circle of links, or a name that no file system allows
        return False
