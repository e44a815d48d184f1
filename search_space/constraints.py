"""Hard limits on a candidate.  A violation is a positive number: by how much the limit is exceeded, relative to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from autotune.candidate import Build, Candidate

WORKER_MEMORY = "a worker's memory"


@dataclass(frozen=True)
class Constraints:
    """Limits a shipped draft must keep; None is no limit.  `context_tokens` is the cache that memory is counted for."""

    context_tokens: int
    max_memory_bytes: int | None = None
    max_parameters: int | None = None
    max_round_s: float | None = None
    worker_bytes: int | None = None
    """Memory that a worker may take, which a program must fit into to be measured at all."""
    memory_per_weight: Mapping[str, float] = field(default_factory=dict)
    """By backend: memory of a running program over its weights' bytes; 1 where it is not listed."""

    def before_build(self, candidate: Candidate) -> dict[str, float]:
        """Excess over each limit that is known without compiling; ≤ 0 is kept."""
        excess: dict[str, float] = {}
        if self.max_memory_bytes is not None:
            excess["memory"] = candidate.memory_bytes(self.context_tokens) / self.max_memory_bytes - 1
        if self.max_parameters is not None:
            excess["parameters"] = candidate.shape.parameters / self.max_parameters - 1
        if self.worker_bytes is not None:
            excess[WORKER_MEMORY] = self.program_bytes(candidate.build) / self.worker_bytes - 1
        return excess

    def program_bytes(self, build: Build) -> int:
        """Memory that the build's program takes where it runs, its cache included."""
        per_weight = self.memory_per_weight.get(build.backend, 1.0)
        cache = build.shape.kv_bytes_per_token * self.context_tokens
        return int(build.shape.weight_bytes(build.precision) * per_weight) + cache

    def after_measuring(self, round_s: float) -> dict[str, float]:
        """Excess over the limit of a round's latency; ≤ 0 is kept."""
        if self.max_round_s is None:
            return {}
        return {"round latency": round_s / self.max_round_s - 1}


def violated(excess: dict[str, float]) -> list[str]:
    """Names of the limits that are exceeded."""
    return [name for name, amount in excess.items() if amount > 0]
