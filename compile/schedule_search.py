"""The search for a faster schedule of one product: at random, then around the best found (pure; no TVM, no clock).

Why not TVM's MetaSchedule: a program is one function of hand-scheduled kernels whose row count is known only when it
runs and whose weights lie in one block of memory, and MetaSchedule schedules whole functions of fixed sizes.  Besides,
with apache-tvm 0.27 and apache-tvm-ffi 0.1.15 it crashes: its mutators and databases write expressions as JSON, and
`tvm.ir.save_json(tvm.tirx.IntImm("int32", 1))` is a segmentation fault there (not with apache-tvm-ffi 0.1.14).

Every candidate is timed against the best so far, side by side, so that a machine that changes speed changes both.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from autotune.compile.schedule import Schedule

CHOICES: dict[str, Sequence[Any]] = {
    "single_row_sums": (1, 2, 4, 8),
    "unroll": (1, 2, 4),
    "prefetch_bytes": (0, 512, 2048, 8192),
    "parallel": (True, False),
}
RANDOM_TRIALS = 6
"""Schedules drawn from everywhere before the neighbours of the best are tried."""
LEAST_GAIN = 1.01
"""A schedule replaces the best so far only if it is faster by this factor: less is noise."""

Race = Callable[[Schedule, Schedule], float | None]
"""How many times faster the second schedule is than the first; None if it cannot be built or run."""


@dataclass(frozen=True)
class Found:
    """The best schedule of a search, and how many were timed."""

    schedule: Schedule
    tried: int


def search(start: Schedule, race: Race, more: Callable[[], bool], seed: int) -> Found:
    """The best schedule found until `more()` says no or nothing is left to try."""
    best, seen, tried = start, {start}, 0
    drawn = _shuffled(start, seed)
    while more():
        candidate = _next(best, seen, drawn, tried)
        if candidate is None:
            break
        seen.add(candidate)
        tried += 1
        gain = race(best, candidate)
        if gain is not None and gain >= LEAST_GAIN:
            best = candidate
    return Found(best, tried)


def neighbours(schedule: Schedule) -> Iterator[Schedule]:
    """The schedules that differ in one property; the threads first, where the most is at stake."""
    for name in reversed([field.name for field in fields(Schedule)]):
        for value in CHOICES[name]:
            if value != getattr(schedule, name):
                yield replace(schedule, **{name: value})


def _next(best: Schedule, seen: set[Schedule], drawn: Iterator[Schedule], tried: int) -> Schedule | None:
    """The next schedule not seen yet: a random one at first, then a neighbour of the best, then any."""
    if tried >= RANDOM_TRIALS:
        for candidate in neighbours(best):
            if candidate not in seen:
                return candidate
    return next((candidate for candidate in drawn if candidate not in seen), None)


def _shuffled(start: Schedule, seed: int) -> Iterator[Schedule]:
    """All schedules in random order."""
    every = [replace(start, **dict(zip(CHOICES, values, strict=True))) for values in product(*CHOICES.values())]
    random.Random(seed).shuffle(every)
    return iter(every)
