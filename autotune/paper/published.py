"""What the paper published, as far as it is known, and how it is known.

`second-hand`: read in public notes on the paper that agree with each other, not in the paper itself; `derived`:
arithmetic on such figures.  What is not known is None and shown as unknown, never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from autotune.shape import DraftShape, Norm, Style

SECOND_HAND, DERIVED, UNKNOWN = "second-hand", "derived", "unknown"

VOCAB, HEAD_DIM = 32_000, 128
LLAMA_65B = DraftShape(80, 64, 64, HEAD_DIM, 8192, 22_016, VOCAB)
DEEP, WIDE = "NoFT-1.3B", "NoFT-Wide-1.3B"


@dataclass(frozen=True)
class PublishedDraft:
    """A draft of the paper with LLaMA-65B as its target; batch 1, four A100 of 80 GB."""

    shape: DraftShape
    tokens_per_round: float | None = None
    step_s: float | None = None
    tokens_per_s: float | None = None


def _noft(layers: int, heads: int, ffn: int) -> DraftShape:
    return DraftShape(layers, heads, heads, HEAD_DIM, heads * HEAD_DIM, ffn, VOCAB)


DRAFTS: Mapping[str, PublishedDraft] = {
    DEEP: PublishedDraft(_noft(24, 16, 5504), 3.81, 13.13e-3, 23.10),
    WIDE: PublishedDraft(_noft(12, 20, 9280), 3.70, 6.69e-3, 32.59),
    "NoFT-Wide-796M": PublishedDraft(_noft(5, 32, 11_008)),
    "NoFT-Wide-543M": PublishedDraft(_noft(3, 32, 11_008)),
    "NoFT-Wide-290M": PublishedDraft(_noft(1, 32, 11_008)),
}
"""Deepest first."""

_OPT_STYLE = Style(
    norm=Norm.LAYER,
    learned_positions=2048,
    gated=False,
    biases=("attn.q", "attn.k", "attn.v", "attn.o", "ffn.up", "ffn.down"),
)


def _opt(layers: int, heads: int, hidden: int) -> DraftShape:
    return DraftShape(layers, heads, heads, hidden // heads, hidden, 4 * hidden, 50_272, style=_OPT_STYLE)


OPT_DRAFTS: Mapping[str, PublishedDraft] = {
    "OPT-125M": PublishedDraft(_opt(12, 12, 768), step_s=6.23e-3),
    "OPT-1.3B": PublishedDraft(_opt(24, 32, 2048)),
    "OPT-6.7B": PublishedDraft(_opt(32, 32, 4096), step_s=18.56e-3),
}
"""Of these the paper's text gives the latencies of the smallest and the largest."""

FITTED_LOOKAHEAD = 8
"""k with which TAR / (k · t_draft + t_target) gives the published tokens/s of both 1.3 B drafts (derived)."""
FITTED_TARGET_S = 0.060
"""Seconds of LLaMA-65B's verification in that fit; two points prove nothing (derived)."""

WIDE_GAIN = 0.41
"""Share by which the wide draft's tokens/s exceed the deep one's (second-hand)."""
CACHE_CONTEXT_TOKENS = 1024
CACHE_BYTES = {DEEP: 192 << 20, WIDE: 120 << 20}
"""Key/value cache in fp16 (second-hand; "MB" there are MiB)."""
TAR_GAIN_OF_1_3B_OVER_125M = 2.0
"""Tokens per round by which a 1.3 B draft must beat a 125 M one (second-hand)."""
CONSTANT_PARAMETERS = 350e6
DEPTHS = (24, 20, 16, 12, 8, 4)
"""Layers of the drafts of equal size; the paper's go from 24 to 4, their exact shapes are unknown."""
HEADS = (16, 20, 24, 28, 32, 36)
"""Heads of the drafts of equal size and depth; the paper's go from 16 to 36, their exact shapes are unknown."""
