"""Imports stay lazy, and the layout's rules hold: each check runs in a fresh process."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = (
    "altair",
    "apache_tvm",
    "huggingface_hub",
    "onnx",
    "onnxruntime",
    "optuna",
    "pandas",
    "scipy",
    "sqlalchemy",
    "torch",
    "transformers",
    "tvm",
    "vl_convert",
)


def modules_after(statement: str) -> set[str]:
    """Top-level names of the modules a fresh interpreter has loaded after the statement."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    "statement",
    [
        "import autotune",
        "import autotune.cli",
        "import autotune.acceptance, autotune.score, autotune.pareto, autotune.store",
        "import autotune.search_space.space",
        "import autotune.reports.markdown, autotune.reports.summarise",
        "import autotune.compile.base, autotune.runtime.session",
    ],
)
def test_import_loads_nothing_heavy(statement: str) -> None:
    assert not modules_after(statement) & set(HEAVY)


def test_core_loads_no_third_party_but_numpy() -> None:
    core = "import autotune.errors, autotune.candidate, autotune.results, autotune.weights, autotune.acceptance"
    loaded = modules_after(core)

    assert "numpy" in loaded
    assert not loaded & {*HEAVY, "pydantic", "safetensors", "tokenizers", "typer", "rich", "psutil", "filelock"}


@pytest.mark.parametrize("statement", ["from autotune.runtime import session, ort_session", "import autotune.pair"])
def test_runtime_needs_no_torch_no_compiler_and_no_optuna(statement: str) -> None:
    assert not modules_after(statement) & {"torch", "transformers", "onnx", "optuna", "tvm", "altair", "vl_convert"}


def test_import_contracts_are_kept() -> None:
    lint_imports = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if lint_imports is None:
        pytest.skip("import-linter is not installed")
    done = subprocess.run([lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout
