"""Training batches of traces: sequences of similar length together, the order a function of seed and step alone.

Beside the labels they carry, for losses that learn from them, the target's other likely tokens as far as traces hold
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.alternatives import no_alternatives, padded_alternatives
from autotune.proxy.loss_choice import Loss, best_loss
from autotune.proxy.team import Team
from autotune.sampling import SamplingSettings
from autotune.traces import Trace

IGNORED = -100
"""Label of positions that carry no loss (what `cross_entropy` ignores by default)."""

_BUCKET_TOKENS = 32
"""Sequences whose lengths differ by less may share a batch, so that padding stays small and batches still vary."""


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences and what the draft should predict after each token."""

    tokens: Tensor
    """`[sequences, length]` int64."""
    labels: Tensor
    """`[sequences, length]` int64; `IGNORED` where there is nothing to learn."""
    alternatives: Tensor | None = None
    """`[sequences, length, M]` int64 the target's likeliest next tokens, -1 behind the last; None where none of the
    traces has any, or the loss needs none."""
    logprobs: Tensor | None = None
    """`[sequences, length, M]` their log-probabilities, -inf behind the last."""
    loss: Loss = Loss.CE
    """What is to be minimised."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        alternatives = None if self.alternatives is None else self.alternatives.to(device)
        logprobs = None if self.logprobs is None else self.logprobs.to(device)
        return Batch(self.tokens.to(device), self.labels.to(device), alternatives, logprobs, self.loss)


def labels_of(trace: Trace, settings: SamplingSettings) -> NDArray[np.int64]:
    """What a draft should predict after each token of prompt + continuation `[P + T]`; the last is ignored.

    Greedy workloads: the target's arg-max at every position, prompt included, as far as it is known.  Sampled
    workloads: the trace's own continuation, which is drawn from the distribution to be matched.
    """
    labels = np.full(len(trace.prompt) + len(trace.continuation), IGNORED, np.int64)
    if settings.greedy:
        labels[:-1] = np.where(trace.top[1:] < 0, IGNORED, trace.top[1:])
    else:
        labels[len(trace.prompt) - 1 : -1] = trace.continuation
    return labels


class Batches:
    """Batches of at most `batch_tokens` padded tokens (but at least one sequence), epoch after epoch.

    A member of a team of processes gets its share of every batch: every `team.count`-th sequence.
    """

    def __init__(
        self,
        traces: Sequence[Trace],
        settings: SamplingSettings,
        batch_tokens: int,
        seed: int,
        team: Team | None = None,
        loss: Loss | None = None,
    ) -> None:
        """loss: what is to be minimised; the best for such traces if None."""
        self.settings = settings
        self.team = team or Team()
        self.loss = loss or best_loss(settings, [trace.alternatives is not None for trace in traces])
        self._tokens = [np.concatenate([trace.prompt, trace.continuation]).astype(np.int64) for trace in traces]
        self._labels = [labels_of(trace, settings) for trace in traces]
        self._alternatives = [
            trace.alternatives if trace.alternatives and self.loss is not Loss.CE else no_alternatives(len(trace.top))
            for trace in traces
        ]
        self._known = [
            int(np.count_nonzero((labels[:-1] != IGNORED) | (alternatives.counts[1:] > 0)))
            for labels, alternatives in zip(self._labels, self._alternatives, strict=True)
        ]
        self._lengths = np.array([len(tokens) for tokens in self._tokens])
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._plan: list[NDArray[np.int64]] = []
        self._epochs = 0

    def at(self, step: int) -> Batch:
        """The batch of a training step, or this process's share of it, which must not be empty."""
        members = self._members(step)
        tokens = np.zeros((len(members), self._lengths[members].max()), np.int64)
        labels = np.full(tokens.shape, IGNORED, np.int64)
        for row, member in enumerate(members):
            tokens[row, : self._lengths[member]] = self._tokens[member]
            labels[row, : self._lengths[member]] = self._labels[member]
        alternatives, logprobs = self._padded_alternatives(members, tokens)
        batch = Batch(torch.from_numpy(tokens), torch.from_numpy(labels), alternatives, logprobs, self.loss)
        return batch.to(self.team.device)

    def positions_at(self, step: int) -> int:
        """Positions to learn from of this process's share of a step: 0 if there are fewer sequences than processes."""
        return sum(self._known[member] for member in self._members(step))

    def _members(self, step: int) -> NDArray[np.int64]:
        """The sequences of this process's share of a step."""
        while len(self._plan) <= step:
            self._plan.extend(self._plan_epoch(self._epochs))
            self._epochs += 1
        return self._plan[step][self.team.rank :: self.team.count]

    def _padded_alternatives(
        self, members: NDArray[np.int64], tokens: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """What the target would have put behind each of the batch's tokens, and how likely."""
        width = max(int(self._alternatives[member].counts.max(initial=0)) for member in members)
        if width == 0:
            return None, None
        alternatives = np.full((*tokens.shape, width), -1, np.int64)
        logprobs = np.full((*tokens.shape, width), -np.inf, np.float32)
        for row, member in enumerate(members):
            # Traces say what a position holds, batches what comes behind it.
            behind = slice(0, self._lengths[member] - 1)
            these, their_logprobs = padded_alternatives(self._alternatives[member], width)
            alternatives[row, behind], logprobs[row, behind] = these[1:], their_logprobs[1:]
        return torch.from_numpy(alternatives), torch.from_numpy(logprobs)

    def _plan_epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        """The members of every batch of an epoch: each sequence once, neighbours in length together."""
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._lengths))
        order = order[np.argsort(self._lengths[order] // _BUCKET_TOKENS, kind="stable")]
        groups: list[list[int]] = []
        longest = 0
        for member in order:
            longest = max(longest, self._lengths[member])
            if not groups or (len(groups[-1]) + 1) * longest > self._batch_tokens:
                groups.append([])
                longest = self._lengths[member]
            groups[-1].append(member)
        return [np.array(groups[index]) for index in rng.permutation(len(groups))]
