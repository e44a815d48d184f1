"""Where trainings run: on the CPU or a GPU, in one process or in several that share every step."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from autotune.devices import cpu_cores
from autotune.errors import BadRequest


@dataclass(frozen=True)
class Place:
    """A kind of device, and the processes that train on it together."""

    device: Literal["cpu", "cuda"] = "cpu"
    processes: int = 1
    """On CUDA, each has a GPU of its own; on the CPU, a core."""
    threads: int = 1
    """Of all processes together."""

    @property
    def threads_each(self) -> int:
        """Threads of one process: its share of all, at least one."""
        return max(1, self.threads // self.processes)


HERE = Place()
"""One process with one thread on the CPU."""


def find_place(device: str, processes: int | None, threads: int) -> Place:
    """The place that was asked for; BadRequest if this machine has none such.

    `auto` is a GPU where torch can use one.  Where the number of processes is left open, it is that of the GPUs, or
    one on the CPU.
    """
    torch: Any = import_module("torch")  # loaded only where something is trained
    gpus = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if device == "cuda" and not gpus:
        raise BadRequest(
            f"--train-device cuda: torch {torch.__version__} finds no GPU: leave it out, or install torch for CUDA"
        )
    if not gpus:
        if processes is not None and processes > (cores := cpu_cores()):
            raise BadRequest(
                f"--train-processes {processes}: each needs a core of its own, and there {_are(cores)}; ask for fewer"
            )
        return Place("cpu", processes or 1, threads)
    if processes is not None and processes > gpus:
        raise BadRequest(
            f"--train-processes {processes}: each needs a GPU of its own, and there {_are(gpus)}; "
            f"ask for fewer, or for --train-device cpu"
        )
    return Place("cuda", processes or gpus, threads)


def _are(count: int) -> str:
    return f"is {count}" if count == 1 else f"are {count}"
