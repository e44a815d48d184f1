"""`autotune serve` as a process on a free port, for benchmarks that ask it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    process: subprocess.Popen[str]

    @property
    def rss_bytes(self) -> int:
        """Memory that it holds now."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


@contextmanager
def served(artifact: Path, *words: str) -> Iterator[Served]:
    """The server of an artifact, once it answers; killed when the block ends."""
    command = [sys.executable, "-m", "autotune", "serve", str(artifact), "--port", "0", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        if " at http" not in line:
            raise SystemExit(line.strip() or "the server did not start")
        yield Served(line.split(" at ")[1].split()[0], process)
    finally:
        process.kill()
        process.wait()
