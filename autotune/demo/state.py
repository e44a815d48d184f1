"""A training's state on disk: weights, optimiser moments and step in one safetensors file, replaced atomically."""

from pathlib import Path

import torch
from torch import Tensor, nn

from autotune.tensor_file import open_tensors, write_tensors

_MOMENTS = ("exp_avg", "exp_avg_sq")


def new_optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    vectors = [weight for weight in model.parameters() if weight.dim() != 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.AdamW, step: int, seconds: float) -> None:
    """Write the state after `step` updates, which took `seconds`; before the first update, moments are zero."""
    arrays: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        arrays[f"weight.{name}"] = weight.detach()
        for moment in _MOMENTS:
            arrays[f"{moment}.{name}"] = optimizer.state[weight].get(moment, torch.zeros_like(weight))
    metadata = {"step": str(step), "seconds": f"{seconds:.3f}"}
    write_tensors(path, {name: array.cpu().numpy() for name, array in arrays.items()}, metadata)


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.AdamW | None = None) -> tuple[int, float]:
    """Step and seconds of a state, after copying it into the model and, if given, the optimiser."""
    file = open_tensors(path)
    step = int(file.metadata["step"])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.tensor(file.tensors[f"weight.{name}"].read()))
            if optimizer is not None:
                state = optimizer.state[weight]
                state["step"] = torch.tensor(float(step), device=weight.device)
                for moment in _MOMENTS:
                    state[moment] = torch.tensor(file.tensors[f"{moment}.{name}"].read(), device=weight.device)
    return step, float(file.metadata["seconds"])
