"""The floor under a round: its weights and caches, read as fast as anything of the run was read.

A step reads every weight but the tables of embeddings, and the cache, once.  The rate is the highest that any program
of the run reached with that; it is not the memory's own limit, which a run does not measure, and small models may owe
it to the processor's caches.
"""

from dataclasses import dataclass

from autotune.candidate import Build, DraftShape, Precision
from autotune.reports.facts import RunFacts
from autotune.results import Measured


@dataclass(frozen=True)
class ReadingFloor:
    """The fastest reading of a run."""

    bytes_per_s: float
    program: str
    """Whose it is."""

    def round_s(self, facts: RunFacts, build: Build | None, lookahead: int) -> float:
        """Seconds below which a round of the build cannot take at this rate; no build: a plain step of the target."""
        drafted = 0 if build is None else lookahead * _step_bytes(facts, build.shape, build.precision)
        assert facts.target_shape is not None  # or else there is no floor
        return (drafted + _step_bytes(facts, facts.target_shape, facts.target_precision)) / self.bytes_per_s


def reading_floor(facts: RunFacts) -> ReadingFloor | None:
    """The run's fastest reading; None where the target's shape is not known, or its latency is of no program here."""
    if facts.target_shape is None or facts.latency.backend is None:
        return None
    target_bytes = _step_bytes(facts, facts.target_shape, facts.target_precision)
    fastest = ReadingFloor(target_bytes / facts.latency.verify.seconds(1), "the target's")
    for record in facts.records:
        if isinstance(record.outcome, Measured):
            burst, build = record.outcome.burst, record.build
            step_s = burst.seconds(burst.largest) / burst.largest
            rate = _step_bytes(facts, build.shape, build.precision) / step_s
            if rate > fastest.bytes_per_s:
                fastest = ReadingFloor(rate, f"{build.shape}'s ({build.backend} {build.precision.value})")
    return fastest


def _step_bytes(facts: RunFacts, shape: DraftShape, precision: Precision) -> int:
    """Bytes one step reads."""
    tables = (shape.parameters - shape.decode_parameters) * precision.other_bytes
    context = facts.latency.verify.settings.context_tokens
    cache = shape.kv_bytes_per_token * context * precision.other_bytes // 4
    return shape.weight_bytes(precision) - tables + cache
