"""What a compiler backend must do, and the registry of backends."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from autotune.candidate import Precision
from autotune.errors import BadRequest, unknown_name
from autotune.results import Built
from autotune.weights import ModelWeights


@dataclass(frozen=True)
class CompileSettings:
    """What a program is compiled for."""

    precision: Precision
    capacity_tokens: int
    """Positions of the key/value cache."""
    device: str = "cpu"
    longest_burst: int = 0
    """Bursts of up to this many steps are compiled too, where the backend thinks they may pay; 0 for a target."""
    batch: int = 1
    """Sequences that are decoded at once (see `autotune.runtime.session.BatchSession`)."""
    smaller_batches: tuple[int, ...] = ()
    """Numbers of them, ascending, that can also be given alone: what the others cost is then saved."""


class CompileBackend(Protocol):
    """Compiles a model's decoder into a program folder.  Implementations are stateless."""

    name: str

    def precisions(self, device: str) -> frozenset[Precision]:
        """What it can store matrices as on that kind of device; empty if it has no code for it."""

    def target_precisions(self, device: str) -> frozenset[Precision]:
        """Those of `precisions` in which a token's logits do not depend on how many others share its call.

        A target must be compiled in one of them: it verifies k + 1 tokens at once, and what the pair emits has to be
        what it would have emitted token by token.
        """

    def unavailable(self, device: str) -> str | None:
        """Why this backend cannot compile for that kind of device here, with the remedy; None if it can."""

    def versions(self) -> Mapping[str, str]:
        """Versions of everything that shapes the program it writes; part of cache keys."""

    def build(self, weights: ModelWeights, settings: CompileSettings, folder: Path) -> None:
        """Write `program.json` and the program's files into an existing, empty folder."""


@dataclass(frozen=True)
class BackendEntry:
    """Where a backend's class lives; it is imported only when asked for."""

    path: str
    install: str
    distributions: tuple[str, ...]
    """The packages whose versions shape its programs; some may be absent."""


BACKENDS: Mapping[str, BackendEntry] = {
    "onnxruntime": BackendEntry(
        "autotune.compile.ort_backend:OrtBackend",
        install="pip install onnx onnxruntime-gpu",
        distributions=("onnx", "onnxruntime-gpu", "onnxruntime"),
    ),
    "tvm": BackendEntry(
        "autotune.compile.tvm_backend:TvmBackend",
        install="pip install apache-tvm",
        distributions=("apache-tvm", "apache-tvm-ffi"),
    ),
}


def find_backend(name: str) -> BackendEntry:
    """The registry's entry of that name, nothing imported; BadRequest if it is unknown."""
    if name not in BACKENDS:
        raise unknown_name("backend", name, BACKENDS)
    return BACKENDS[name]


def load_backend(name: str, device: str = "cpu") -> CompileBackend:
    """The backend of that name; BadRequest if it is unknown or cannot compile for that kind of device here."""
    entry = find_backend(name)
    module, _, attribute = entry.path.partition(":")
    try:
        backend: CompileBackend = getattr(import_module(module), attribute)()
    except ImportError as error:
        raise BadRequest(f"backend {name} is not installed ({error}): {entry.install}") from error
    reason = backend.unavailable(device)
    if reason:
        raise BadRequest(f"backend {name} cannot be used here: {reason}")
    return backend


def build_program(backend: str, weights: ModelWeights, settings: CompileSettings, folder: Path) -> Built:
    """Compile into `folder` (made if missing) and say what came out."""
    compiler = load_backend(backend, settings.device)
    if settings.precision not in compiler.precisions(settings.device):
        known = ", ".join(sorted(compiler.precisions(settings.device)))
        raise BadRequest(f"backend {backend} has no {settings.precision} on {settings.device}; it has: {known}")
    positions = weights.shape.style.learned_positions
    if 0 < positions < settings.capacity_tokens:
        raise BadRequest(
            f"this model knows {positions} positions, so it cannot be compiled for {settings.capacity_tokens} tokens: "
            "ask for a shorter context"
        )
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    compiler.build(weights, settings, folder)
    build_s = time.perf_counter() - began
    return Built(str(folder), build_s, weights.shape.weight_bytes(settings.precision))
