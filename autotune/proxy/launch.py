"""Runs a training job where it was asked for: in this process, or in several that share every step."""

from collections.abc import Callable
from pathlib import Path

import torch

from autotune.proxy.place import Place
from autotune.proxy.team import Team
from autotune.proxy.training import Trained, torch_threads
from autotune.proxy.training_job import TrainingJob, Watch, train_share
from autotune.weights import ModelWeights


def run_job(
    job: TrainingJob,
    weights: Callable[[], ModelWeights],
    place: Place,
    *,
    work_folder: Path | None = None,
    watch: Watch | None = None,
) -> Trained:
    """The tensors at the end of a job, trained at a place from `weights()`; what `work_folder` began is taken up.

    weights: called once; the training does not keep its result beside its own copy.  Errors are those of `train`, and
    AutotuneError where a process of several died.
    """
    watch = watch or Watch()
    if place.processes > 1:
        from autotune.proxy.workers import run_in_processes

        return run_in_processes(job, weights(), place, work_folder, watch)
    team = Team(torch.device(place.device), bf16=place.device == "cuda")
    with torch_threads(place.threads_each):
        return train_share(job, weights, team, job.checkpoint_key(place), work_folder, watch)
