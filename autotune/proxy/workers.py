"""Trains in several processes: writes what they need into a folder, starts them, and follows them to their end.

The processes find each other through accelerate (`autotune.proxy.worker`).  They are started here, not by
`accelerate launch`, which starts several processes on a CPU only through MPI, and hides which of them died of what.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotune.errors import AutotuneError, BadRequest, TrainingDiverged
from autotune.proxy.place import Place
from autotune.proxy.training import Trained
from autotune.proxy.training_job import TrainingJob, Watch
from autotune.proxy.worker import LOST_PEERS, Orders, log_file, trained_file, write_orders
from autotune.tensor_file import open_tensors
from autotune.weights import ModelWeights

_POLL_S = 0.05
_GRACE_S = 2.0
"""When a process is lost, the others fail too; so long is waited to see which was the first."""
_KILL_WAIT_S = 10.0
_LOG_LINES, _LOG_CHARACTERS = 3, 600
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_ERRORS: dict[str, type[AutotuneError]] = {error.__name__: error for error in (BadRequest, TrainingDiverged)}


def run_in_processes(
    job: TrainingJob, weights: ModelWeights, place: Place, work_folder: Path | None, watch: Watch
) -> Trained:
    """The tensors at the end of a job that the place's processes train together.

    Raises what the training raises, and AutotuneError, with the end of what it wrote, where a process died; a training
    with a `work_folder` can then go on from its last checkpoint.
    """
    with _job_folder(work_folder) as folder:
        checkpoints = str(work_folder.absolute()) if work_folder else None
        write_orders(folder, Orders.of(job, place, checkpoints), weights, job.traces)
        del weights  # the processes have copies of their own
        with _started(folder, place) as workers:
            done = workers.follow(watch)
        tensors = {
            name: torch.from_numpy(np.array(stored.read()))
            for name, stored in open_tensors(trained_file(folder)).tensors.items()
        }
    return Trained(tensors, done["diverged_at_step"], done["step"])


@contextmanager
def _job_folder(work_folder: Path | None) -> Iterator[Path]:
    """A folder for what goes to and from the processes; gone when the block ends."""
    try:
        if work_folder:
            work_folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="job-", dir=work_folder)).absolute()
    except OSError as error:
        raise BadRequest(f"cannot write {work_folder}: {error.strerror or error}") from error
    try:
        yield folder
    except OSError as error:
        raise BadRequest(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _started(folder: Path, place: Place) -> Iterator["_Workers"]:
    """The place's processes at their job; none is left when the block ends, however it ends."""
    reading, writing = os.pipe()
    workers = _Workers(folder, reading)
    try:
        for rank in range(place.processes):
            workers.processes.append(_start(folder, place, rank, writing))
        os.close(writing)
        writing = -1
        yield workers
    finally:
        workers.end()
        for descriptor in (reading, writing):
            if descriptor >= 0:
                os.close(descriptor)


def _start(folder: Path, place: Place, rank: int, messages: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {name: str(place.threads_each) for name in _THREAD_VARIABLES}
    environment |= {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    # What accelerate reads, as torchrun would set it.
    environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    environment |= {"WORLD_SIZE": str(place.processes), "LOCAL_WORLD_SIZE": str(place.processes)}
    if sys.platform.startswith("linux"):
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this machine, whatever its name resolves to
    with log_file(folder, rank).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "autotune.proxy.worker", str(folder), str(messages)],
            stdin=subprocess.PIPE,  # never written to: its end tells the process that we are gone
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[messages],
            env=environment,
            start_new_session=True,
        )


class _Workers:
    """Running processes, by rank, and what they say."""

    def __init__(self, folder: Path, messages: int) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self._folder = folder
        self._messages = messages
        self._unread = b""
        os.set_blocking(messages, False)

    def follow(self, watch: Watch) -> dict[str, Any]:
        """What the first process had to say at its end; raises what went wrong."""
        while True:
            codes = [process.poll() for process in self.processes]  # before reading: the dead have said all they had
            for message in self._read():
                if "progress" in message:
                    watch.on_progress(message["progress"])
                elif "note" in message:
                    watch.on_note(message["note"])
                elif "failed" in message:
                    raise _ERRORS[message["failed"]](message["text"])
                else:
                    return message
            if any(codes) or None not in codes:
                raise AutotuneError(self._obituary())
            time.sleep(_POLL_S)

    def end(self) -> None:
        """Kill whatever still runs."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_KILL_WAIT_S)

    def _read(self) -> Iterator[dict[str, Any]]:
        """The messages that arrived, one JSON object a line."""
        with suppress(BlockingIOError):
            while chunk := os.read(self._messages, 1 << 16):
                self._unread += chunk
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            yield json.loads(line)

    def _obituary(self) -> str:
        """Which process died of what: the first to do so, as others fail for the want of it."""
        deadline = time.monotonic() + _GRACE_S
        while True:
            codes = {rank: process.poll() for rank, process in enumerate(self.processes)}
            dead = {rank: code for rank, code in codes.items() if code is not None}
            first = {rank: code for rank, code in dead.items() if code not in (0, LOST_PEERS)}
            if first or time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        rank, code = next(iter((first or dead).items()))
        lines = log_file(self._folder, rank).read_text(errors="replace").split("\n")
        last = " | ".join([line.strip() for line in lines if line.strip()][-_LOG_LINES:])
        return f"process {rank + 1} of {len(self.processes)} that trained together {_cause(code)}; " + (
            f"it wrote: {last[-_LOG_CHARACTERS:]}" if last else "it wrote nothing"
        )


def _cause(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed from outside, most likely for lack of memory"
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
