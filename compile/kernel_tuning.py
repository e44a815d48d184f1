"""Tunes a TVM program's products in the sandbox: each alone, within a time budget, into a second program beside it.

The second program is the first with another library; the weights are shared.  Whether it is faster as a whole is not
decided here.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from filelock import FileLock
from pydantic import TypeAdapter

from autotune.compile.sandbox import Limits, Phase, run_sandboxed
from autotune.compile.schedule import Schedule, default_schedule
from autotune.compile.schedule_search import search
from autotune.compile.tvm_host import host_target
from autotune.program import Program
from autotune.results import Rejected
from autotune.tvm_import import torch_left_out
from autotune.tvm_layout import LIBRARY_FILE, WEIGHTS_FILE, TvmLayout

PAIRS = 9
"""Times that two schedules are run in turn; at least."""
RACE_S = 0.04
"""For less than this a race goes on, up to `MOST_PAIRS`."""
MOST_PAIRS = 60
MOST_FOREIGN_BYTES = 64 << 20


@dataclass(frozen=True)
class TuningRequest:
    """Which program to tune, for how long, and where to write the tuned one (a folder that does not exist yet)."""

    program: str
    tuned_program: str
    budget_s: float
    threads: int
    seed: int


@dataclass(frozen=True)
class Tuned:
    """What the search came to."""

    schedules: dict[str, Schedule]
    """By matrix, where another than the default one is faster; if there is none, no program was written."""
    tried: int
    seconds: float


def tune_sandboxed(request: TuningRequest, limits: Limits, lock: FileLock) -> Tuned | Rejected:
    """The outcome of tuning in a worker that may crash or hang."""
    entry = f"{__name__}:{tuning_job.__name__}"
    outcome = run_sandboxed(entry, asdict(request), Phase.BUILD, limits, threads=request.threads, lock=lock)
    return outcome if isinstance(outcome, Rejected) else TypeAdapter(Tuned).validate_python(outcome)


def tuning_job(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the `Tuned` for a `TuningRequest` of these fields; runs in the sandbox."""
    request = TypeAdapter(TuningRequest).validate_python(fields)
    os.environ |= {"TVM_NUM_THREADS": str(request.threads), "TVM_BIND_THREADS": "0"}
    with torch_left_out():
        from autotune.compile.graphs.tvm_matrix_alone import products
    began = time.monotonic()
    program = Program.read(Path(request.program))
    todo = sorted(products(program.shape, program.precision), key=lambda each: -each.weight_bytes)
    total_bytes = sum(each.weight_bytes for each in todo)
    schedules, tried = {}, 0
    for place, product in enumerate(todo):
        left_s = request.budget_s - (time.monotonic() - began)
        end = time.monotonic() + left_s / (len(todo) - place)
        bench = _Bench(product, total_bytes - product.weight_bytes)
        default = default_schedule(program.precision)
        found = search(default, bench.race, lambda end=end: time.monotonic() < end, request.seed + place)  # type: ignore[misc]
        tried += found.tried
        if found.schedule != default:
            schedules[product.name] = found.schedule
    if schedules:
        write_tuned(Path(request.program), schedules, Path(request.tuned_program))
    return asdict(Tuned(schedules, tried, time.monotonic() - began))


def write_tuned(untuned: Path, schedules: Mapping[str, Schedule], folder: Path) -> None:
    """Write the program with these schedules into a new folder."""
    from autotune.compile.graphs.decoder_tvm import Model, decoder_module
    from autotune.compile.tvm_backend import compile_library

    program = Program.read(untuned)
    shutil.copytree(untuned, folder, copy_function=_link_weights)
    model = Model(program.shape, program.numerics.norm_eps, program.precision, program.capacity_tokens)
    library = folder / LIBRARY_FILE
    compile_library(decoder_module(model, schedules), library)
    layout = TvmLayout.read(untuned)
    replace(layout, library_sha256=hashlib.sha256(library.read_bytes()).hexdigest()).write(folder)


def _link_weights(source: str, destination: str) -> None:
    """Copy a file of a program, but let the weights, which nobody changes, exist once."""
    if Path(source).name == WEIGHTS_FILE:
        try:
            os.link(source, destination)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, destination)
    elif Path(source).name != LIBRARY_FILE:
        shutil.copyfile(source, destination)


class _Bench:
    """Times schedules of one product, with its weights as cold as the rest of the program leaves them."""

    def __init__(self, product: Any, others_bytes: int):
        import tvm

        from autotune.compile.graphs.tvm_matrix_alone import buffers

        self._product, self._tvm = product, tvm
        self._target = host_target()
        self._arguments = [_filled(size, dtype) for size, dtype in buffers(product).values()]
        self._foreign = np.ones(min(others_bytes, MOST_FOREIGN_BYTES) // 8)
        self._built: dict[Schedule, Callable[[], object]] = {}

    def race(self, champion: Schedule, challenger: Schedule) -> float | None:
        """How many times faster the challenger is; None if TVM cannot build it."""
        try:
            runs = [self._run(champion), self._run(challenger)]
        except self._tvm.error.InternalError:
            return None
        for run in runs:
            run()
        seconds: tuple[list[float], list[float]] = [], []
        while len(seconds[0]) < PAIRS or (sum(map(sum, seconds)) < RACE_S and len(seconds[0]) < MOST_PAIRS):
            turn = (0, 1) if len(seconds[0]) % 2 else (1, 0)
            for who in turn:
                self._foreign.sum()
                began = time.perf_counter()
                runs[who]()
                seconds[who].append(time.perf_counter() - began)
        return median(before / after for before, after in zip(*seconds, strict=True))

    def _run(self, schedule: Schedule) -> Callable[[], object]:
        if schedule not in self._built:
            from autotune.compile.graphs.tvm_matrix_alone import matrix_module

            function = self._tvm.tirx.build(matrix_module(self._product, schedule), self._target)["run"]
            self._built[schedule] = lambda: function(*self._arguments)
        return self._built[schedule]


def _filled(size: tuple[int, ...], dtype: str) -> Any:
    """A tensor of ones on whole cache lines; of memory never written the system would hand out the same page again."""
    import tvm_ffi

    count = int(np.prod(size)) * np.dtype(dtype).itemsize
    memory = np.zeros(count + 4096, np.uint8)
    array = memory[-memory.ctypes.data % 4096 :][:count].view(dtype)
    array[:] = 0x3F800000 if dtype == "uint32" else 1  # four-bit values share words with scales: these become 1.0
    return tvm_ffi.from_dlpack(array.reshape(size))
