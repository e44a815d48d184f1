"""Turns a module of CUDA kernels into what a session loads; needs nvcc or NVRTC, but no GPU.

Where there is no GPU, TVM puts kernels into its library as source, to be compiled when the library is first run.  They
are compiled here all the same, and the session hands the result over when TVM asks for it.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx
from tvm.support import nvcc
from tvm.tirx.compilation_pipeline import finalize_device_passes, finalize_host_passes, register_tir_pipeline

_COMPILE = "tvm_callback_cuda_compile"
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
    with target, tvm.transform.PassContext(config=_UNROLL), _asked_for(architecture) as compiled:
        lowered = _without_checks(_lowering()(module))
        executable = relax.build(lowered, target, relax_pipeline=None, tir_pipeline=_PIPELINE)
        parts = [part for part in _parts(executable.mod) if part.kind == "cuda"]
        if len(parts) != 1:
            raise RuntimeError(f"TVM made {len(parts)} CUDA modules instead of one: kernels lack thread bindings")
        executable.export_library(str(path))
        if not compiled:
            source = parts[0].inspect_source()
            compiled.append(CudaCode(source, compile_source(source, architecture)))
    return compiled[0]


@contextmanager
def _asked_for(architecture: str) -> Iterator[list[CudaCode]]:
    """What TVM asks to be compiled while the context lasts: the kernels if there is a GPU, else nothing."""
    compiled: list[CudaCode] = []

    def answer(source: str) -> bytes:
        compiled.append(CudaCode(source, compile_source(source, architecture)))
        return compiled[-1].binary

    tvm_ffi.register_global_func(_COMPILE, answer, override=True)
    try:
        yield compiled
    finally:
        tvm_ffi.register_global_func(_COMPILE, nvcc.tvm_callback_cuda_compile, override=True)


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


def _without_checks(module: tvm.IRModule) -> tvm.IRModule:
    """The lowered module without the checks of types and shapes at the beginning of every function.

    Sessions bind buffers once, of the sizes the layout says; checking all of them in every step takes the host longer
    than starting the kernels.
    """
    stripped = tvm.IRModule(dict(module.functions_items()), attrs=module.attrs)
    for name, function in module.functions_items():
        if isinstance(function, relax.Function):
            parts = [
                relax.BindingBlock([binding for binding in block.bindings if not _is_check(binding.value)])
                for block in function.body.blocks
            ]
            body = relax.SeqExpr(parts, function.body.body)
            stripped[name] = relax.Function(
                function.params, body, function.ret_ty, is_pure=function.is_pure, attrs=function.attrs
            )
    return stripped


def _is_check(value: Any) -> bool:
    """Whether a bound value is a call of one of the runtime's checks."""
    return (
        isinstance(value, relax.Call)
        and isinstance(value.op, relax.ExternFunc)
        and str(value.op.global_symbol) in ("vm.builtin.check_tensor_info", "vm.builtin.match_shape")
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
