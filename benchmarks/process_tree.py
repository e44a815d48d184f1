"""Runs the real command line and watches the memory of all its processes."""

import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

POLL_S = 0.2


def run_autotune(folder: Path, *words: str) -> tuple[str, int]:
    """Standard output of the command with its cache in `folder`, and the peak resident bytes of its process tree.

    Memory that several processes share, and pages of mapped files, count for each of them: an upper bound.
    """
    environment = {**psutil.Process().environ(), "AUTOTUNE_CACHE": str(folder / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-m", "autotune", *words], stdout=subprocess.PIPE, text=True, env=environment
    )
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process.pid, peak), daemon=True)
    watcher.start()
    output, _ = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"autotune {' '.join(words)} ended with exit code {process.returncode}")
    return output, peak[0]


def _watch(pid: int, peak: list[int]) -> None:
    with suppress(psutil.NoSuchProcess):
        tree = psutil.Process(pid)
        while tree.is_running() and tree.status() != psutil.STATUS_ZOMBIE:
            total = 0
            for member in [tree, *tree.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    total += member.memory_info().rss
            peak[0] = max(peak[0], total)
            time.sleep(POLL_S)
