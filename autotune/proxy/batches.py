"""Training batches of traces: sequences of similar length together, the order a function of seed and step alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    """Batches of at most `batch_tokens` padded tokens (but at least one sequence), epoch after epoch."""

    def __init__(self, traces: Sequence[Trace], settings: SamplingSettings, batch_tokens: int, seed: int) -> None:
        self._tokens = [np.concatenate([trace.prompt, trace.continuation]).astype(np.int64) for trace in traces]
        self._labels = [labels_of(trace, settings) for trace in traces]
        self._lengths = np.array([len(tokens) for tokens in self._tokens])
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._plan: list[NDArray[np.int64]] = []
        self._epochs = 0

    def at(self, step: int) -> Batch:
        """The batch of a training step."""
        while len(self._plan) <= step:
            self._plan.extend(self._plan_epoch(self._epochs))
            self._epochs += 1
        members = self._plan[step]
        tokens = np.zeros((len(members), self._lengths[members].max()), np.int64)
        labels = np.full(tokens.shape, IGNORED, np.int64)
        for row, member in enumerate(members):
            tokens[row, : self._lengths[member]] = self._tokens[member]
            labels[row, : self._lengths[member]] = self._labels[member]
        return Batch(torch.from_numpy(tokens), torch.from_numpy(labels))

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
