"""Where a result came from: versions, command line and revision, as they are written into artifacts and reports."""

import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import autotune

_DISTRIBUTIONS = (
    "draft-autotune",
    "numpy",
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "apache-tvm",
    "optuna",
)

_SECRET = "--api-key"
"""The option whose value must not be written anywhere."""


def package_versions(names: Iterable[str] = _DISTRIBUTIONS) -> dict[str, str]:
    """Versions of the installed distributions among `names`, without importing any."""
    found = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def command_words() -> list[str]:
    """The words of this process's command, its program by name and without secrets."""
    program, *arguments = sys.argv or [""]
    path = Path(program)
    words = ["python", "-m", path.parent.name] if path.name == "__main__.py" else [path.name]
    for argument in arguments:
        secret = words[-1] == _SECRET
        words.append("…" if secret else f"{_SECRET}=…" if argument.startswith(f"{_SECRET}=") else argument)
    return words


def git_revision() -> str | None:
    """The revision of the checkout this package runs from; None where it is installed or git is missing."""
    root = Path(autotune.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        shown = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return shown.stdout.strip() or None
