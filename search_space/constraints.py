"""Hard limits on a candidate.  A violation is a positive number: by how much the limit is exceeded, relative to it."""

from dataclasses import dataclass

from autotune.candidate import Candidate


@dataclass(frozen=True)
class Constraints:
    """Limits a shipped draft must keep; None is no limit.  `context_tokens` is the cache that memory is counted for."""

    context_tokens: int
    max_memory_bytes: int | None = None
    max_parameters: int | None = None
    max_round_s: float | None = None

    def before_build(self, candidate: Candidate) -> dict[str, float]:
        """Excess over each limit that is known without compiling; ≤ 0 is kept."""
        excess: dict[str, float] = {}
        if self.max_memory_bytes is not None:
            excess["memory"] = candidate.memory_bytes(self.context_tokens) / self.max_memory_bytes - 1
        if self.max_parameters is not None:
            excess["parameters"] = candidate.shape.parameters / self.max_parameters - 1
        return excess

    def after_measuring(self, round_s: float) -> dict[str, float]:
        """Excess over the limit of a round's latency; ≤ 0 is kept."""
        if self.max_round_s is None:
            return {}
        return {"round latency": round_s / self.max_round_s - 1}


def violated(excess: dict[str, float]) -> list[str]:
    """Names of the limits that are exceeded."""
    return [name for name, amount in excess.items() if amount > 0]
