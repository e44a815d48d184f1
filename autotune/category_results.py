"""What a draft comes to on the text of one category of the workload."""

from dataclasses import dataclass

from autotune.results import Figure


@dataclass(frozen=True)
class CategoryOutcome:
    """A draft on the text of one category, at the lookahead it was validated (or is shipped) with.

    None: the category has no text to estimate on, or none that was decoded.
    """

    category: str
    traces: int
    """Texts that the estimate rests on."""
    prompts: int
    """Prompts that were decoded."""
    tar_estimated: Figure | None = None
    speedup_predicted: Figure | None = None
    best_lookahead: int | None = None
    """The k with which it would be fastest here, by its estimated TAR and measured latencies; 0: the target alone."""
    best_speedup: Figure | None = None
    """Predicted with that k."""
    tar_measured: Figure | None = None
    tokens_per_s_measured: Figure | None = None
    speedup_measured: Figure | None = None
