"""Tokens per round that others published, shown beside a plan's stand-in and never mixed with it (data)."""

from autotune.paper.published import DRAFTS, SECOND_HAND
from autotune.reports.facts import PublishedTar

_PAPER = f"Decoding Speculative Decoding (arXiv 2402.01528), {SECOND_HAND}; k unknown"

PUBLISHED = tuple(
    PublishedTar("LLaMA-65B", name, str(draft.shape), draft.tokens_per_round, _PAPER)
    for name, draft in DRAFTS.items()
    if draft.tokens_per_round is not None
)
