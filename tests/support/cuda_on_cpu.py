"""Runs programs for CUDA on the CPU: kernels become C++, and a stand-in takes the place of the driver (see the .cpp).

Everything else is the real thing: TVM's generated source, its host code, virtual machine and runtime, and the session.
"""

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

_HERE = Path(__file__).parent
_SONAMES = ("libcuda.so.1", "libcudart.so.13")
_KERNELS_BEGIN = 'extern "C" __global__'


def compiler() -> str | None:
    """The C++ compiler, if there is one that knows 16-bit floats."""
    return shutil.which("g++")


def build_driver(folder: Path) -> dict[str, str]:
    """The environment of a process that has the stand-in as its driver; the libraries are built into the folder."""
    versions = folder / "versions"
    versions.write_text("libcudart.so.13 { global: cuda*; };\n")
    driver, runtime = (folder / name for name in _SONAMES)
    source = str(_HERE / "cuda_on_cpu.cpp")
    _compile(source, "-o", str(driver), f"-Wl,-soname,{driver.name}")
    # One library holds everything; the other only leads to it, under the names with versions that TVM links to.
    _compile(source, "-o", str(runtime), f"-Wl,-soname,{runtime.name}", f"-Wl,--version-script={versions}")
    paths = [str(folder), os.environ.get("LD_LIBRARY_PATH", "")]
    return dict(os.environ) | {"LD_LIBRARY_PATH": ":".join(filter(None, paths))}


def compile_kernels(source: str, folder: Path) -> bytes:
    """The CUDA source as what the stand-in loads, built into the folder: the path of a library, ended by a zero."""
    number = sum(1 for _ in folder.glob("kernels-*.cpp"))
    unit = folder / f"kernels-{number}.cpp"
    counts = "".join(
        f'extern "C" int {name}_arguments = {arguments.count("*")};\n'
        for name, arguments in re.findall(r"(\w+)\(([^)]*)\);$", source, re.MULTILINE)
        if name.endswith("_kernel")
    )
    unit.write_text(f'#include "{_HERE / "cuda_on_cpu.h"}"\n{counts}' + source[source.index(_KERNELS_BEGIN) :])
    library = unit.with_suffix(".so")
    _compile(str(unit), "-w", "-o", str(library))
    return str(library).encode() + b"\0"


def _compile(*arguments: str) -> None:
    flags = ("-O1", "-shared", "-fPIC", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE")
    done = subprocess.run([compiler() or "g++", *flags, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def launch(library: bytes, kernel: bytes, blocks: int, threads: int) -> None:
    """Run a kernel of what `compile_kernels` returned, with null pointers; for a process with the stand-in."""
    driver = ctypes.CDLL(_SONAMES[0], ctypes.RTLD_GLOBAL)
    module, function, null = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    assert driver.cuModuleLoadData(ctypes.byref(module), library) == 0
    assert driver.cuModuleGetFunction(ctypes.byref(function), module, kernel) == 0
    config = (ctypes.c_uint * 16)(blocks, 1, 1, threads, 1, 1)
    parameters = (ctypes.c_void_p * 16)(*[ctypes.addressof(null)] * 16)
    assert driver.cuLaunchKernelEx(config, function, parameters, None) == 0
