"""A training described so that any process can set it up: what every trained estimator and the finish go through.

An estimator gives the weights to begin with, the traces to learn from, and the name of a function that makes the
objective of them.  `autotune.proxy.launch` then trains here, or in several processes that share every step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autotune.cache import content_key
from autotune.errors import BadRequest
from autotune.proxy.batches import Batches
from autotune.proxy.loss_choice import Loss
from autotune.proxy.network import Network, network_of
from autotune.proxy.place import Place
from autotune.proxy.team import Team
from autotune.proxy.training import Companions, Note, Progress, Recipe, Trained, logger, train
from autotune.traces import Traces
from autotune.weights import ModelWeights


@dataclass(frozen=True)
class TrainingObjective:
    """What a training minimises."""

    loss_at: Callable[[int], Tensor]
    """The mean loss over the positions of a step's batch; a function of the step and the tensors alone."""
    companions: Sequence[Companions] = ()
    """What is trained beside the network; on its device."""
    positions_at: Callable[[int], int] | None = None
    """How many positions of a step's batch, or of this process's share of it, the loss is the mean over; the labelled
    ones if None."""


MakeTrainingObjective = Callable[[Network, Batches, Mapping[str, Any]], TrainingObjective]
"""Makes the objective of a network, of batches (its process's share, on its device) and of the job's settings."""


@dataclass(frozen=True)
class TrainingJob:
    """A training as any process can set it up."""

    objective: str
    """`module:function`, a `MakeTrainingObjective`."""
    settings: Mapping[str, Any]
    """For the objective: JSON values."""
    traces: Traces
    """To learn from."""
    steps: int
    recipe: Recipe
    seed: int
    """Of the batches."""
    loss: Loss | None = None
    """What batches are to be learned by; the best for such traces if None."""

    def checkpoint_key(self, place: Place) -> str:
        """Names all that makes the trained weights, but for the steps, the recipe, and what a work folder is keyed by:
        the weights to begin with and the traces."""
        return content_key(
            self.objective,
            self.settings,
            self.traces.settings,
            self.seed,
            self.loss,
            place.device,
            place.processes,
        )


@dataclass(frozen=True)
class Watch:
    """Follows a training from outside."""

    on_progress: Progress = field(default=lambda _: None)
    on_note: Note = logger.warning


def train_share(
    job: TrainingJob,
    weights: Callable[[], ModelWeights],
    team: Team,
    key: str,
    work_folder: Path | None,
    watch: Watch,
) -> Trained:
    """The tensors at the end of a job, trained by this process as a member of its team."""
    try:
        network = network_of(weights(), trainable=True, device=team.device)
        batches = Batches(job.traces.items, job.traces.settings, job.recipe.batch_tokens, job.seed, team, job.loss)
        objective = _function(job.objective)(network, batches, job.settings)
        return train(
            network,
            objective.loss_at,
            job.steps,
            job.recipe,
            companions=objective.companions,
            team=team,
            positions_at=objective.positions_at or batches.positions_at,
            work_folder=work_folder,
            key=key,
            on_progress=watch.on_progress,
            on_note=watch.on_note,
        )
    except torch.OutOfMemoryError as error:
        raise BadRequest(
            f"the memory of {team.device} does not suffice to train on it (weights, gradients and two moments in fp32, "
            "and a batch's activations): choose a smaller source, or --train-device cpu"
        ) from error


def _function(name: str) -> MakeTrainingObjective:
    module, _, function = name.partition(":")
    found: MakeTrainingObjective = getattr(import_module(module), function)
    return found
