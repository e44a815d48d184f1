"""What an all-reduce among GPUs costs: given by the user, or measured with NCCL where there are enough GPUs."""

import statistics
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

from autotune.errors import BadRequest
from autotune.tensor_parallel import TensorParallel

_WARM_UP, _SAMPLES = 50, 300
_RESULT = "seconds"


def check_collective(
    degree: int, collective_s: float | None, device: str, count_gpus: Callable[[], int] | None = None
) -> None:
    """BadRequest if the latency of a collective is needed and there are too few GPUs to measure it, or if it is not."""
    if degree == 1 and collective_s is not None:
        raise BadRequest("--collective-latency is of use only with --target-tp 2 or more")
    if degree == 1 or collective_s is not None:
        return
    gpus = (count_gpus or _count_gpus)() if device == "cuda" else 0
    if gpus < degree:
        raise BadRequest(
            f"--target-tp {degree}: an all-reduce can be measured only with {degree} GPUs, and {gpus or 'none'} can be "
            "used here; give its latency, e.g. --collective-latency 20us"
        )


def tensor_parallel(
    degree: int, collective_s: float | None, *, device: str, hidden: int, positions: int
) -> TensorParallel:
    """The split of a target over `degree` devices, with the seconds of an all-reduce of `[positions, hidden]`.

    `collective_s`: as the user gave it; None: measured.  BadRequest as from `check_collective`.
    """
    check_collective(degree, collective_s, device)
    if degree == 1:
        return TensorParallel()
    return TensorParallel(
        degree, measure_all_reduce(degree, positions, hidden) if collective_s is None else collective_s
    )


def measure_all_reduce(degree: int, positions: int, hidden: int) -> float:
    """Median seconds of an all-reduce of fp16 `[positions, hidden]` among the first `degree` GPUs, one process each."""
    spawn = import_module("torch.multiprocessing").spawn
    with tempfile.TemporaryDirectory() as folder:
        spawn(_all_reduce_worker, args=(degree, positions, hidden, folder), nprocs=degree)
        return float(Path(folder, _RESULT).read_text())


def _all_reduce_worker(rank: int, degree: int, positions: int, hidden: int, folder: str) -> None:
    torch: Any = import_module("torch")
    distributed = import_module("torch.distributed")
    torch.cuda.set_device(rank)
    distributed.init_process_group("nccl", f"file://{folder}/rendezvous", rank=rank, world_size=degree)
    try:
        terms = torch.zeros(positions, hidden, dtype=torch.float16, device="cuda")
        samples_s = []
        for _ in range(_WARM_UP + _SAMPLES):
            distributed.barrier()
            torch.cuda.synchronize()
            began = perf_counter()
            distributed.all_reduce(terms)
            torch.cuda.synchronize()
            samples_s.append(perf_counter() - began)
        if rank == 0:
            Path(folder, _RESULT).write_text(repr(statistics.median(samples_s[_WARM_UP:])))
    finally:
        distributed.destroy_process_group()


def _count_gpus() -> int:
    """GPUs that torch can use here."""
    count: int = import_module("torch").cuda.device_count()
    return count
