"""From the latencies of slices of a model to the whole model's: which slices, what each counts, and how sure it is.

A program's time is taken as  outer + layers · layer , where outer is what does not grow with the layers: the call, the
embedding and the head.  Each way to slice a model is a weighted sum of programs' seconds that comes to the whole's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from autotune.shape import DraftShape

REPLICATES = 200
"""Bootstrap replicates of each figure."""
_SMALL_VOCAB = 256
_SMALL_FFN = 64

SamplesByLength = Sequence[Sequence[float]]
"""Seconds `[N][samples]` of n = 1 … N; sample i of every n, and of every program beside it, was taken in round i."""


class Slicing(StrEnum):
    """A way to slice a model."""

    PAIR = "pair"
    """One and two layers with the whole head: the second layer is what a layer costs."""
    TRIMMED_PAIR = "trimmed-pair"
    """One and two layers with next to no head; the head by itself, in another worker."""
    SINGLE = "single"
    """One layer, and next to none, with next to no head: least memory.  The head by itself."""


@dataclass(frozen=True)
class Slice:
    """A program to measure, and how many times its seconds count in the whole model's."""

    shape: DraftShape
    weight: float


SliceGroup = tuple[Slice, ...]
"""Slices measured in turn in one worker, so that a machine that changes speed changes all of them alike."""


def slices_of(shape: DraftShape, slicing: Slicing) -> tuple[SliceGroup, ...]:
    """The groups of slices whose weighted seconds add up to those of the model of that shape."""
    layers = shape.layers
    if slicing is Slicing.PAIR:
        return ((Slice(replace(shape, layers=1), 2 - layers), Slice(replace(shape, layers=2), layers - 1)),)
    headless = replace(shape, vocab=min(shape.vocab, _SMALL_VOCAB), draft_vocab=None)
    head_alone = replace(shape, layers=1, heads=1, kv_heads=1, ffn=_SMALL_FFN)
    nothing = replace(head_alone, vocab=headless.vocab, draft_vocab=None)
    head = (Slice(head_alone, 1), Slice(nothing, -1))
    if slicing is Slicing.TRIMMED_PAIR:
        return ((Slice(replace(headless, layers=1), 2 - layers), Slice(replace(headless, layers=2), layers - 1)), head)
    # A small layer stands where there should be none; two of them less one say what to take off for it.
    one = (
        Slice(replace(headless, layers=1), layers),
        Slice(nothing, -2 * (layers - 1)),
        Slice(replace(nothing, layers=2), layers - 1),
    )
    return (one, head)


def whole_seconds(groups: Sequence[Sequence[tuple[float, SamplesByLength]]], seed: int = 0) -> NDArray[np.float64]:
    """Bootstrap replicates `[N, REPLICATES]` of the whole model's median seconds.

    groups: of each group, its slices' weights and samples.  A round's samples are added up before a median is taken,
    and rounds are drawn whole, so that what slows a round down does not count as a difference between its slices.
    """
    rng = np.random.default_rng(seed)
    total: NDArray[np.float64] | None = None
    for group in groups:
        weighted = sum(weight * np.asarray(samples, np.float64) for weight, samples in group)
        sums = np.asarray(weighted)  # [N, rounds]
        drawn = rng.integers(sums.shape[1], size=(REPLICATES, sums.shape[1]))
        medians = np.median(sums[:, drawn], axis=-1)  # [N, REPLICATES]
        total = medians if total is None else total + medians
    if total is None:
        raise ValueError("no slices")
    return total


def lengths_to_time(largest: int) -> tuple[int, ...]:
    """The n of 1 … `largest` that are timed where a step is slow: 1, 2, 3, 5, 9, 17 … and the largest."""
    powers = [1] + [1 + (1 << power) for power in range(largest.bit_length())]
    return tuple(sorted({n for n in powers if n < largest} | {largest}))


def fill_between(samples_s: Mapping[int, Sequence[float]], largest: int) -> tuple[tuple[float, ...], ...]:
    """Samples of n = 1 … `largest` from those of some n, the first and last among them.

    Between two timed lengths, sample i lies on the straight line between their samples i, taken in the same round.
    """
    timed = sorted(samples_s)
    if timed[:1] != [1] or timed[-1] != largest:
        raise ValueError(f"lengths 1 and {largest} must be among those timed, which are {timed}")
    rounds = np.array([samples_s[n] for n in timed])  # [timed, rounds]
    filled = [np.interp(np.arange(1, largest + 1), timed, column) for column in rounds.T]
    return tuple(tuple(float(seconds) for seconds in row) for row in np.transpose(filled))
