"""The training loop of the package: AdamW on a network's tensors, deterministic, resumable and watchful of NaN."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

from autotune.errors import TrainingDiverged
from autotune.proxy.batches import Batch
from autotune.proxy.network import Network, head_logits, hidden_states
from autotune.proxy.parts import BATCH_TOKENS, Part
from autotune.tensor_file import open_tensors, write_tensors

logger = logging.getLogger(__name__)

Progress = Callable[[float], None]
"""Called with the finished share of the work, 0 … 1."""

_CHECKPOINT = "training.safetensors"


@dataclass(frozen=True)
class Recipe:
    """How the optimiser works.

    Neither weight decay nor an average of the weights is used: with a rate that falls to zero, both left the
    acceptance of drafts where it was.
    """

    learning_rate: float = 1.5e-3
    batch_tokens: int = BATCH_TOKENS
    warmup_steps: int = 20
    decay_share: float = 0.5
    """Share of the steps, at the end, over which the learning rate falls to zero."""
    clip_norm: float = 1.0
    checkpoint_steps: int = 50

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step (0 … steps - 1): linear warm-up, constant, linear decay."""
        warmup = (step + 1) / max(self.warmup_steps, 1)
        decay = (steps - step) / max(self.decay_share * steps, 1.0)
        return self.learning_rate * min(1.0, warmup, decay)


@dataclass(frozen=True)
class Trained:
    """The weights at the end, or at the last checkpoint before the loss became NaN or infinite."""

    tensors: Mapping[str, Tensor]
    diverged_at_step: int | None


def part_loss(network: Network, batch: Batch, part: Part, temperature: float) -> Tensor:
    """Mean cross-entropy of a part's predictions with the batch's labels.

    The draft will be sampled at the workload's temperature (0: greedy), so that is where it must match.  Labels are
    token ids, so the head must be whole: a draft is trimmed after its training.
    """
    if network.token_ids is not None:
        raise ValueError("a trimmed head cannot be trained")
    learned = batch.labels >= 0
    logits = head_logits(network, hidden_states(network, batch.tokens, part)[learned])
    return F.cross_entropy(logits / temperature if temperature else logits, batch.labels[learned])


def train(
    network: Network,
    loss_at: Callable[[int], Tensor],
    steps: int,
    recipe: Recipe,
    *,
    work_folder: Path | None = None,
    on_progress: Progress | None = None,
) -> Trained:
    """The network's tensors after `steps` steps on `loss_at(step)`; continues from `work_folder` if it holds a start.

    `loss_at` must be a function of its argument and the network's tensors alone: then a training that was killed and
    continued ends with the same weights.  Raises TrainingDiverged if there is no good checkpoint to fall back on.
    """
    run = _Run(network.tensors, recipe)
    path = work_folder / _CHECKPOINT if work_folder else None
    if path and path.exists():
        run.load(path)
        logger.info("training continues at step %d of %d", run.step, steps)
    good = run.snapshot() if run.step else None
    while run.step < steps:
        loss = loss_at(run.step)
        if not run.update(loss, recipe.rate(run.step, steps)):
            return _fall_back(good, run.step)
        if run.step % recipe.checkpoint_steps == 0 or run.step == steps:
            good = run.snapshot()
            if path:
                run.save(path)
        if on_progress:
            on_progress(run.step / steps)
    return Trained(run.snapshot() if good is None else good, None)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """A block in which torch computes with that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fall_back(good: dict[str, Tensor] | None, step: int) -> Trained:
    if good is None:
        raise TrainingDiverged(
            f"the training loss became NaN or infinite at step {step}: try another --seed, or --proxy pruned"
        )
    logger.warning("the training loss became NaN or infinite at step %d: the last good weights are kept", step)
    return Trained(good, step)


class _Run:
    """Tensors under training, their optimiser, and the number of steps done."""

    def __init__(self, tensors: Mapping[str, Tensor], recipe: Recipe) -> None:
        self.step = 0
        self._tensors = tensors
        self._recipe = recipe
        self._optimizer = torch.optim.AdamW(
            tensors.values(), recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )

    def update(self, loss: Tensor, learning_rate: float) -> bool:
        """Whether the step was made; a loss or gradient that is not finite leaves everything as it was."""
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._tensors.values(), self._recipe.clip_norm)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            return False
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self.step += 1
        return True

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the weights."""
        return {name: tensor.detach().clone() for name, tensor in self._tensors.items()}

    def save(self, path: Path) -> None:
        """Write everything `load` needs."""
        arrays = {}
        for name, tensor in self._tensors.items():
            arrays[f"{name}|weight"] = tensor.detach().numpy()
            for kind, value in self._optimizer.state.get(tensor, {}).items():
                arrays[f"{name}|{kind}"] = value.numpy()
        write_tensors(path, arrays, {"step": str(self.step)})

    def load(self, path: Path) -> None:
        """Take up the state `save` wrote."""
        file = open_tensors(path)
        self.step = int(file.metadata["step"])
        for key, stored in file.tensors.items():
            name, _, kind = key.partition("|")
            value = torch.from_numpy(np.array(stored.read()))
            if kind == "weight":
                with torch.no_grad():
                    self._tensors[name].copy_(value)
            else:
                self._optimizer.state[self._tensors[name]][kind] = value
