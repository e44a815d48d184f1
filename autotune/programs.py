"""Compiled programs that are used again: built once per content, found in the cache without the compiler."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from autotune.artifact import CHECKPOINT_FOLDER, DRAFT_FOLDER
from autotune.cache import cached_folder, content_key, file_sha256, source_hashes
from autotune.candidate import Precision
from autotune.compile.base import CompileSettings, build_program, find_backend
from autotune.devices import find_device
from autotune.families import read_checkpoint
from autotune.memory import check_memory, compile_bytes
from autotune.program import PROGRAM_SCHEMA, Program
from autotune.shape import DraftShape
from autotune.targets import Target
from autotune.weights import ModelWeights, trimmed


def compile_target(
    target: Target,
    backend: str,
    capacity_tokens: int | None = None,
    *,
    device: str = "cpu",
    precision: Precision = Precision.FP32,
    batches: tuple[int, ...] = (1,),
) -> Path:
    """The folder of the target's program, built now if the cache does not hold it.

    `capacity_tokens`: positions of its key/value cache; the target's whole context if not given.
    `batches`: numbers of sequences that one call may be given, ascending.
    """
    settings = CompileSettings(
        precision,
        capacity_tokens or target.numerics.context_tokens,
        device,
        batch=batches[-1],
        smaller_batches=batches[:-1],
    )
    return _compiled("targets", target.fingerprint, target.shape, target.read_weights, backend, settings, target.id)


def compile_draft(artifact: Path, backend: str, precision: Precision, batches: tuple[int, ...]) -> Path:
    """As `compile_target`, of an artifact's draft: its checkpoint's weights, its program's head and capacity."""
    program = Program.read(artifact / DRAFT_FOLDER)
    checkpoint = artifact / CHECKPOINT_FOLDER
    hashes = [(path.name, file_sha256(path)) for path in sorted(checkpoint.iterdir())]
    settings = CompileSettings(precision, program.capacity_tokens, batch=batches[-1], smaller_batches=batches[:-1])

    def read_weights() -> ModelWeights:
        whole = read_checkpoint(checkpoint)
        return whole if program.head_tokens is None else trimmed(whole, program.head_tokens)

    identity = content_key(hashes, program.token_ids)
    return _compiled("drafts", identity, program.shape, read_weights, backend, settings, f"the draft of {artifact}")


def _compiled(
    kind: str,
    identity: str,
    shape: DraftShape,
    read_weights: Callable[[], ModelWeights],
    backend: str,
    settings: CompileSettings,
    name: str,
) -> Path:
    """The cached program of the weights that `identity` stands for."""
    # The device itself, since some backends compile to its machine code and several machines may share a cache.
    key = content_key(
        identity,
        backend,
        _compiler_versions(backend),
        find_device(settings.device).fingerprint,
        vars(settings),
        PROGRAM_SCHEMA,
    )

    def make(folder: Path) -> None:
        if settings.device == "cpu":
            check_memory(compile_bytes(shape, settings.precision, settings.capacity_tokens), f"compiling {name}")
        build_program(backend, read_weights(), settings, folder)

    return cached_folder(kind, key, make)


def _compiler_versions(backend: str) -> dict[str, str]:
    """Versions of a backend's packages and hashes of our own compiler's sources, without importing either."""
    versions = {}
    for name in find_backend(backend).distributions:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions | source_hashes("autotune.compile")
