"""Compiles a decoder for GPUs with TVM: `lib.so` (host), `kernels.bin`, `weights.bin`, `layout.json`, `program.json`.

No GPU is needed, only a compiler of CUDA.  The program is for the architecture that AUTOTUNE_CUDA_ARCH names, else that
of the GPU at hand, else `DEFAULT_ARCHITECTURE`; newer GPUs run it too.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.candidate import Precision
from autotune.compile.base import CompileSettings
from autotune.cuda_driver import CudaDriver, CudaUnavailable
from autotune.errors import BadRequest
from autotune.program import Drafting, Program
from autotune.shape import Norm, Style
from autotune.tvm_cuda_layout import (
    KERNELS_FILE,
    LIBRARY_FILE,
    WEIGHTS_FILE,
    DeviceBuffer,
    StoredBuffer,
    TvmCudaLayout,
    capability,
)
from autotune.tvm_import import import_tvm_ffi
from autotune.weights import ModelWeights

GRAPH_VERSION = "1"
"""Raise it when the module or the packing of given weights changes: compiled programs are cached by it."""
PRECISIONS = frozenset({Precision.FP32, Precision.FP16, Precision.BF16})
ARCHITECTURE_VARIABLE = "AUTOTUNE_CUDA_ARCH"
DEFAULT_ARCHITECTURE = "sm_80"
"""Data-centre GPUs of 2020 and later, and most others since."""
ALIGNMENT_BYTES = 4096


def unavailable() -> str | None:
    """The remedy if there is no compiler of CUDA; None if there is."""
    if shutil.which("nvcc") or _has_nvrtc():
        return None
    return (
        "TVM compiles kernels with nvcc, which is not on the PATH, or with NVRTC, which is not installed: "
        "install the CUDA toolkit, or pip install cuda-bindings nvidia-cuda-nvrtc"
    )


def find_architecture() -> str:
    """The architecture to compile for; BadRequest if the environment names none that exists."""
    named = os.environ.get(ARCHITECTURE_VARIABLE)
    if named:
        try:
            capability(named)
        except ValueError as error:
            raise BadRequest(f"{ARCHITECTURE_VARIABLE}: {error}") from None
        return named
    try:
        return "sm_" + "".join(map(str, CudaDriver().gpu().capability))
    except CudaUnavailable:
        return DEFAULT_ARCHITECTURE


def missing_piece(style: Style) -> str | None:
    """The first piece of the style that the kernels do not have; None if they have all."""
    pieces = {
        "LayerNorm": style.norm is Norm.LAYER,
        "norm behind a residual sum": not style.norm_first,
        "learned positions": bool(style.learned_positions),
        "FFN without a gate": not style.gated,
        "norm of queries and keys": style.qk_norm,
        "biases": bool(style.biases),
        "embeddings of another width": style.embed_dim is not None,
    }
    return next((piece for piece, wanted in pieces.items() if wanted), None)


def build(weights: ModelWeights, settings: CompileSettings, versions: Mapping[str, str], folder: Path) -> None:
    """Write the program into an existing, empty folder; BadRequest if a piece of the model's style has no kernel."""
    missing = missing_piece(weights.shape.style)
    if missing:
        raise BadRequest(f"backend tvm has no {missing} on cuda yet: use --backend onnxruntime")
    architecture = find_architecture()
    import_tvm_ffi()
    llama, compiler, kernels, sampling = (
        import_module(f"autotune.compile.graphs.{name}")
        for name in ("decoder_tvm_cuda", "tvm_cuda_compiler", "tvm_cuda_kernels", "tvm_cuda_sampling")
    )
    model = llama.CudaDecoder(
        weights.shape, weights.numerics, settings.precision, settings.capacity_tokens, settings.longest_burst
    )
    stored = _write_arrays(model.packed(weights), folder / WEIGHTS_FILE)
    module = model.module({array.name: (array.shape, array.dtype) for array in stored})
    code = compiler.compile_library(module, folder / LIBRARY_FILE, architecture)
    (folder / KERNELS_FILE).write_bytes(code.binary)
    TvmCudaLayout(
        piece_tokens=kernels.PIECE_TOKENS,
        longest_burst=settings.longest_burst,
        state_tokens=kernels.STATE_TOKENS,
        dice_noise=sampling.DICE_NOISE,
        state=_buffers(model.state),
        scratch=_buffers(model.scratch),
        weights=stored,
        caches=_buffers(model.caches),
        weights_bytes=(folder / WEIGHTS_FILE).stat().st_size,
        architecture=architecture,
        library_sha256=hashlib.sha256((folder / LIBRARY_FILE).read_bytes()).hexdigest(),
        kernels_sha256=hashlib.sha256(code.binary).hexdigest(),
        source_sha256=hashlib.sha256(code.source.encode()).hexdigest(),
    ).write(folder)
    Program(
        backend="tvm",
        device=settings.device,
        precision=settings.precision,
        shape=weights.shape,
        numerics=weights.numerics,
        capacity_tokens=settings.capacity_tokens,
        token_ids=None if weights.token_ids is None else tuple(weights.token_ids.tolist()),
        longest_burst=settings.longest_burst,
        drafting=Drafting.BURST if settings.longest_burst else Drafting.CALLS,
        versions=dict(versions),
    ).write(folder)


def _has_nvrtc() -> bool:
    """Whether NVRTC can be called from Python."""
    return find_spec("cuda") is not None and find_spec("cuda.bindings") is not None


def _buffers(sizes: Mapping[str, tuple[tuple[int, ...], str]]) -> tuple[DeviceBuffer, ...]:
    return tuple(DeviceBuffer(name, shape, dtype) for name, (shape, dtype) in sizes.items())


def _write_arrays(arrays: Iterable[tuple[str, NDArray[Any]]], path: Path) -> tuple[StoredBuffer, ...]:
    """Where each array lies in the file just written."""
    stored = []
    with path.open("wb") as file:
        for name, array in arrays:
            file.write(bytes(-file.tell() % ALIGNMENT_BYTES))
            stored.append(StoredBuffer(name, array.shape, str(array.dtype), file.tell()))
            file.write(np.ascontiguousarray(array).data)
    return tuple(stored)
