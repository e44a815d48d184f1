"""Objectives of training jobs that record what they see, or fail."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from autotune.proxy.batches import Batches
from autotune.proxy.finish import whole_objective
from autotune.proxy.network import Network
from autotune.proxy.training_job import TrainingObjective


def recording(network: Network, batches: Batches, settings: Mapping[str, Any]) -> TrainingObjective:
    """That of a whole draft; adds, for every step, a line with the weights' checksum to a file of its process's."""
    whole = whole_objective(network, batches, {})
    file = Path(settings["folder"]) / f"process-{batches.team.rank}"

    def loss_at(step: int) -> Tensor:
        checksum = 0
        for tensor in network.tensors.values():
            checksum = zlib.crc32(tensor.detach().cpu().numpy().tobytes(), checksum)
        with file.open("a") as lines:
            lines.write(f"{step} {checksum:08x}\n")
        return whole.loss_at(step)

    return TrainingObjective(loss_at)


def failing(network: Network, batches: Batches, settings: Mapping[str, Any]) -> TrainingObjective:
    """Raises in the second process alone, while the first waits for its gradients."""
    whole = whole_objective(network, batches, {})

    def loss_at(step: int) -> Tensor:
        if batches.team.rank == 1:
            raise ValueError("an unforeseen shape")
        return whole.loss_at(step)

    return TrainingObjective(loss_at)


def diverging(network: Network, batches: Batches, settings: Mapping[str, Any]) -> TrainingObjective:
    """NaN from the step that the settings name."""
    whole = whole_objective(network, batches, {})
    return TrainingObjective(lambda step: whole.loss_at(step) * (1.0 if step < settings["step"] else float("nan")))
