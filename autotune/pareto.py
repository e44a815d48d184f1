"""The Pareto front of rounds: shorter (seconds) and richer (tokens) is better."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from autotune.results import Score

Item = TypeVar("Item")
Point = tuple[float, float]
"""Seconds and tokens of a round."""


def pareto_front(items: Sequence[Item], score: Callable[[Item], Score]) -> list[Item]:
    """The items no other dominates, by ascending round latency; of equal points the first is kept.

    An item dominates another if its round is no longer, emits no fewer tokens, and differs in one of the two.
    """
    ordered = sorted(items, key=lambda item: (score(item).round_s.value, -score(item).tokens_per_round.value))
    front: list[Item] = []
    richest = 0.0
    for item in ordered:
        tokens = score(item).tokens_per_round.value
        if tokens > richest:
            front.append(item)
            richest = tokens
    return front


def hypervolume(points: Iterable[Point], longest_round_s: float, fewest_tokens: float = 1.0) -> float:
    """The area (seconds · tokens) of what the points' front dominates up to a reference point.

    The reference is a round of `longest_round_s` that emits `fewest_tokens`; a point that is not better than it in both
    adds nothing.  Between two points the front is a step, as no program runs there.
    """
    area, poorer = 0.0, fewest_tokens
    for round_s, tokens in sorted(points, key=lambda point: (point[0], -point[1])):
        if tokens > poorer and round_s < longest_round_s:
            area += (tokens - poorer) * (longest_round_s - round_s)
            poorer = tokens
    return area


def best_by_speed(items: Sequence[Item], score: Callable[[Item], Score]) -> list[Item]:
    """The items by descending predicted tokens per second."""
    return sorted(items, key=lambda item: -score(item).tokens_per_s.value)
