"""TVM's programs for CUDA, run without a GPU: the kernels' source as C++, everything else as it is on a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import cuda_on_cpu

pytest.importorskip("tvm", reason="apache-tvm is not installed")

ROOT = Path(__file__).parents[2]
SUITE = "tests/support/tvm_cuda_on_cpu.py"
QUICK = (
    "(four_columns and fp16) or (decode or moved or (burst and one and 4)) and grouped and not sampled and not trimmed"
    " or (trimmed_head_draws and odd and one) or (precisions and odd and bf16)"
)
"""Tests that between them run every kernel, in every way of storing numbers."""


def run_suite(folder: Path, *options: str) -> str:
    """What pytest says of the suite, in a process with the stand-in for the driver; it must have passed."""
    if cuda_on_cpu.compiler() is None:
        pytest.skip("g++ is missing, which compiles the kernels for the CPU")
    environment = cuda_on_cpu.build_driver(folder)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", SUITE, *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_kernels_on_the_cpu_pass_a_part_of_the_conformance_suite(tmp_path: Path) -> None:
    assert " passed" in run_suite(tmp_path, "-k", QUICK)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_kernels_on_the_cpu_pass_the_whole_conformance_suite(tmp_path: Path) -> None:
    assert " passed" in run_suite(tmp_path)


def test_the_stand_in_notices_a_barrier_that_some_threads_miss(tmp_path: Path) -> None:
    """So that agreement means that barriers are where they must be."""
    if cuda_on_cpu.compiler() is None:
        pytest.skip("g++ is missing, which compiles the kernels for the CPU")
    environment = cuda_on_cpu.build_driver(tmp_path)
    kernel = """extern "C" __global__ void some_kernel(float* x_ptr);
extern "C" __global__ void some_kernel(float* x_ptr) {
  if (threadIdx.x < 3) __syncthreads();
}
"""
    library = cuda_on_cpu.compile_kernels(kernel, tmp_path)
    program = f"from tests.support.cuda_on_cpu import launch; launch({library!r}, b'some_kernel', 1, 32)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "a barrier or shuffle that not all threads come to" in done.stderr
