"""The Pareto front of rounds: shorter (seconds) and richer (tokens) is better."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from autotune.results import Score

Item = TypeVar("Item")


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


def hypervolume(scores: Sequence[Score], longest_round_s: float, fewest_tokens: float = 1.0) -> float:
    """The area (seconds · tokens) of what the scores' front dominates up to a reference point.

    The reference is a round of `longest_round_s` that emits `fewest_tokens`; a score that is not better than it in both
    adds nothing.  Between two points the front is a step, as no program runs there.
    """
    area, poorer = 0.0, fewest_tokens
    for score in pareto_front(scores, lambda score: score):
        tokens, spare_s = score.tokens_per_round.value, longest_round_s - score.round_s.value
        if tokens > poorer and spare_s > 0.0:
            area += (tokens - poorer) * spare_s
            poorer = tokens
    return area


def best_by_speed(items: Sequence[Item], score: Callable[[Item], Score]) -> list[Item]:
    """The items by descending predicted tokens per second."""
    return sorted(items, key=lambda item: -score(item).tokens_per_s.value)
