"""The shipped artifact: the folder by which a search hands a draft to a runtime.

    manifest.json   what it is, for which target, how fast, how it was made, and every file's size and SHA-256
    draft/          the compiled program (absent when the verdict is "do not speculate")
    checkpoint/     the same draft as a Hugging Face checkpoint, for other engines; always with the whole vocabulary
    tokenizer/      the tokenizer both models share

A plan, made where neither the target's weights nor its text were, has no draft yet but says how to make it:

    hf_config/      config.json of the draft, to prune or train it with other tools
    PLAN.md         the commands that fetch, record, prune and finish

It is written beside and renamed into place, verified when it is opened, and nothing in it is ever unpickled.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath

from pydantic import TypeAdapter, ValidationError

from autotune.batch_results import BatchEntry
from autotune.cache import file_sha256, new_folder
from autotune.candidate import Drafting, DraftShape, Lookup, Precision
from autotune.errors import ArtifactError
from autotune.results import Figure, KernelTuning
from autotune.stopping import AdaptivePlan

MANIFEST_FILE = "manifest.json"
MANIFEST_SCHEMA = 2
DRAFT_FOLDER = "draft"
CHECKPOINT_FOLDER = "checkpoint"
TOKENIZER_FOLDER = "tokenizer"
CONFIG_FOLDER = "hf_config"
PLAN_FILE = "PLAN.md"


class ArtifactKind(StrEnum):
    """What an artifact holds; those of schema 1 are all pairs."""

    PAIR = "pair"
    """A draft that was decoded with its target, or the verdict that none pays."""
    UNVALIDATED = "unvalidated"
    """A draft that is ready, but was never decoded with its target."""
    PLAN = "plan"
    """A draft's shape, and how to make it."""


@dataclass(frozen=True)
class TargetIdentity:
    """The target a draft belongs to."""

    id: str
    fingerprint: str | None
    """None where its weights were not there: then the tokenizer must be the same."""
    tokenizer_fingerprint: str | None
    """None in a plan, which was made without."""
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
    """What was predicted of the pair and what was measured by decoding with it; None where it was not decoded."""

    tokens_per_round_estimated: Figure
    tokens_per_round_measured: Figure | None
    tokens_per_s_predicted: Figure
    tokens_per_s_measured: Figure | None
    speedup_predicted: Figure
    speedup_measured: Figure | None
    break_even_tokens_per_round: Figure | None = None
    """Tokens per round at which the pair is just as fast as the target alone."""


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
    kind: ArtifactKind = ArtifactKind.PAIR
    lookahead_by_category: dict[str, int] = field(default_factory=dict)
    """The k that was predicted to be fastest on each category of the workload, where there are several; 0: the target
    alone.  `lookahead` is the one for all of them."""
    batches: tuple[BatchEntry, ...] = ()
    """What was predicted at every batch size that was measured: where `lookahead_schedule` comes from."""
    adaptive: AdaptivePlan | None = None
    """By which the runtime chooses the lookahead of every round, where that decoded faster than `lookahead`."""
    model_free: Lookup | None = None
    """What drafts without a model: alone, where there is no `draft`, or else before the draft is asked."""
    model_free_lookahead: int | None = None
    """Its own lookahead before a draft, whose lookahead `lookahead` is."""
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
    if manifest.lookahead and manifest.draft is None and manifest.model_free is None:
        raise ArtifactError(f"{folder}: the manifest asks for lookahead {manifest.lookahead} but describes no draft")
    return manifest


def verify_runnable(folder: Path) -> Manifest:
    """As `verify_artifact`; ArtifactError too if there is nothing to run, since it is a plan."""
    manifest = verify_artifact(folder)
    if manifest.kind is ArtifactKind.PLAN:
        raise ArtifactError(
            f"{folder} is a plan for {manifest.target.id}, with no weights to run: {PLAN_FILE} in it says how to make "
            "the draft"
        )
    return manifest


def check_belongs(manifest: Manifest, folder: Path, target: str, fingerprint: str, tokenizer_fingerprint: str) -> None:
    """ArtifactError unless this target, of these fingerprints, is the one that the artifact was made for."""
    made_for = manifest.target
    if made_for.fingerprint is not None and fingerprint != made_for.fingerprint:
        raise ArtifactError(f"{folder} was made for {made_for.id}, not for this {target}: its weights differ")
    if made_for.fingerprint is None and tokenizer_fingerprint != made_for.tokenizer_fingerprint:
        raise ArtifactError(f"{folder} was made for {made_for.id}, not for this {target}: its tokenizer differs")


def _stays_inside(relative: PurePosixPath, root: Path) -> bool:
    """Whether a manifest's path leads, links followed, to somewhere below the resolved `root`."""
    if relative.is_absolute() or ".." in relative.parts:
        return False
    try:
        return (root / relative).resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):  # a circle of links, or a name that no file system allows
        return False
