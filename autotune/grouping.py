"""Groups of things that must stay together: finding them, and choosing some for one side (NumPy only)."""

from collections.abc import Hashable, Iterable

import numpy as np
from numpy.typing import NDArray

_TOTAL_WEIGHT = 4.0
"""How much more the number of all members counts than that of each kind."""


def linked(count: int, labels: Iterable[tuple[int, Hashable]]) -> list[int]:
    """For each of `count` members the smallest member of its group; who share a label belong to one group."""
    leader = list(range(count))

    def find(member: int) -> int:
        while leader[member] != member:
            leader[member] = leader[leader[member]]
            member = leader[member]
        return member

    first: dict[Hashable, int] = {}
    for member, label in labels:
        ours, theirs = find(member), find(first.setdefault(label, member))
        leader[max(ours, theirs)] = min(ours, theirs)
    return [find(member) for member in range(count)]


def choose_groups(
    counts: NDArray[np.int64], share: float, most: int, bound: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Which groups `[G]` together come near `share` of all members and of each kind: those `bound`, and some others.

    counts: [G, kinds] members of each group by kind.  At least one group is chosen, and at most `most` members, which
    those bound must not exceed.  Greedy in an order drawn from `rng`, then by single exchanges as long as they help,
    so that an exact optimum is not promised.
    """
    sizes = counts.sum(1)
    weighted = np.column_stack([counts, sizes * _TOTAL_WEIGHT**0.5])
    free = np.flatnonzero(~bound)[rng.permutation(np.count_nonzero(~bound))]
    # Groups with equal counts are one another's equals, so exchanges are tried between sorts of groups.
    sorts, sort_of = np.unique(weighted[free], axis=0, return_inverse=True)
    sort_of = sort_of.reshape(-1)
    sort_size = np.zeros(len(sorts), np.int64)
    sort_size[sort_of] = sizes[free]
    spare = np.bincount(sort_of, minlength=len(sorts))
    taken = np.zeros_like(spare)
    missing = share * weighted.sum(0) - weighted[bound].sum(0)
    room = most - int(sizes[bound].sum())
    for sort in sort_of:
        if sort_size[sort] <= room and _cost(missing - sorts[sort]) < _cost(missing):
            taken[sort] += 1
            missing, room = missing - sorts[sort], room - int(sort_size[sort])
    nothing = np.zeros((1, weighted.shape[1]))
    while True:
        into, out = np.flatnonzero(taken < spare), np.flatnonzero(taken)
        gained = np.vstack([sorts[into], nothing])[:, None] - np.vstack([sorts[out], nothing])[None]
        grown = np.append(sort_size[into], 0)[:, None] - np.append(sort_size[out], 0)[None]
        costs = np.where(grown <= room, _cost(missing - gained), np.inf)
        if not bound.any() and taken.sum() <= 1:
            costs[-1] = np.inf  # the last one stays, or is exchanged
        least = np.unravel_index(costs.argmin(), costs.shape)
        must = not bound.any() and not taken.any()
        if not must and costs[least] >= _cost(missing) * (1.0 - 1e-9):
            break
        if least[0] < len(into):
            taken[into[least[0]]] += 1
        if least[1] < len(out):
            taken[out[least[1]]] -= 1
        missing, room = missing - gained[least], room - int(grown[least])
    chosen = bound.copy()
    for each, wanted in enumerate(taken):
        chosen[free[sort_of == each][:wanted]] = True
    return chosen


def _cost(missing: NDArray[np.float64]) -> NDArray[np.float64]:
    """The squared distance from what was wanted, `[…]` of `[…, kinds]`."""
    squares: NDArray[np.float64] = missing**2
    return np.asarray(squares.sum(-1))
