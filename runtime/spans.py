"""Which tokens a session may be given: what every session refuses, in the same words."""

from autotune.program import Program
from autotune.runtime.session import Tokens


def check_span(program: Program, cached_tokens: int, tokens: Tokens, start: int, drafted: int = 1) -> None:
    """ValueError unless the tokens may be cached from `start` on, and `drafted` tokens but the last behind them."""
    if drafted < 1:
        raise ValueError(f"a burst drafts at least one token, not {drafted}")
    if len(tokens) == 0:
        raise ValueError("no tokens given")
    if not 0 <= start <= cached_tokens:
        raise ValueError(f"start {start} is not within the {cached_tokens} positions cached so far")
    capacity, end = program.capacity_tokens, start + len(tokens) + drafted - 1
    if end > capacity:
        raise ValueError(f"position {end - 1} does not fit: the program was compiled for {capacity} tokens")


def check_capacity(program: Program, count: int) -> None:
    """ValueError unless that many positions fit into the cache."""
    if not 0 <= count <= program.capacity_tokens:
        raise ValueError(f"{count} positions do not fit: the program was compiled for {program.capacity_tokens} tokens")
