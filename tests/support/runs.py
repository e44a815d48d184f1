"""A small real run of the command line on the demo target, for all tests that need one."""

import shlex
import subprocess
import sys
from pathlib import Path

from autotune.targets import demo_folder

SMALL = shlex.split(
    "--layers 1:2 --heads 2,4 --ffn 160:352:192 --lookahead 0:3 --precision fp32 --max-new-tokens 24 --threads 1 "
    "--elastic-budget 2s --finish 1s --validate 2"
)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "autotune", *words]


def autotune(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=300)


def write_prompts(path: Path) -> Path:
    """Thirty of the demo's prompts, in a file."""
    lines = (demo_folder() / "prompts.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[137::9][:30]))
    return path


def small_run(out: Path, prompts: Path) -> Path:
    """The folder of a whole run of four builds."""
    done = autotune("run", "--out", str(out), "--prompts", str(prompts), "--trials", "4", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "report:" in done.stdout
    assert "Traceback" not in done.stderr
    return out
