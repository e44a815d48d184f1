"""Calls for sequences that stand at different places: how ragged rows become the rectangle that a program computes.

A row is given the tokens behind what it has cached.  Shorter rows than the widest are filled up behind their tokens:
what that writes into their caches lies behind the sequence, where nothing reads before it is overwritten.  A row too
near the end of its cache for that begins earlier instead, and is given again what it has cached there.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autotune.program import Program

Call = Callable[[NDArray[np.int64], Sequence[int], Sequence[int]], NDArray[Any]]
"""`logits` or `greedy` of a batch session."""


class Row(NamedTuple):
    """A sequence of a session: the tokens of its positions 0, 1, … and how many of these are cached."""

    sequence: int
    tokens: list[int]
    cached_tokens: int


def compute(call: Call, program: Program, rows: Sequence[Row], spare: Sequence[Row]) -> list[NDArray[Any]]:
    """What the call answers behind each token of the rows that was not cached: `[n of the row, …]`, views.

    spare: other sequences of the session; as many of them compute too as the next number needs that the program takes.
    """
    size = next(batch for batch in program.batches if batch >= len(rows))
    given = sorted([*rows, *spare[: size - len(rows)]])
    width = max(len(row.tokens) - row.cached_tokens for row in rows)
    tokens = np.zeros((size, width), np.int64)
    latest_start = program.capacity_tokens - width
    starts = [min(row.cached_tokens, latest_start) for row in given]
    for place, (row, start) in enumerate(zip(given, starts, strict=True)):
        known = row.tokens[start : start + width]
        tokens[place, : len(known)] = known
    answers = call(tokens, starts, [row.sequence for row in given])
    place_of = {row.sequence: place for place, row in enumerate(given)}
    return [_behind(row, answers[place_of[row.sequence]], starts[place_of[row.sequence]]) for row in rows]


def _behind(row: Row, answers: NDArray[Any], start: int) -> NDArray[Any]:
    """The answers behind the row's tokens that were not cached, of those from `start` on."""
    return answers[row.cached_tokens - start : len(row.tokens) - start]
