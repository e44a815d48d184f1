"""Memory and speed of drafts at their true size: the research's shapes, compiled and run in workers of their own.

    python -m benchmarks.true_size [--out FILE] [--shapes A,B] [--backends onnxruntime,tvm] [--precisions fp32,int8]

Weights are random: neither memory nor latency depends on their values.  Of each worker two peaks are given.  `resident`
is all that stood in memory, pages of files that are mapped (weights among them) included: the system may take those
back at any time.  `private` is what belongs to the process alone.  Resident memory beyond 1.5 times the weights misses
the target.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from autotune.candidate import DraftShape, Precision
from autotune.compile.base import BACKENDS, CompileSettings, build_program
from autotune.runtime.session import open_session
from autotune.weights import Numerics, random_weights
from benchmarks.record import machine, write_record

SHAPES = {
    "noft-wide-290m": DraftShape(1, 32, 32, 128, 4096, 11008, 32000),
    "noft-wide-543m": DraftShape(3, 32, 32, 128, 4096, 11008, 32000),
    "noft-wide-796m": DraftShape(5, 32, 32, 128, 4096, 11008, 32000),
    "noft-wide-1.3b": DraftShape(12, 20, 20, 128, 2560, 9280, 32000),
    "noft-1.3b": DraftShape(24, 16, 16, 128, 2048, 5504, 32000),
    "llama-7b, 2 layers": DraftShape(2, 32, 32, 128, 4096, 11008, 32000),
}
NUMERICS = Numerics("llama", 1e-5, 10_000.0, 2048)
CONTEXT_TOKENS = 128
CAPACITY_TOKENS = 256
WIDTHS = (1, 5, 9)
REPEATS = 7
TARGET = 1.5
"""Peak resident memory of a worker over the bytes of the program's weights."""
FREE_BYTES = 3 << 30
"""Memory that is left to the rest of the system."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--shapes", default=",".join(name for name in SHAPES if "," not in name))
    parser.add_argument("--backends", default="onnxruntime")
    parser.add_argument("--precisions", default="fp32,int8")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(json.loads(arguments.worker))))
        return
    facts = machine()
    cases = [
        case(name, backend, Precision(precision))
        for name in arguments.shapes.split(",")
        for backend in arguments.backends.split(",")
        for precision in arguments.precisions.split(",")
    ]
    packages = sorted({name for each in arguments.backends.split(",") for name in installed(each)})
    settings = {"context_tokens": CONTEXT_TOKENS, "capacity_tokens": CAPACITY_TOKENS, "threads": 1, "target": TARGET}
    write_record("true_size", facts, {"settings": settings, "cases": cases}, ("numpy", *packages), arguments.out)


def installed(backend: str) -> list[str]:
    """The backend's packages that are there."""
    there = {name for names in packages_distributions().values() for name in names}
    return [name for name in BACKENDS[backend].distributions if name in there]


def case(name: str, backend: str, precision: Precision) -> dict[str, Any]:
    """Figures of one program; or why there are none."""
    shape = SHAPES[name]
    weight_bytes = shape.weight_bytes(precision)
    known = {"shape": name, "parameters": shape.parameters, "backend": backend, "precision": precision}
    known["weight_bytes"] = weight_bytes
    if TARGET * weight_bytes + FREE_BYTES > psutil.virtual_memory().total:
        return known | {"skipped": "too large for this machine"}
    with tempfile.TemporaryDirectory() as folder:
        request = {"shape": name, "backend": backend, "precision": precision, "folder": folder}
        built = in_fresh_process(request | {"job": "build"})
        ran = in_fresh_process(request | {"job": "run"})
    for worker in (built, ran):
        worker["resident_over_weights"] = worker["peak_resident_bytes"] / weight_bytes
        worker["private_over_weights"] = worker["peak_private_bytes"] / weight_bytes
    met = max(built["resident_over_weights"], ran["resident_over_weights"]) <= TARGET
    print(f"{name} {backend} {precision}: {built} {ran}", file=sys.stderr)
    return known | {"build": built, "run": ran, "met": met}


def in_fresh_process(request: dict[str, str]) -> dict[str, Any]:
    """What `work` says, in a new Python."""
    command = [sys.executable, "-m", "benchmarks.true_size", "--worker", json.dumps(request)]
    figures: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return figures


def work(request: dict[str, str]) -> dict[str, Any]:
    """Build or run a program; its figures with the peaks of memory."""
    folder, precision = Path(request["folder"], "program"), Precision(request["precision"])
    if request["job"] == "run":
        return watched(lambda: run(folder))
    weights = random_weights(SHAPES[request["shape"]], NUMERICS)

    def build() -> dict[str, Any]:
        began_s = time.perf_counter()
        build_program(request["backend"], weights, CompileSettings(precision, CAPACITY_TOKENS), folder)
        return {"build_s": time.perf_counter() - began_s}

    return watched(build)


def run(folder: Path) -> dict[str, Any]:
    """Seconds to open the program, and of verifications of some widths; fails if a logit is not a number."""
    began_s = time.perf_counter()
    session = open_session(folder, threads=1)
    opened_s = time.perf_counter() - began_s
    tokens = np.random.default_rng(0).integers(session.program.shape.vocab, size=CONTEXT_TOKENS)
    for start in range(0, CONTEXT_TOKENS, 64):
        logits = session.logits(tokens[start : start + 64], start)
        if not np.isfinite(logits).all():
            raise ValueError("the program's logits are not finite")
    samples: dict[int, list[float]] = {width: [] for width in WIDTHS}
    for _ in range(REPEATS + 1):
        for width, seconds in samples.items():
            began_s = time.perf_counter()
            session.greedy(tokens[:width], CONTEXT_TOKENS)
            seconds.append(time.perf_counter() - began_s)
    # The first of each width binds its buffers.
    return {"open_s": opened_s, "step_s": {width: median(seconds[1:]) for width, seconds in samples.items()}}


def watched(job: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The job's figures with the peaks of this process's memory."""
    over = threading.Event()
    private = [_status_bytes("RssAnon")]

    def watch() -> None:
        while not over.wait(0.01):
            private.append(_status_bytes("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        figures = job()
    finally:
        over.set()
        watcher.join()
    return figures | {"peak_resident_bytes": _status_bytes("VmHWM"), "peak_private_bytes": max(private)}


def _status_bytes(name: str) -> int:
    """A figure of this process from the kernel."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"the kernel does not say {name}")


if __name__ == "__main__":
    main()
