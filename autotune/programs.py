"""A target's compiled program: built once per content, kept in the cache, found again without the compiler."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from autotune.cache import cached_folder, content_key, source_hashes
from autotune.candidate import Precision
from autotune.compile.base import CompileSettings, build_program, find_backend
from autotune.devices import find_device
from autotune.memory import check_memory, compile_bytes
from autotune.program import PROGRAM_SCHEMA
from autotune.targets import Target


def compile_target(
    target: Target,
    backend: str,
    capacity_tokens: int | None = None,
    *,
    device: str = "cpu",
    precision: Precision = Precision.FP32,
) -> Path:
    """The folder of the target's program, built now if the cache does not hold it.

    `capacity_tokens`: positions of its key/value cache; the target's whole context if not given.
    """
    capacity_tokens = capacity_tokens or target.numerics.context_tokens
    settings = CompileSettings(precision, capacity_tokens, device)
    # The device itself, since some backends compile to its machine code and several machines may share a cache.
    key = content_key(
        target.fingerprint,
        backend,
        _compiler_versions(backend),
        find_device(device).fingerprint,
        vars(settings),
        PROGRAM_SCHEMA,
    )

    def make(folder: Path) -> None:
        if device == "cpu":
            check_memory(compile_bytes(target.shape, precision, capacity_tokens), f"compiling {target.id}")
        build_program(backend, target.read_weights(), settings, folder)

    return cached_folder("targets", key, make)


def _compiler_versions(backend: str) -> dict[str, str]:
    """Versions of a backend's packages and hashes of our own compiler's sources, without importing either."""
    versions = {}
    for name in find_backend(backend).distributions:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions | source_hashes("autotune.compile")
