"""Parts of the estimation traces, each inside the next, that drafts are scored on one after the other.

The traces are put into an order in which every beginning has the categories of the whole, and a level is the traces up
to some place in it.  So the levels are nested, and what a draft came to on one is the beginning of what it comes to on
the next: only the traces in between are scored anew (see `autotune.refine`).
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from autotune.acceptance_source import AcceptanceSource, ScoredOnTraces
from autotune.traces import Trace, Traces

_SHARES = (0.25, 0.5)
"""Of all traces, on the levels below the last one."""
FEWEST_TRACES = 32
"""Of a level: an interval from fewer says little, and a small split costs little to score as a whole."""
FEWEST_OF_CATEGORY = 4
"""Traces of every category on a level."""


@dataclass(frozen=True)
class ScoringLevels:
    """The levels that builds are scored on; the last is all estimation traces."""

    sizes: tuple[int, ...]
    """Traces of each, ascending."""
    tokens: tuple[int, ...]
    """The target's tokens in these."""
    part: Callable[[int, int], AcceptanceSource]
    """Says how often a build's tokens are accepted on the traces from one place in the order to another."""


def scoring_levels(scored: ScoredOnTraces, seed: int) -> ScoringLevels | None:
    """The levels of these traces; None where they are too few to be divided."""
    traces = in_balanced_order(scored.traces, seed)
    sizes = level_sizes(traces)
    if len(sizes) == 1:
        return None

    def beginning(begin: int, end: int) -> Traces:
        return replace(traces, items=traces.items[begin:end])

    return ScoringLevels(
        sizes,
        tuple(beginning(0, size).tokens for size in sizes),
        lambda begin, end: replace(scored, traces=beginning(begin, end)),
    )


def in_balanced_order(traces: Traces, seed: int) -> Traces:
    """The traces in a seeded order whose first m have every category in its share, for every m.

    Trace j of the n in a category is put at j / n of the way, so that a category whose share is s has between
    s · (m - C) and s · m + 1 of the first m traces, C being the number of categories; and the first C are one of each.
    """
    members: dict[str, list[Trace]] = defaultdict(list)
    for trace in traces.items:
        members[trace.category].append(trace)
    rng = np.random.default_rng(seed)
    placed: list[tuple[float, str, Trace]] = []
    for category, group in sorted(members.items()):
        shuffled = [group[index] for index in rng.permutation(len(group))]
        placed.extend((place / len(group), category, trace) for place, trace in enumerate(shuffled))
    placed.sort(key=lambda each: each[:2])
    return replace(traces, items=tuple(trace for *_, trace in placed))


def level_sizes(ordered: Traces) -> tuple[int, ...]:
    """Traces of each level, ascending; the last is all of them, and the only one where there are few.

    A level has `FEWEST_TRACES` or more, and `FEWEST_OF_CATEGORY` or more of every category.
    """
    categories = [trace.category for trace in ordered.items]
    names = set(categories)

    def enough(size: int) -> bool:
        of_category = Counter(categories[:size])
        return size >= FEWEST_TRACES and min(of_category[name] for name in names) >= FEWEST_OF_CATEGORY

    parts = (round(len(categories) * share) for share in _SHARES)
    return (*(part for part in parts if enough(part)), len(categories))
