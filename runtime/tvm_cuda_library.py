"""Loads what TVM compiled for a GPU: its host library, and the kernels the library asks for.

The library of a program that was built without a GPU holds the kernels as source, which TVM has compiled by a global
function when they are first run.  The builder has done so already, and that function only hands over the result: no
compiler is needed here.
"""

import ctypes
import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autotune.errors import ArtifactError
from autotune.runtime.tvm_session import load_runtime
from autotune.tvm_cuda_layout import KERNELS_FILE, LIBRARY_FILE, TvmCudaLayout, capability
from autotune.tvm_import import import_tvm_ffi

CPU, GPU = 1, 2
"""Kinds of devices, as DLPack numbers them."""
_POOLED_ALLOCATOR = 2
_COMPUTE_VERSION = 4
"""The attribute of a device that says its compute capability."""
_RUNTIME_LIBRARY = "libtvm_runtime_cuda"
_CUDA_RUNTIME = "libcudart.so.*"
_COMPILE = "tvm_callback_cuda_compile"

_kernels: dict[str, bytes] = {}
"""Compiled kernels of the programs opened so far, by the checksum of their source."""


def load_program(folder: Path, layout: TvmCudaLayout) -> Any:
    """TVM's virtual machine with the folder's library; ArtifactError if it cannot run here."""
    _checked(folder / LIBRARY_FILE, layout.library_sha256)
    kernels = _checked(folder / KERNELS_FILE, layout.kernels_sha256)
    ffi = load_runtime()
    _load_cuda(folder)
    present = ffi.get_global_func("runtime.GetDeviceAttr")(GPU, 0, _COMPUTE_VERSION)
    if present is None:
        raise ArtifactError(f"{folder} was compiled for a GPU, and TVM finds none here")
    if tuple(map(int, str(present).split("."))) < capability(layout.architecture):
        raise ArtifactError(
            f"{folder} was compiled for GPUs from {layout.architecture} on, and this one has a compute capability of "
            f"{present}: compile the draft again on this machine"
        )
    _kernels[layout.source_sha256] = kernels
    ffi.register_global_func(_COMPILE, _compiled, override=True)
    try:
        machine = ffi.load_module(str(folder / LIBRARY_FILE))["vm_load_executable"]()
        machine["vm_initialization"](GPU, 0, _POOLED_ALLOCATOR, CPU, 0, _POOLED_ALLOCATOR)
    except (RuntimeError, AttributeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(f"{folder} cannot be loaded by TVM: {reason}") from error
    return machine


def _checked(path: Path, sha256: str) -> bytes:
    """The file's content; ArtifactError if it is missing or its checksum is another."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path.parent} is incomplete: {path.name} is missing; compile the draft again") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ArtifactError(f"{path} is corrupt: its checksum is wrong; compile the draft again")
    return content


def _compiled(source: str) -> bytes:
    """The kernels compiled from the source."""
    return _kernels[hashlib.sha256(source.encode()).hexdigest()]


def _load_cuda(folder: Path) -> None:
    """Load TVM's code for CUDA devices; ArtifactError if it, or what it needs, is missing."""
    found = find_spec("tvm")
    packages = (found.submodule_search_locations if found else None) or ()
    libraries = [path for package in packages for path in sorted(Path(package, "lib").glob(f"{_RUNTIME_LIBRARY}.*"))]
    if not libraries:
        raise ArtifactError(f"the installed tvm has no {_RUNTIME_LIBRARY}, which {folder} needs: install another build")
    try:
        try:
            ctypes.CDLL(str(libraries[0]), ctypes.RTLD_GLOBAL)
        except OSError:
            _load_cuda_runtime()
            ctypes.CDLL(str(libraries[0]), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ArtifactError(
            f"{folder} was compiled for a GPU, and TVM's code for GPUs cannot be loaded ({error}): it needs an NVIDIA "
            "driver and the CUDA 13 runtime (pip install nvidia-cuda-runtime)"
        ) from None


def _load_cuda_runtime() -> None:
    """Load the CUDA runtime of NVIDIA's Python packages, if there is one: TVM's code does not look for it there."""
    found = find_spec("nvidia")
    for package in (found.submodule_search_locations if found else None) or ():
        for library in sorted(Path(package).glob(f"*/lib/{_CUDA_RUNTIME}")):
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def device() -> Any:
    """The first GPU, as TVM names it."""
    return import_tvm_ffi().device("cuda", 0)
