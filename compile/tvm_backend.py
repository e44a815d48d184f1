"""Compiles a decoder for CPUs with TVM: `lib.so`, its weights in `weights.bin`, `layout.json` and `program.json`.

The library is machine code for this processor; the layout records its instruction sets, and the session refuses a
processor that lacks them.
"""

import hashlib
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autotune.candidate import Precision
from autotune.compile import tvm_cuda
from autotune.compile.base import CompileSettings
from autotune.compile.graphs.tvm_packing import write_arena
from autotune.compile.tvm_host import host_target
from autotune.devices import find_device
from autotune.errors import BadRequest
from autotune.program import Drafting, Program
from autotune.tvm_import import torch_left_out
from autotune.tvm_layout import LIBRARY_FILE, WEIGHTS_FILE, TvmLayout
from autotune.weights import ModelWeights

GRAPH_VERSION = "5"
"""Raise it when the function or the packing of given weights changes: compiled programs are cached by it."""
LINKERS = ("g++", "c++", "clang++")
"""TVM links with the first of these; it looks for them itself."""


class TvmBackend:
    """TVM's LLVM and CUDA code generators, from kernels scheduled by hand."""

    name = "tvm"

    def precisions(self, device: str) -> frozenset[Precision]:
        """Fp32, int8 and int4 (weights only: they become floats in registers) on the CPU; fp32 and halves on a GPU."""
        if device == "cuda":
            return tvm_cuda.PRECISIONS
        return frozenset({Precision.FP32, Precision.INT8, Precision.INT4} if device == "cpu" else ())

    def target_precisions(self, device: str) -> frozenset[Precision]:
        """All of them: activations are never rounded."""
        return self.precisions(device)

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
            "autotune-tvm": GRAPH_VERSION,
            "autotune-tvm-cuda": tvm_cuda.GRAPH_VERSION,
        }

    def build(self, weights: ModelWeights, settings: CompileSettings, folder: Path) -> None:
        """Write the program into an existing, empty folder."""
        if settings.batch > 1:
            raise BadRequest(
                f"backend {self.name} compiles for one sequence at a time, not for {settings.batch}: use onnxruntime"
            )
        if settings.device == "cuda":
            tvm_cuda.build(weights, settings, self.versions(), folder)
            return
        precision, capacity_tokens = settings.precision, settings.capacity_tokens
        with ThreadPoolExecutor(1) as beside:  # packing is NumPy's work and the disk's, compiling is TVM's
            packed = beside.submit(_write_weights, weights, settings, folder / WEIGHTS_FILE)
            decoder_tvm = _builder()
            model = decoder_tvm.Model(weights.shape, weights.numerics.norm_eps, precision, capacity_tokens)
            compile_library(decoder_tvm.decoder_module(model), folder / LIBRARY_FILE)
            packed.result()
        TvmLayout(
            piece_tokens=decoder_tvm.PIECE_TOKENS,
            longest_burst=decoder_tvm.LONGEST_BURST,
            logits_shape=model.logits_shape,
            scratch_floats=model.scratch_floats,
            cache_shapes=model.cache_shapes,
            code_type=model.code_type,
            weights_bytes=(folder / WEIGHTS_FILE).stat().st_size,
            library_sha256=hashlib.sha256((folder / LIBRARY_FILE).read_bytes()).hexdigest(),
            features=find_device("cpu").features,
            stops=True,
        ).write(folder)
        Program(
            backend=self.name,
            device=settings.device,
            precision=precision,
            shape=weights.shape,
            numerics=weights.numerics,
            capacity_tokens=capacity_tokens,
            token_ids=None if weights.token_ids is None else tuple(weights.token_ids.tolist()),
            longest_burst=decoder_tvm.LONGEST_BURST,
            drafting=Drafting.BURST,
            versions=dict(self.versions()),
        ).write(folder)


def compile_library(module: Any, path: Path) -> None:
    """Compile the module for this machine's processor into a shared library at `path`."""
    tvm = import_module("tvm")
    tvm.tirx.build(module, host_target()).export_library(str(path))


def _write_weights(weights: ModelWeights, settings: CompileSettings, path: Path) -> None:
    with path.open("wb") as file:
        write_arena(weights, settings.precision, settings.capacity_tokens, file)


def _builder() -> Any:
    """The module `decoder_tvm`; imported when needed, since it loads TVM, and who asks for precisions need not wait."""
    with torch_left_out():
        return import_module("autotune.compile.graphs.decoder_tvm")
