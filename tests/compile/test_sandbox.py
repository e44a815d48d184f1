import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from autotune.compile.sandbox import STDERR_BYTES, Limits, Phase, run_sandboxed
from autotune.results import Rejected, RejectReason
from tests.support import jobs

PATIENT = Limits(time_s=60)
MIB = 2**20


def run(job: Callable[..., object], request: object, limits: Limits = PATIENT, phase: Phase = Phase.RUN) -> object:
    return run_sandboxed(f"{jobs.__name__}:{job.__name__}", request, phase, limits, threads=1)


def rejected(
    job: Callable[..., object], request: object, limits: Limits = PATIENT, phase: Phase = Phase.RUN
) -> Rejected:
    outcome = run(job, request, limits, phase)
    assert isinstance(outcome, Rejected), outcome
    return outcome


def wait_for_pid(file: Path, timeout_s: float = 20.0) -> int:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if file.exists() and file.read_text():
            return int(file.read_text())
        time.sleep(0.01)
    raise AssertionError(f"{file} was never written")


def assert_gone(pid: int, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} still runs")


@pytest.mark.parametrize("value", [None, 0, False, "text", [1, [2.5]], {"a": {"b": None}}, "line\nline", "ü–漢"])
def test_returns_what_the_job_returns(value: object) -> None:
    assert run(jobs.echo, value) == value


def test_takes_and_gives_more_than_a_pipe_holds() -> None:
    assert run(jobs.echo, "z" * 3_000_000) == "z" * 3_000_000
    assert run(jobs.long_answer, 3_000_000) == "y" * 3_000_000


def test_pins_thread_counts() -> None:
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"]
    outcome = run_sandboxed(f"{jobs.__name__}:environment", names, Phase.RUN, PATIENT, threads=3)
    assert outcome == dict.fromkeys(names, "3")


def test_the_worker_imports_only_what_the_job_needs() -> None:
    loaded = run_sandboxed("tests.support.jobs:loaded_modules", None, Phase.RUN, PATIENT, threads=1)
    assert isinstance(loaded, list)
    assert not {"numpy", "pydantic", "psutil", "torch", "onnx", "onnxruntime"} & set(loaded)


@pytest.mark.parametrize(
    ("phase", "reason"), [(Phase.BUILD, RejectReason.BUILD_TIMEOUT), (Phase.RUN, RejectReason.RUN_TIMEOUT)]
)
def test_kills_a_job_that_hangs(phase: Phase, reason: RejectReason, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    began = time.monotonic()
    outcome = rejected(jobs.hang, str(pid_file), Limits(time_s=1.0), phase)
    assert time.monotonic() - began < 10
    assert outcome.reason is reason
    assert outcome.detail == "killed after 1 s"
    assert_gone(wait_for_pid(pid_file))


def test_kills_children_that_left_the_process_group(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    assert rejected(jobs.hang_with_child, str(pid_file), Limits(time_s=1.5)).reason is RejectReason.RUN_TIMEOUT
    assert_gone(wait_for_pid(pid_file))


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGTERM"])
def test_names_the_signal_a_job_died_of(name: str) -> None:
    outcome = rejected(jobs.die_of, name)
    assert outcome.reason is RejectReason.CRASHED
    assert outcome.detail == f"died of {name}"


def test_a_real_crash_leaves_a_traceback() -> None:
    outcome = rejected(jobs.dereference_null, None)
    assert (outcome.reason, outcome.detail) == (RejectReason.CRASHED, "died of SIGSEGV")
    assert "dereference_null" in outcome.stderr


def test_a_kill_from_outside_counts_as_lack_of_memory() -> None:
    assert rejected(jobs.die_of, "SIGKILL").reason is RejectReason.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("phase", "reason"), [(Phase.BUILD, RejectReason.BUILD_ERROR), (Phase.RUN, RejectReason.RUN_ERROR)]
)
def test_an_exception_is_a_rejection(phase: Phase, reason: RejectReason) -> None:
    outcome = rejected(jobs.fail, "ffn is odd", phase=phase)
    assert outcome.reason is reason
    assert outcome.detail == "ValueError: ffn is odd"
    assert outcome.stderr.rstrip().endswith("ValueError: ffn is odd")
    assert "Traceback" in outcome.stderr


@pytest.mark.parametrize(
    ("entry", "detail"),
    [
        ("tests.support.jobs:no_such_job", "AttributeError"),
        ("no_such_module:job", "ModuleNotFoundError"),
        ("tests.support.jobs:answer_unserialisable", "TypeError"),
    ],
)
def test_a_job_that_cannot_run_is_a_rejection(entry: str, detail: str) -> None:
    outcome = run_sandboxed(entry, None, Phase.RUN, PATIENT, threads=1)
    assert isinstance(outcome, Rejected)
    assert outcome.reason is RejectReason.RUN_ERROR
    assert outcome.detail.startswith(detail)


def test_a_job_that_exits_is_a_rejection() -> None:
    assert rejected(jobs.say_exit, 3).detail == "SystemExit: 3"
    assert rejected(jobs.leave, 0).detail == "exited with code 0 before it answered"


def test_a_job_may_give_its_own_reason() -> None:
    outcome = rejected(jobs.reject, "logits of token 3")
    assert (outcome.reason, outcome.detail) == (RejectReason.NOT_A_NUMBER, "logits of token 3")


def test_kills_a_job_above_its_memory() -> None:
    outcome = rejected(jobs.eat_memory, 8 * MIB, Limits(time_s=60, memory_bytes=200 * MIB))
    assert outcome.reason is RejectReason.OUT_OF_MEMORY
    assert outcome.detail.endswith("limit 200 MiB")


def test_counts_the_memory_of_children() -> None:
    outcome = rejected(jobs.child_eats_memory, 300 * MIB, Limits(time_s=60, memory_bytes=200 * MIB))
    assert outcome.reason is RejectReason.OUT_OF_MEMORY


def test_a_memory_error_is_lack_of_memory() -> None:
    assert rejected(jobs.fail_of_memory, None).reason is RejectReason.OUT_OF_MEMORY


def test_job_output_neither_blocks_nor_forges_the_answer() -> None:
    assert run(jobs.print_much, 8) == "genuine"


def test_keeps_the_end_of_the_output() -> None:
    outcome = run_sandboxed("tests.support.jobs:print_much_and_fail", 8, Phase.RUN, PATIENT, threads=1)
    assert isinstance(outcome, Rejected)
    assert "the last line" in outcome.stderr
    assert len(outcome.stderr) <= STDERR_BYTES


def test_waiting_for_the_lock_has_its_own_limit(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock"):
        outcome = run_sandboxed(
            "tests.support.jobs:echo",
            1,
            Phase.RUN,
            Limits(time_s=60, queue_s=0.3),
            threads=1,
            lock=FileLock(tmp_path / "lock", is_singleton=False),
        )
    assert isinstance(outcome, Rejected)
    assert outcome.reason is RejectReason.QUEUE_TIMEOUT


def test_the_lock_is_held_while_the_job_runs_and_freed_afterwards(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    other = FileLock(tmp_path / "lock", is_singleton=False)
    seen = run_sandboxed(
        "tests.support.jobs:lock_is_free", str(tmp_path / "lock"), Phase.RUN, PATIENT, threads=1, lock=lock
    )
    assert seen is False
    with other.acquire(timeout=0):
        assert not lock.is_locked


PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
from autotune.compile.sandbox import Limits, Phase, run_sandboxed
try:
    run_sandboxed("tests.support.jobs:hang", sys.argv[1], Phase.RUN, Limits(time_s=600), threads=1)
except KeyboardInterrupt:
    sys.exit(77)
"""


def start_parent(pid_file: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    return subprocess.Popen([sys.executable, "-c", PARENT, str(pid_file)], env=environment)


def test_an_interrupt_kills_the_worker_and_propagates(tmp_path: Path) -> None:
    parent = start_parent(tmp_path / "pid")
    worker = wait_for_pid(tmp_path / "pid")
    parent.send_signal(signal.SIGINT)
    assert parent.wait(timeout=20) == 77
    assert_gone(worker)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the kernel's parent-death signal")
def test_the_worker_dies_with_its_parent(tmp_path: Path) -> None:
    parent = start_parent(tmp_path / "pid")
    worker = wait_for_pid(tmp_path / "pid")
    parent.kill()
    parent.wait(timeout=20)
    assert_gone(worker)


def test_leaves_no_file_descriptors_behind() -> None:
    process = psutil.Process()
    run(jobs.echo, 1)
    before = process.num_fds()
    for _ in range(3):
        run(jobs.echo, 1)
        rejected(jobs.die_of, "SIGSEGV")
    assert process.num_fds() == before
