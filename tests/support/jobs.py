"""Jobs for the sandbox: `module:function` entries that behave, misbehave, or look into a compiled program."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from autotune.compile.sandbox_worker import CandidateRejected
from autotune.results import RejectReason


def echo(request: Any) -> Any:
    return request


def environment(names: list[str]) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in names}


def loaded_modules(_: Any) -> list[str]:
    return sorted(sys.modules)


def hang(pid_file: str | None) -> None:
    if pid_file:
        Path(pid_file).write_text(str(os.getpid()))
    time.sleep(600)


def hang_with_child(pid_file: str) -> None:
    """Hangs beside a child that has left the worker's process group."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path(pid_file).write_text(str(child.pid))
    time.sleep(600)


def die_of(signal_name: str) -> None:
    os.kill(os.getpid(), signal.Signals[signal_name])
    time.sleep(600)


def dereference_null(_: Any) -> None:
    ctypes.string_at(0)


def leave(code: int) -> None:
    os._exit(code)


def say_exit(code: int) -> None:
    sys.exit(code)


def fail(message: str) -> None:
    raise ValueError(message)


def fail_of_memory(_: Any) -> None:
    raise MemoryError


def reject(detail: str) -> None:
    raise CandidateRejected(RejectReason.NOT_A_NUMBER, detail)


def answer_unserialisable(_: Any) -> object:
    return object()


def eat_memory(step_bytes: int) -> None:
    hoard = []
    while True:
        hoard.append(bytearray(os.urandom(1)) * step_bytes)
        time.sleep(0.005)


def child_eats_memory(size_bytes: int) -> None:
    hog = f"hoard = bytearray(b'x') * {size_bytes}; import time; time.sleep(600)"
    subprocess.run([sys.executable, "-c", hog], check=True)


def print_much(megabytes: int) -> str:
    """Floods standard error and standard output, from Python and from below it."""
    line = "x" * 1023 + "\n"
    for _ in range(megabytes * 1024):
        sys.stderr.write(line)
    sys.stdout.write('{"value": "forged"}\n')
    os.write(1, b'{"value": "forged"}\n')
    sys.stderr.write("the last line\n")
    return "genuine"


def print_much_and_fail(megabytes: int) -> None:
    print_much(megabytes)
    raise ValueError("after all that")


def lock_is_free(path: str) -> bool:
    from filelock import FileLock, Timeout

    try:
        with FileLock(path).acquire(timeout=0):
            return True
    except Timeout:
        return False


def long_answer(size: int) -> str:
    return "y" * size


def greedy_tokens(request: dict[str, Any]) -> list[int]:
    """Arg-max tokens of a compiled program for the request's `tokens`."""
    from autotune.runtime.session import open_session

    session = open_session(Path(request["program"]), threads=1)
    return session.greedy(request["tokens"], 0).tolist()


def modules_after_opening(program: str) -> list[str]:
    """Everything that is imported once a program has been opened and run."""
    greedy_tokens({"program": program, "tokens": [1, 2, 3]})
    return sorted(sys.modules)
