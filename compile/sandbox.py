"""Runs a job in a fresh process that may hang, crash or eat all memory without harm: whatever happens is a result.

The job is a function of one JSON value that returns another.  Its process has its own session (a terminal's Ctrl-C
does not reach it), pinned thread counts, captured output, and limits of time and memory; it dies with its parent.
Its standard output goes where its standard error goes; the answer travels on a pipe of its own.
"""

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import count

import psutil
from filelock import FileLock, Timeout

from autotune.compile.sandbox_worker import CandidateRejected
from autotune.results import Rejected, RejectReason

__all__ = ["CandidateRejected", "Limits", "Phase", "run_sandboxed"]

logger = logging.getLogger(__name__)

STDERR_BYTES = 8192
"""How much of the end of a job's output is kept."""

LARGE_S_PER_GIB = 60.0
"""Further seconds for every GiB of weights: to write, read and multiply them many times on a slow machine."""

POLL_S = 0.02
KILL_WAIT_S = 10.0
READ_BYTES = 1 << 20
"""More than a pipe holds, so that one read empties it."""

CHILDREN_EVERY_POLLS = 25
"""Listing a worker's own children reads the whole process table, so it happens only every so many polls."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_START_WORKER = "from autotune.compile.sandbox_worker import main; main()"


class Phase(StrEnum):
    """What a job does; decides the names of its failures."""

    BUILD = "build"
    RUN = "run"

    @property
    def error(self) -> RejectReason:
        """The reason when the job raises."""
        return RejectReason.BUILD_ERROR if self is Phase.BUILD else RejectReason.RUN_ERROR

    @property
    def timeout(self) -> RejectReason:
        """The reason when the job takes too long."""
        return RejectReason.BUILD_TIMEOUT if self is Phase.BUILD else RejectReason.RUN_TIMEOUT


@dataclass(frozen=True)
class Limits:
    """What a job may take."""

    time_s: float
    memory_bytes: int | None = None
    """Resident memory of the worker and its children together."""
    queue_s: float = 600.0
    """Waiting for the lock; never counted as the job's time."""

    def for_weights(self, weight_bytes: int) -> "Limits":
        """The same limits with the time that so large a program takes besides."""
        return replace(self, time_s=self.time_s + LARGE_S_PER_GIB * weight_bytes / 2**30)


def run_sandboxed(
    entry: str,
    request: object,
    phase: Phase,
    limits: Limits,
    *,
    threads: int,
    lock: FileLock | None = None,
) -> object | Rejected:
    """What the job `entry` ("module:function") returned for the request, or why there is nothing.

    request: any JSON value.  The lock, if given, is held while the job runs.
    """
    payload = json.dumps({"entry": entry, "request": request})
    try:
        with lock.acquire(timeout=limits.queue_s) if lock else nullcontext():
            return _run(payload, phase, limits, threads)
    except Timeout:
        return Rejected(RejectReason.QUEUE_TIMEOUT, f"waited {limits.queue_s:g} s for the device")


def _run(payload: str, phase: Phase, limits: Limits, threads: int) -> object | Rejected:
    began_s = time.monotonic()
    with _started(payload, threads) as worker:
        failure = worker.watch(phase, limits)
    logger.debug("%s: %.2f s of at most %g s", phase.value, time.monotonic() - began_s, limits.time_s)
    stderr = bytes(worker.output).decode(errors="replace")
    if failure:
        return replace(failure, stderr=stderr)
    if not worker.answered:
        return _death(worker.returncode, phase, stderr)
    answer = json.loads(worker.answer)
    if "value" in answer:
        value: object = answer["value"]
        return value
    if "rejected" in answer:
        return Rejected(RejectReason(answer["rejected"]["reason"]), answer["rejected"]["detail"], stderr)
    reason = RejectReason.OUT_OF_MEMORY if answer["error"]["out_of_memory"] else phase.error
    return Rejected(reason, answer["error"]["message"], stderr)


def _death(returncode: int | None, phase: Phase, stderr: str) -> Rejected:
    """Why a worker that we did not kill is gone without an answer."""
    if returncode == -signal.SIGKILL:
        return Rejected(RejectReason.OUT_OF_MEMORY, "killed from outside, most likely for lack of memory", stderr)
    if returncode is not None and returncode < 0:
        return Rejected(RejectReason.CRASHED, f"died of {signal.Signals(-returncode).name}", stderr)
    return Rejected(phase.error, f"exited with code {returncode} before it answered", stderr)


@contextmanager
def _started(payload: str, threads: int) -> Iterator["_Worker"]:
    """A worker at its job; killed with all its children when the block ends, however it ends."""
    environment = os.environ | {name: str(threads) for name in _THREAD_VARIABLES}
    environment |= {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), "PYTHONFAULTHANDLER": "1"}
    answer_read, answer_write = os.pipe()
    # The request waits in a file, not in a pipe: a worker that never reads it must not block its parent.
    with tempfile.TemporaryFile() as request_file, open(answer_read, "rb", buffering=0):
        request_file.write(payload.encode())
        request_file.seek(0)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START_WORKER, str(answer_write), str(os.getpid())],
                stdin=request_file,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[answer_write],
                env=environment,
                start_new_session=True,
            )
        finally:
            os.close(answer_write)
        assert process.stdout is not None
        worker = _Worker(process, answer_read, process.stdout.fileno())
        try:
            yield worker
        finally:
            worker.end()
            process.stdout.close()


class _Worker:
    """A running worker process and what it has said so far."""

    def __init__(self, process: subprocess.Popen[bytes], answer_fd: int, output_fd: int):
        self.answer = bytearray()
        self.output = bytearray()
        """The last `STDERR_BYTES` of what the job wrote to its standard output and standard error."""
        self._process = process
        self._members = [psutil.Process(process.pid)]
        self._pipes = selectors.DefaultSelector()
        for fd, received in ((answer_fd, self.answer), (output_fd, self.output)):
            os.set_blocking(fd, False)
            self._pipes.register(fd, selectors.EVENT_READ, received)

    @property
    def returncode(self) -> int | None:
        """The worker's return code once it has ended; negative: the signal that killed it."""
        return self._process.returncode

    @property
    def answered(self) -> bool:
        """Whether the answer is complete: it ends with a line end."""
        return self.answer.endswith(b"\n")

    def watch(self, phase: Phase, limits: Limits) -> Rejected | None:
        """None once the worker has answered or died; a rejection (without its output) if it broke a limit."""
        deadline = time.monotonic() + limits.time_s
        for poll in count(1):
            self._receive(POLL_S)
            if self.answered or self._process.poll() is not None:
                return None
            if time.monotonic() > deadline:
                return Rejected(phase.timeout, f"killed after {limits.time_s:g} s")
            if limits.memory_bytes is None:
                continue
            if poll % CHILDREN_EVERY_POLLS == 0:
                self._list_children()
            resident = self._resident_bytes()
            if resident > limits.memory_bytes:
                detail = f"killed at {resident / 2**20:.0f} MiB, limit {limits.memory_bytes / 2**20:.0f} MiB"
                return Rejected(RejectReason.OUT_OF_MEMORY, detail)
        raise AssertionError("count() never ends")

    def end(self) -> None:
        """Kill the worker, if it still runs, and its children; take in what they had left to say."""
        self._list_children()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for member in self._members:
            with suppress(psutil.Error):
                member.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_WAIT_S)
        self._receive(0)
        self._pipes.close()

    def _receive(self, timeout_s: float) -> None:
        """Take in what the pipes hold, waiting for something at most that long."""
        for key, _ in self._pipes.select(timeout_s):
            chunk = os.read(key.fd, READ_BYTES)
            key.data.extend(chunk)
            if not chunk:
                self._pipes.unregister(key.fd)
        del self.output[:-STDERR_BYTES]

    def _resident_bytes(self) -> int:
        """Resident memory of the worker and its children."""
        total = 0
        for member in self._members:
            with suppress(psutil.Error):
                total += member.memory_info().rss
        return total

    def _list_children(self) -> None:
        worker = self._members[0]
        with suppress(psutil.Error):
            self._members = [worker, *worker.children(recursive=True)]
