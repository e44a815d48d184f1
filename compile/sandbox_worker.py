"""The process inside the sandbox: runs one job and answers on a pipe of its own.

Standard library only, because every candidate pays for what is imported here.  `sandbox.py` starts it.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.results import RejectReason

PR_SET_PDEATHSIG = 1


class CandidateRejected(Exception):
    """Raised by a job to give its own reason, such as `RejectReason.NOT_A_NUMBER`."""

    def __init__(self, reason: "RejectReason", detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def main() -> None:
    """Run the job described on standard input; arguments: the answer's file descriptor, the parent's process id."""
    answer_fd, parent = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(answer_fd, False)
    _die_with(parent)
    job = json.load(sys.stdin)
    answer = _answer(job["entry"], job["request"])
    sys.stdout.flush()
    sys.stderr.flush()
    with open(answer_fd, "w", encoding="utf-8") as pipe:
        pipe.write(answer + "\n")
    # The job is done and its answer given: skip the interpreter's and the libraries' slow farewell.
    os._exit(0)


def _answer(entry: str, request: object) -> str:
    """What the job came to, as JSON: `{"value": …}`, `{"rejected": …}` or `{"error": …}`."""
    try:
        module, _, name = entry.partition(":")
        function: Callable[[object], object] = getattr(importlib.import_module(module), name)
        return json.dumps({"value": function(request)})
    except CandidateRejected as rejection:
        return json.dumps({"rejected": {"reason": rejection.reason, "detail": rejection.detail}})
    except BaseException as error:  # noqa: BLE001 (whatever a job raises, SystemExit too, is its result)
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return json.dumps({"error": {"message": message, "out_of_memory": isinstance(error, MemoryError)}})


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the parent dies, and before the parent when memory runs out (Linux)."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    with suppress(OSError):  # some containers forbid it; it is a precaution only
        Path("/proc/self/oom_score_adj").write_text("1000")
