"""Environments of the peers: made once, with pip, where the benchmark keeps its work."""

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.protocol import EngineFailed

GENAI = ("onnxruntime-genai==0.18.0", "numpy")
OPENVINO = ("openvino-genai==2026.4.1.0", "optimum-intel[openvino]==2.2.0", "torch>=2.11,<2.14")
_UNWANTED = ("torchvision",)
"""Comes with the above, need not fit the torch that is there, and is not used."""


_LIMIT_S = 1800


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """The Python of an environment with these packages; EngineFailed if they cannot be installed."""
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        run([python, "-m", "pip", "install", "--quiet", *packages])
        run([python, "-m", "pip", "uninstall", "--quiet", "--yes", *_UNWANTED])
        done.touch()
    return python


def run(command: Sequence[str | Path]) -> None:
    """Run a command to its end; EngineFailed with the end of what it wrote if it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise EngineFailed(f"{Path(command[0]).name} {command[1]} …: not done within {_LIMIT_S} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise EngineFailed(f"{Path(command[0]).name} {command[1]} …: {' | '.join(lines[-2:])[-400:]}")


OURS = Path(sys.executable)
