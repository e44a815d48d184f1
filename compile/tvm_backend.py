"""Compiles a decoder for CPUs with TVM: `lib.so`, its arrays in `weights.bin`, `layout.json` and `program.json`.

The library is machine code for this processor; the layout records its instruction sets, and the session refuses a
processor that lacks them.
"""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from autotune.candidate import Precision
from autotune.compile import tvm_cuda
from autotune.compile.base import CompileSettings
from autotune.devices import find_device
from autotune.errors import BadRequest
from autotune.program import Drafting, Program
from autotune.tvm_import import import_tvm_ffi
from autotune.tvm_layout import LIBRARY_FILE, WEIGHTS_FILE, StoredArray, TvmLayout
from autotune.weights import FloatArray, ModelWeights

ALIGNMENT_BYTES = 4096
LINKERS = ("g++", "c++", "clang++")
"""TVM links with the first of these; it looks for them itself."""


class TvmBackend:
    """TVM's LLVM and CUDA code generators, from kernels scheduled by hand."""

    name = "tvm"

    def precisions(self, device: str) -> frozenset[Precision]:
        """Fp32 on the CPU; fp32 and both half precisions on a GPU."""
        if device == "cuda":
            return tvm_cuda.PRECISIONS
        return frozenset({Precision.FP32} if device == "cpu" else ())

    def unavailable(self, device: str) -> str | None:
        """The remedy if TVM or a linker is missing; None if both are here."""
        if find_spec("tvm") is None:
            return "apache-tvm is not installed: pip install 'apache-tvm>=0.27'"
        if not any(shutil.which(linker) for linker in LINKERS):
            return f"TVM links programs with a C++ compiler, and none of {', '.join(LINKERS)} is here: install g++"
        return tvm_cuda.unavailable() if device == "cuda" else None

    def versions(self) -> Mapping[str, str]:
        """Versions of TVM and of the module builder."""
        return {
            "apache-tvm": version("apache-tvm"),
            "apache-tvm-ffi": version("apache-tvm-ffi"),
            "autotune-tvm-llama": _builder().GRAPH_VERSION,
            "autotune-tvm-cuda": tvm_cuda.GRAPH_VERSION,
        }

    def build(self, weights: ModelWeights, settings: CompileSettings, folder: Path) -> None:
        """Write the program into an existing, empty folder."""
        if weights.numerics.family != "llama":
            raise BadRequest(f"backend {self.name} builds llama models, not {weights.numerics.family!r}")
        if settings.device == "cuda":
            tvm_cuda.build(weights, settings, self.versions(), folder)
            return
        capacity_tokens = settings.capacity_tokens
        llama_tvm = _builder()
        stored = _write_arrays(llama_tvm.packed_weights(weights, capacity_tokens), folder / WEIGHTS_FILE)
        shapes = {array.name: array.shape for array in stored}
        module = llama_tvm.llama_module(shapes, weights.shape, weights.numerics.norm_eps, capacity_tokens)
        llama_tvm.compile_library(module, folder / LIBRARY_FILE)
        TvmLayout(
            piece_tokens=llama_tvm.PIECE_TOKENS,
            longest_burst=llama_tvm.LONGEST_BURST,
            logits_shape=llama_tvm.logits_shape(weights.shape),
            scratch_shapes=tuple(llama_tvm.scratch_shapes(weights.shape).values()),
            cache_shapes=tuple(llama_tvm.cache_shapes(weights.shape, capacity_tokens).values()),
            weights=stored,
            weights_bytes=(folder / WEIGHTS_FILE).stat().st_size,
            library_sha256=hashlib.sha256((folder / LIBRARY_FILE).read_bytes()).hexdigest(),
            features=find_device("cpu").features,
        ).write(folder)
        Program(
            backend=self.name,
            device=settings.device,
            precision=settings.precision,
            shape=weights.shape,
            numerics=weights.numerics,
            capacity_tokens=capacity_tokens,
            longest_burst=llama_tvm.LONGEST_BURST,
            drafting=Drafting.BURST,
            versions=dict(self.versions()),
        ).write(folder)


def _builder() -> Any:
    """The module `llama_tvm`; imported when needed, since it loads TVM and a question for precisions need not wait."""
    import_tvm_ffi()
    return import_module("autotune.compile.graphs.llama_tvm")


def _write_arrays(arrays: Iterator[tuple[str, FloatArray]], path: Path) -> tuple[StoredArray, ...]:
    """Where each array lies in the file just written."""
    stored = []
    with path.open("wb") as file:
        for name, array in arrays:
            file.write(bytes(-file.tell() % ALIGNMENT_BYTES))
            stored.append(StoredArray(name, array.shape, file.tell()))
            file.write(np.ascontiguousarray(array, np.float32).data)
    return tuple(stored)
