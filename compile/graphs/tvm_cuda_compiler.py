"""Turns a module of CUDA kernels into what a session loads; needs nvcc or NVRTC, but no GPU.

TVM puts kernels into its library as source, to be compiled when the library is first run.  They are compiled here, and
the session hands the result over when TVM asks for it.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import relax, s_tir, tirx
from tvm.support import nvcc
from tvm.tirx.compilation_pipeline import finalize_device_passes, finalize_host_passes, register_tir_pipeline

from autotune.compile.graphs.llama_tvm import without_checks

_PIPELINE = "autotune-cuda"
_UNROLL = {"tirx.UnrollLoop": {"explicit_unroll": False}}
"""Leaves unrolling to nvcc: the source stays short."""


@dataclass(frozen=True)
class CudaCode:
    """The kernels of a library."""

    source: str
    binary: bytes
    """What the driver loads: machine code and PTX, or PTX alone."""


def compile_library(module: tvm.IRModule, path: Path, architecture: str) -> CudaCode:
    """The module's kernels for an architecture (`sm_80`) and newer ones; its host code becomes a library at `path`."""
    target = tvm.target.Target({"kind": "cuda", "arch": architecture}, host={"kind": "llvm"})
    with target, tvm.transform.PassContext(config=_UNROLL):
        lowered = without_checks(_lowering()(module))
        executable = relax.build(lowered, target, relax_pipeline=None, tir_pipeline=_PIPELINE)
        sources = [part.inspect_source() for part in _parts(executable.mod) if part.kind == "cuda"]
        if len(sources) != 1:
            raise RuntimeError(f"TVM made {len(sources)} CUDA modules instead of one: kernels lack thread bindings")
        executable.export_library(str(path))
        return CudaCode(sources[0], compile_source(sources[0], architecture))


def compile_source(source: str, architecture: str) -> bytes:
    """What the CUDA driver loads of the source: machine code and PTX from nvcc, or PTX from NVRTC where it is missing.

    PTX lets GPUs newer than the architecture run it too.
    """
    if shutil.which("nvcc") is None:
        return bytes(nvcc.compile_cuda(source, "ptx", arch=architecture, compiler="nvrtc"))
    version = architecture.removeprefix("sm_")
    codes = (f"sm_{version}", f"compute_{version}")
    flags = [part for code in codes for part in ("-gencode", f"arch=compute_{version},code={code}")]
    return bytes(nvcc.compile_cuda(source, "fatbin", arch=flags, compiler="nvcc"))


def _lowering() -> Any:
    """TVM's passes from Relax with calls of kernels to its virtual machine; none of them schedules or fuses."""
    return tvm.transform.Sequential(
        [
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )


def _kernel_pipeline() -> tuple[Any, Any, Any]:
    """TVM's passes from kernels to CUDA source, without those that place barriers and share memory between buffers.

    The kernels place their own barriers, under conditions that all threads of a block agree on; TVM's pass refuses
    to work inside conditions.
    """
    passes = [
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.UnifyThreadBinding(),
        s_tir.transform.StmtSimplify(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.NarrowDataType(32),
        tirx.transform.VectorizeLoop(True),
        tirx.transform.UnrollLoop(),
        tirx.transform.StmtSimplify(),
        tirx.transform.RemoveNoOp(),
        s_tir.transform.RewriteUnsafeSelect(),
        tirx.transform.CommonSubexprElim(),
        tirx.transform.VerifyMemory(),
        tirx.transform.AnnotateEntryFunc(),
        tirx.transform.SplitHostDevice(),
        tirx.transform.MakePackedAPI(),
    ]
    return tvm.transform.Sequential(passes), finalize_host_passes, finalize_device_passes


register_tir_pipeline(_PIPELINE, _kernel_pipeline)


def _parts(module: Any) -> Iterator[Any]:
    """The module and all that it imports."""
    yield module
    for part in module.imports:
        yield from _parts(part)
