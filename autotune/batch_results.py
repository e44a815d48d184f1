"""What speculation comes to when several sequences are decoded at once."""

from dataclasses import dataclass

from autotune.results import Figure


@dataclass(frozen=True)
class BatchEntry:
    """What speculation comes to at one batch size."""

    batch: int
    lookahead: int
    """The k with the most tokens/s; 0: the target alone is fastest."""
    largest_lookahead: int
    """The largest k that is still faster than the target alone; 0: none is."""
    tokens_per_s: Figure
    """Of all sequences together, at `lookahead`."""
    speedup: Figure
    """Over the target alone at the same batch."""


@dataclass(frozen=True)
class BatchMemory:
    """Bytes that a batch takes beside the weights."""

    batch: int
    target_kv_bytes: int
    draft_kv_bytes: int
    logits_bytes: int
    """Of the verification and of a draft step."""

    @property
    def total_bytes(self) -> int:
        """All of them."""
        return self.target_kv_bytes + self.draft_kv_bytes + self.logits_bytes
