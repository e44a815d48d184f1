"""Compiles a candidate inside the sandbox: the job, and the call that asks for it."""

from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock
from pydantic import TypeAdapter

from autotune.compile.base import CompileSettings, build_program
from autotune.compile.sandbox import Limits, Phase, run_sandboxed
from autotune.results import Built, Rejected
from autotune.weights_io import load_weights


@dataclass(frozen=True)
class BuildRequest:
    """What to compile, with what, and where to."""

    weights_folder: str
    """A folder that `weights_io.save_weights` wrote."""
    backend: str
    settings: CompileSettings
    program_folder: str


_REQUEST = TypeAdapter(BuildRequest)
_BUILT = TypeAdapter(Built)


def build_sandboxed(
    request: BuildRequest, limits: Limits, *, threads: int = 1, lock: FileLock | None = None
) -> Built | Rejected:
    """The compiled program, or why there is none."""
    entry = f"{__name__}:{build_job.__name__}"
    outcome = run_sandboxed(entry, asdict(request), Phase.BUILD, limits, threads=threads, lock=lock)
    if isinstance(outcome, Rejected):
        return outcome
    return _BUILT.validate_python(outcome)


def build_job(fields: dict[str, object]) -> dict[str, object]:
    """The fields of the `Built` that compiling the `BuildRequest` of these fields gives; runs in the sandbox."""
    request = _REQUEST.validate_python(fields)
    weights = load_weights(Path(request.weights_folder))
    built = build_program(request.backend, weights, request.settings, Path(request.program_folder))
    return asdict(built)
