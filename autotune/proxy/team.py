"""The processes that train together, as one of them sees them: its device, its rank, and sums over all."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

_BUCKET_NUMBERS = 1 << 22
"""About how many numbers travel at once: many small tensors together, large ones alone."""


class PeersLost(Exception):
    """Another process of the team is gone, so that nothing can be added up any more."""


@dataclass(frozen=True)
class Team:
    """One process among those that train together; by default, the only one, on the CPU."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    count: int = 1
    bf16: bool = False
    """Whether products are computed in bf16; weights, their gradients and the optimiser stay in fp32."""

    @property
    def leads(self) -> bool:
        """Whether this process writes what the team has to say."""
        return self.rank == 0

    def computing(self) -> AbstractContextManager[object]:
        """A block in which losses are computed."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def pool(self, tensors: Sequence[Tensor], loss: Tensor | None, positions: int) -> Tensor:
        """The mean loss over all processes' positions, once gradients are those of that mean in every process.

        loss: this process's mean over its `positions`, after its backward pass; None where its share was empty.  A
        gradient that no process has stays None, as it would in a single process: the optimiser then leaves the tensor
        alone.
        """
        total = 0.0 if loss is None else loss.detach().double() * positions
        touched = [float(tensor.grad is not None) for tensor in tensors]
        facts = torch.tensor([*touched, float(positions), 0.0], dtype=torch.float64, device=self.device)
        facts[-1] = total
        facts = self._sum(facts)
        everywhere, total_positions = facts[:-2].tolist(), facts[-2]
        for bucket in _buckets([tensor for tensor, count in zip(tensors, everywhere, strict=True) if count]):
            flat = torch.cat([_gradient(tensor).flatten() for tensor in bucket])
            flat = self._sum(flat.mul_(positions)).div_(total_positions)
            for tensor, mean in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.grad = mean.view_as(tensor)
        return (facts[-1] / total_positions).float()

    def _sum(self, numbers: Tensor) -> Tensor:
        """The sum over all processes."""
        from accelerate.utils import reduce

        try:
            summed: Tensor = reduce(numbers, "sum")
        except RuntimeError as error:
            raise PeersLost(f"process {self.rank} of {self.count} has lost another one: {error}") from error
        return summed


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, several at a time."""
    bucket: list[Tensor] = []
    numbers = 0
    for tensor in tensors:
        if bucket and numbers + tensor.numel() > _BUCKET_NUMBERS:
            yield bucket
            bucket, numbers = [], 0
        bucket.append(tensor)
        numbers += tensor.numel()
    if bucket:
        yield bucket


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
