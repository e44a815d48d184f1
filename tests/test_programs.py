import subprocess
import sys
from pathlib import Path

import pytest

from autotune.errors import BadRequest
from autotune.program import Program
from autotune.programs import compile_target
from autotune.targets import resolve_target


def test_a_target_is_compiled_once_per_capacity(tiny_checkpoint: Path) -> None:
    target = resolve_target(str(tiny_checkpoint))
    folder = compile_target(target, "onnxruntime")
    built = Program.read(folder)
    assert (built.shape, built.numerics, built.capacity_tokens) == (target.shape, target.numerics, 64)
    made = (folder / "program.json").stat().st_mtime_ns
    assert compile_target(target, "onnxruntime") == folder
    assert (folder / "program.json").stat().st_mtime_ns == made
    other = compile_target(target, "onnxruntime", capacity_tokens=32)
    assert other != folder
    assert Program.read(other).capacity_tokens == 32


def test_a_cached_target_needs_no_compiler(tiny_checkpoint: Path) -> None:
    folder = compile_target(resolve_target(str(tiny_checkpoint)), "onnxruntime")
    script = f"""
import sys
from autotune.programs import compile_target
from autotune.targets import resolve_target
folder = compile_target(resolve_target({str(tiny_checkpoint)!r}), "onnxruntime")
heavy = {{"onnx", "onnxruntime", "torch", "transformers", "optuna"}} & set(sys.modules)
sys.stdout.write(f"{{folder}} {{sorted(heavy)}}")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{folder} []"


def test_unknown_backends_are_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(BadRequest, match="unknown backend 'onyx'; choose from: onnxruntime"):
        compile_target(resolve_target(str(tiny_checkpoint)), "onyx")
