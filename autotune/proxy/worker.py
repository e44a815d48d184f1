"""`python -m autotune.proxy.worker FOLDER`: one of several processes that train together.

Device, process group and sums over the processes are accelerate's.  `autotune.proxy.workers` writes the folder, starts
the processes and reads what the first of them says: progress, notes, and how it ended.
"""

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from autotune.errors import BadRequest, TrainingDiverged
from autotune.proxy.loss_choice import Loss
from autotune.proxy.place import Place
from autotune.proxy.team import PeersLost, Team
from autotune.proxy.training import Recipe, Trained, logger, torch_threads
from autotune.proxy.training_job import TrainingJob, Watch, train_share
from autotune.tensor_file import write_tensors
from autotune.trace_files import load_traces, save_traces
from autotune.traces import Traces
from autotune.weights import ModelWeights
from autotune.weights_io import load_weights, save_weights

LOST_PEERS = 75
"""Exit code of a process that failed only because another one was gone."""

_PROGRESS_SHARE = 0.002
"""Progress is told when it has grown by so much."""


@dataclass(frozen=True)
class Orders:
    """A training job and its place, but for weights and traces, which lie beside."""

    objective: str
    settings: dict[str, Any]
    steps: int
    recipe: Recipe
    seed: int
    loss: Loss | None
    key: str
    device: str
    processes: int
    threads_each: int
    work_folder: str | None

    @staticmethod
    def of(job: TrainingJob, place: Place, work_folder: str | None) -> "Orders":
        """The orders of a job at a place."""
        return Orders(
            job.objective,
            dict(job.settings),
            job.steps,
            job.recipe,
            job.seed,
            job.loss,
            job.checkpoint_key(place),
            place.device,
            place.processes,
            place.threads_each,
            work_folder,
        )


_ORDERS = TypeAdapter(Orders)


def write_orders(folder: Path, orders: Orders, weights: ModelWeights, traces: Traces) -> None:
    """Write all that the processes need into their folder."""
    (folder / "orders.json").write_bytes(_ORDERS.dump_json(orders))
    save_weights(weights, folder / "weights")
    save_traces(traces, folder / "traces.safetensors")


def trained_file(folder: Path) -> Path:
    """Where the first process leaves the trained tensors."""
    return folder / "trained.safetensors"


def log_file(folder: Path, rank: int) -> Path:
    """What a process writes to its standard output and standard error."""
    return folder / f"process-{rank}.log"


def main() -> int:
    """Take part in the job of a folder; arguments: the folder, the file descriptor for messages.

    Returns the exit code of the process.
    """
    folder, messages = Path(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(messages, False)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    orders = _ORDERS.validate_json((folder / "orders.json").read_bytes())
    team = join_team(folder, orders)

    def say(message: dict[str, Any]) -> None:
        os.write(messages, json.dumps(message).encode() + b"\n")

    try:
        trained = _train(folder, orders, team, say)
    except PeersLost as error:
        print(error, file=sys.stderr)  # noqa: T201 (the log of this process)
        return LOST_PEERS
    except (BadRequest, TrainingDiverged) as error:
        say({"failed": type(error).__name__, "text": str(error)})
        return 1
    if team.leads:
        say({"diverged_at_step": trained.diverged_at_step, "step": trained.step})
    return 0


def join_team(folder: Path, orders: Orders) -> Team:
    """This process's place in its team, by accelerate, once all have come together."""
    from accelerate import PartialState
    from accelerate.utils import check_cuda_p2p_ib_support

    on_cpu = orders.device == "cpu"
    if not on_cpu and not check_cuda_p2p_ib_support():  # accelerate refuses to start without these there
        os.environ |= {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
    state = PartialState(
        cpu=on_cpu,
        backend="gloo" if on_cpu else None,
        init_method=(folder / "rendezvous").as_uri(),
        rank=int(os.environ["RANK"]),
        world_size=orders.processes,
    )
    return Team(state.device, state.process_index, state.num_processes, bf16=not on_cpu)


def _train(folder: Path, orders: Orders, team: Team, say: Callable[[dict[str, Any]], None]) -> Trained:
    """What came of the job; the team's first process leaves its tensors in the folder."""
    job = TrainingJob(
        orders.objective,
        orders.settings,
        load_traces(folder / "traces.safetensors"),
        orders.steps,
        orders.recipe,
        orders.seed,
        orders.loss,
    )
    told = 0.0

    def tell(share: float) -> None:
        nonlocal told
        if share - told >= _PROGRESS_SHARE or share == 1.0:
            told = share
            say({"progress": share})

    watch = Watch(tell, lambda note: say({"note": note})) if team.leads else Watch(on_note=logger.info)
    work_folder = None if orders.work_folder is None else Path(orders.work_folder)
    with torch_threads(orders.threads_each):
        trained = train_share(job, lambda: load_weights(folder / "weights"), team, orders.key, work_folder, watch)
    if team.leads:
        arrays = {name: tensor.numpy() for name, tensor in trained.tensors.items()}
        write_tensors(trained_file(folder), arrays, {})
    return trained


def _end_with_parent() -> None:
    """End this process when the other end of its standard input closes, as it does when the parent dies."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def _exit_code() -> int:
    try:
        return main()
    except Exception:  # noqa: BLE001 (told as the interpreter would)
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    code = _exit_code()
    sys.stdout.flush()
    sys.stderr.flush()
    # Without the interpreter's own end: gloo's threads may still wait for lost processes, which would abort it.
    os._exit(code)
