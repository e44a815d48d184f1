"""Tokens per round that others published, shown beside a plan's stand-in and never mixed with it (data)."""

from autotune.reports.summary import PublishedTar

_PAPER = "Decoding Speculative Decoding (arXiv 2402.01528), second-hand; k unknown"

PUBLISHED = (
    PublishedTar("LLaMA-65B", "NoFT-1.3B", "24L-16H-5504F-2048D", 3.81, _PAPER),
    PublishedTar("LLaMA-65B", "NoFT-Wide-1.3B", "12L-20H-9280F-2560D", 3.70, _PAPER),
)
