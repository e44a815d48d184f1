"""The training loop of the package: AdamW on a network's tensors, deterministic, resumable and watchful of NaN."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from autotune.cache import content_key
from autotune.errors import TrainingDiverged
from autotune.proxy.batches import Batch
from autotune.proxy.checkpoint import CheckpointRefused, read_checkpoint, write_checkpoint
from autotune.proxy.losses import Lesson, distillation_loss
from autotune.proxy.network import Network, head_logits, hidden_states
from autotune.proxy.parts import BATCH_TOKENS, Part
from autotune.proxy.team import Team

logger = logging.getLogger(__name__)

Progress = Callable[[float], None]
"""Called with the finished share of the work, 0 … 1."""

Note = Callable[[str], None]
"""Called with a sentence worth knowing."""

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
class Companions:
    """Tensors that are trained beside a network's own, at a rate of their own."""

    tensors: Mapping[str, Tensor]
    """By names that the network does not use."""
    learning_rate: float
    """At its height; it rises and falls as the recipe's does."""
    ascend: bool = False
    """Whether they climb the loss, as Lagrange multipliers do, instead of descending it."""
    bound: float | None = None
    """After every step they are brought back to within ± this."""


@dataclass(frozen=True)
class Trained:
    """The weights at the end, or at the last checkpoint before the loss became NaN or infinite."""

    tensors: Mapping[str, Tensor]
    """The network's, and those of its companions."""
    diverged_at_step: int | None
    step: int
    """How many steps the weights are the result of."""


def part_loss(network: Network, batch: Batch, part: Part, temperature: float) -> Tensor:
    """Mean of the batch's loss of a part's predictions, over the positions of the batch where the target's are known.

    The draft will be sampled at the workload's temperature (0: greedy), so that is where it must match.  What is known
    of the target is said in token ids, so the head must be whole: a draft is trimmed after its training.
    """
    if network.token_ids is not None:
        raise ValueError("a trimmed head cannot be trained")
    lesson = Lesson(batch.labels, batch.alternatives, batch.logprobs)
    learned = lesson.known_to(batch.loss)
    logits = head_logits(network, hidden_states(network, batch.tokens, part)[learned])
    return distillation_loss(batch.loss, logits, lesson.at(learned), temperature)


def train(
    network: Network,
    loss_at: Callable[[int], Tensor],
    steps: int,
    recipe: Recipe,
    *,
    companions: Sequence[Companions] = (),
    team: Team | None = None,
    positions_at: Callable[[int], int] | None = None,
    work_folder: Path | None = None,
    key: str = "",
    on_progress: Progress | None = None,
    on_note: Note = logger.warning,
) -> Trained:
    """The network's tensors after `steps` steps on `loss_at(step)`; continues from `work_folder` if it holds a start.

    `loss_at` must be a function of its argument and the network's tensors alone: then a training that was killed and
    continued ends with the same weights.  `key` names whatever else makes them; a checkpoint of another key, recipe or
    number of steps is passed over with a note, as a damaged one is.  Raises TrainingDiverged if the loss becomes NaN
    or infinite before there is a good checkpoint to fall back on.

    In a team of several processes, each calls this, and all end with the same weights, up to rounding those of one
    process: `loss_at` is then the mean over the `positions_at(step)` positions of this process's share of the step,
    and is not asked where it has none.  The team's first process writes the checkpoints.
    """
    team = team or Team()
    run = _Run(network.tensors, recipe, companions, team)
    path = work_folder / _CHECKPOINT if work_folder else None
    whole_key = content_key(key, asdict(recipe), steps)
    if path and path.exists():
        try:
            run.step = read_checkpoint(path, run.tensors, run.optimizer, whole_key)
            logger.info("training continues at step %d of %d", run.step, steps)
        except CheckpointRefused as refusal:
            on_note(f"{refusal}: the training begins anew")
    good = run.good() if run.step else None
    while run.step < steps:
        positions = positions_at(run.step) if positions_at and team.count > 1 else 1
        with team.computing():
            loss = loss_at(run.step) if positions else None
        if not run.update(loss, positions, recipe.rate(run.step, steps)):
            return _fall_back(good, run.step, steps, on_note)
        if run.step % recipe.checkpoint_steps == 0 or run.step == steps:
            if not run.finite():
                return _fall_back(good, run.step, steps, on_note)
            good = run.good()
            if path and team.leads:
                write_checkpoint(path, run.tensors, run.optimizer, run.step, whole_key)
        if on_progress:
            on_progress(run.step / steps)
    return run.good() if good is None else good


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """A block in which torch computes with that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fall_back(good: Trained | None, step: int, steps: int, on_note: Note) -> Trained:
    what = f"the training loss became NaN or infinite at step {step} of {steps}"
    if good is None:
        raise TrainingDiverged(f"{what}: try another --seed, or --proxy pruned")
    on_note(f"{what}: the last good weights, of step {good.step}, are kept")
    return replace(good, diverged_at_step=step)


class _Run:
    """Tensors under training, their optimiser, and the number of steps done."""

    def __init__(
        self, tensors: Mapping[str, Tensor], recipe: Recipe, companions: Sequence[Companions], team: Team
    ) -> None:
        self.step = 0
        self.tensors = {**tensors, **{name: tensor for each in companions for name, tensor in each.tensors.items()}}
        self._recipe = recipe
        self._team = team
        groups = [Companions(tensors, recipe.learning_rate), *companions]
        self._bounds = [(tensor, each.bound) for each in companions if each.bound for tensor in each.tensors.values()]
        self._shares = [group.learning_rate / recipe.learning_rate for group in groups]
        self.optimizer = torch.optim.AdamW(
            [{"params": list(group.tensors.values()), "maximize": group.ascend} for group in groups],
            recipe.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=0.0,
            fused=True,
        )

    def update(self, loss: Tensor | None, positions: int, learning_rate: float) -> bool:
        """Whether the step was made; a loss or gradient that is not finite leaves everything as it was.

        loss: the mean over this process's positions; None if it has none.
        """
        self.optimizer.zero_grad()
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]
        if loss is None or self._team.count > 1:
            loss = self._team.pool(list(self.tensors.values()), loss, positions)
        # Each group by itself: what pulls at multipliers must not hold back weights.
        groups = self.optimizer.param_groups
        norms = [torch.nn.utils.clip_grad_norm_(group["params"], self._recipe.clip_norm) for group in groups]
        if not all(torch.isfinite(value) for value in (loss, *norms)):
            return False
        for group, share in zip(groups, self._shares, strict=True):
            group["lr"] = learning_rate * share
        self.optimizer.step()
        with torch.no_grad():
            for tensor, bound in self._bounds:
                tensor.clamp_(-bound, bound)
        self.step += 1
        return True

    def finite(self) -> bool:
        """Whether every weight is a finite number."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in self.tensors.values())

    def good(self) -> Trained:
        """A copy of the weights, in the machine's own memory."""
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.tensors.items()}
        return Trained(copies, None, self.step)
